"""`edge` in 8 bits against FP32 and FP16: quality to FP32 and to ground truth, and what an engine for SM89 costs.

python -m benchmarks.int8_edge [--pairs ../shared/data/drealsr] [--calibration FOLDER] [--tile 192]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from torch import nn

from benchmarks._record import record
from training.data import Pixels
from training.evaluate_edge import held_out, quality, upscale
from zoomrt.bundle import Manifest
from zoomrt.calibration.options import Calibration
from zoomrt.export.build import build
from zoomrt.export.forms.quantisation import quantise_network
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

BUILDS = {
    "fp32 cpu": ("fp32", "cpu", None),
    "fp16 cpu": ("fp16", "cpu", None),
    "int8 cpu": ("int8", "cpu", None),
    "naive int8 cpu": ("int8-all", "cpu", "max"),
    "fp16 sm89": ("fp16", "sm89", None),
    "int8 sm89": ("int8", "sm89", None),
    "fp8 sm89": ("fp8", "sm89", None),
    "naive int8 sm89": ("int8-all", "sm89", "max"),
}
"""Precision, target, method of ranges (None: the default). Naive: every layer, ranges from minimum to maximum."""


def edge() -> nn.Module:
    assert FAMILY.embedded_weights is not None
    return FAMILY.network(load_checkpoint(FAMILY.embedded_weights))


def described(manifest: Manifest) -> dict[str, object]:
    row: dict[str, object] = {"bundle_mb": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 2)}
    if facts := manifest.calibration:
        row |= {f"{name}_psnr_to_fp32_db": value for name, value in msgspec.structs.asdict(facts.psnr_db).items()}
        row |= {"share_quantised": facts.share, "held_out_tiles": facts.held_out.count}
    for report in manifest.engine_report.values():
        row |= {
            "kernels": report.kernels,
            "eight_bit_layers": report.eight_bit_layers,
            "static_mb_per_run": round((report.static_bytes or 0) / 1e6, 1),
            "engine_mb": round(report.engine_bytes / 1e6, 2),
        }
    return row


def truth_db(network: nn.Module, pairs: list[tuple[Pixels, Pixels]]) -> float:
    """Mean PSNR to ground truth on Y, decibels."""
    return round(float(np.mean([quality(upscale(network, lr), hr)[0] for lr, hr in pairs])), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, help="folder with lr/ and hr/ (DRealSR test crops)")
    parser.add_argument("--calibration", type=Path, help="folder of pictures; the bundled photograph if left out")
    parser.add_argument("--tile", type=int, default=192)
    arguments = parser.parse_args()
    pairs = held_out(arguments.pairs)["camera_pairs"] if arguments.pairs else []
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (precision, target, method) in BUILDS.items():
            row = PRECISIONS.named(precision)
            choice = Calibration(pictures=arguments.calibration, method=method) if row.eight_bit else None
            request = BuildRequest(tile=arguments.tile, precision=precision, target=target, calibration=choice)
            path = Path(scratch) / name.replace(" ", "-")
            manifest = build(request, path, use_cache=False).manifest
            figures[name] = described(manifest)
            if pairs and precision != "fp16":
                network = edge()
                if choice is not None:
                    backend, tile = manifest.backend, manifest.tile
                    quantise_network(network, tile, choice, precision=row, backend=backend, report=lambda *_: None)
                figures[name]["psnr_to_truth_db"] = truth_db(network, pairs)
            print(name, json.dumps(figures[name]), flush=True)
    result: dict[str, object] = {"tile": arguments.tile, "camera_pairs": len(pairs), **figures}
    print(json.dumps(result, indent=2))
    print("recorded in", record("int8_edge", result, "torch", "onnxruntime", "onnx", "tensorrt_rtx"))


if __name__ == "__main__":
    main()
