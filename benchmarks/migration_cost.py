"""What it would cost to move range between channels behind a SiLU, where no norm can take the factor.

That is one multiplication for each channel between SiLU and the rounding of a convolution's input, in a built engine.

python -m benchmarks.migration_cost [--sm SM89]

Four residual blocks of the SD autoencoder's kind (128 and 256 channels, 64 x 64) in FP16, in INT8, and in INT8 with the
multiplication, written after the SiLU and inside it. Kernels and bytes are read from the engines (`plan_reader`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._record import record
from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import tiles_from_pictures
from zoomrt.calibration.fake_quant import INT8
from zoomrt.calibration.layers import layers_of, replace_layers
from zoomrt.calibration.placement import placement_of
from zoomrt.calibration.quantise import quantised_layers
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.verify.sample_tiles import PHOTOGRAPH
from zoomrt.models.half import to_half

SIDE = 64
ACTIVATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "int8": lambda x, _: F.silu(x),
    "int8, factor after SiLU": lambda x, factor: F.silu(x) * factor,
    "int8, factor inside SiLU": lambda x, factor: (x * factor) * torch.sigmoid(x),
}


class Block(nn.Module):
    def __init__(self, wide: int, out: int, activation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(32, wide), nn.GroupNorm(32, out)
        self.conv1, self.conv2 = nn.Conv2d(wide, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.shortcut = nn.Conv2d(wide, out, 1) if wide != out else nn.Identity()
        self.activation = activation
        for name, channels in (("before1", wide), ("before2", out)):
            self.register_buffer(name, torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation(self.norm1(x), self.before1))
        return self.shortcut(x) + self.conv2(self.activation(self.norm2(y), self.before2))


def network(activation: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    widths = [(128, 128), (128, 256), (256, 256), (256, 256)]
    first, last = nn.Conv2d(3, 128, 3, padding=1), nn.Conv2d(256, 3, 3, padding=1)
    return nn.Sequential(first, *(Block(wide, out, activation) for wide, out in widths), last).eval()


def engine_figures(model: nn.Module, precision: str, sm: str, folder: Path) -> dict[str, object]:
    if precision == "int8":
        tiles = tiles_from_pictures([PHOTOGRAPH], count=2, height=SIDE, width=SIDE, value_range=(-1.0, 1.0), seed=1)
        placement = placement_of(model, layers_of(model, next(iter(tiles))), "tensorrt_rtx")
        replace_layers(model, quantised_layers(model, ranges_of(observe(model, tiles), "mse"), placement, INT8))
    to_half(model)
    export_graph(model, folder / "g.onnx", shape=(1, 3, SIDE, SIDE), half=True, opset=23)
    report = build_engine(
        folder / "g.onnx",
        folder / "g.engine",
        backend="tensorrt_rtx",
        compute_capabilities=(sm,),
        precision=precision,
        timeout_s=600,
        on_progress=lambda *_: None,
    )
    assert report.static_bytes is not None
    return {
        "kernels": report.kernels,
        "static_mb_per_run": round(report.static_bytes / 1e6, 1),
        "by_kind": report.kernels_by_kind,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sm", default="SM89")
    given = parser.parse_args()
    torch.manual_seed(0)
    rows: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        rows["fp16"] = engine_figures(network(ACTIVATIONS["int8"]), "fp16", given.sm, Path(folder))
        for name, activation in ACTIVATIONS.items():
            rows[name] = engine_figures(network(activation), "int8", given.sm, Path(folder))
    print(json.dumps(rows, indent=2))
    print("recorded in", record("migration_cost", {"sm": given.sm, **rows}, "torch", "onnx", "tensorrt_rtx"))


if __name__ == "__main__":
    main()
