"""Ranges, rounding and a whole quantised network beside NVIDIA ModelOpt's, on the CPU.

pip install nvidia-modelopt requests huggingface_hub
python -m benchmarks.modelopt_compare --pictures ../shared/data/drealsr/lr

Ranges: of one heavy-tailed tensor, by each method, with the mean squared error that rounding to them leaves.
Rounding: the same tensor through both libraries' fake quantisation with the same range.
Network: `edge` with the layers that zoomrt quantises, PSNR to FP32 on other tiles than those of the calibration.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import modelopt.torch.quantization as mtq
import torch
from modelopt.torch.quantization import calib
from modelopt.torch.quantization.tensor_quant import fake_tensor_quant
from torch import Tensor, nn

from benchmarks._record import record
from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import Tiles, pictures_of, tiles_from_pictures
from zoomrt.calibration.equalise import equalise
from zoomrt.calibration.fake_quant import INT8
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.observers import BINS, Observer
from zoomrt.calibration.placement import Placement, placement_of
from zoomrt.calibration.quantise import quantise, tile_psnrs
from zoomrt.calibration.ranges import METHODS, PERCENTILE, range_of
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

TILE = 128
SCHEMES = {
    "modelopt max": "INT8_DEFAULT_CFG",
    "modelopt smoothquant": "INT8_SMOOTHQUANT_CFG",
}


def rounding_error(x: Tensor, amax: float) -> float:
    scale = amax / 127
    return float(((x / scale).round().clamp(-128, 127) * scale - x).double().square().mean())


def ranges_beside(x: Tensor) -> dict[str, object]:
    observer = Observer(x.shape[1])
    observer.update(x, 1)
    maximum = calib.MaxCalibrator(num_bits=8, axis=None, unsigned=False)
    maximum.collect(x)
    histogram = calib.HistogramCalibrator(num_bits=8, axis=None, unsigned=False, num_bins=BINS)
    histogram.collect(x)
    theirs = {
        "max": maximum.compute_amax(),
        "percentile": histogram.compute_amax("percentile", percentile=PERCENTILE),
        "entropy": histogram.compute_amax("entropy"),
        "mse": histogram.compute_amax("mse"),
    }
    rows: dict[str, object] = {}
    for method in METHODS:
        ranges = {"zoomrt": range_of(observer, method), "modelopt": float(theirs[method])}
        errors = {f"{who}_mse": rounding_error(x, amax) for who, amax in ranges.items()}
        rows[method] = {name: float(f"{value:.5g}") for name, value in {**ranges, **errors}.items()}
    return rows


def rounding_beside(x: Tensor) -> dict[str, float]:
    amax = x.abs().amax()
    scale = INT8.scale_of(amax)
    ours = INT8.codes_of(x, scale, -127.0).float() * scale
    theirs = fake_tensor_quant(x, scale * 127)
    differ = (ours - theirs).abs() > 1e-6 * float(amax)
    return {"values": x.numel(), "codes_that_differ": int(differ.sum())}


def theirs_of(network: nn.Module, scheme: str, placement: Placement, tiles: Tiles) -> nn.Module:
    config = copy.deepcopy(getattr(mtq, SCHEMES[scheme]))

    def run(model: nn.Module) -> None:
        for tile in tiles:
            model(tile)

    quantised = mtq.quantize(copy.deepcopy(network), config, run)
    for name, module in quantised.named_modules():
        if hasattr(module, "input_quantizer") and name not in placement.quantised:
            module.input_quantizer.disable()
            module.weight_quantizer.disable()
    return quantised


def networks_beside(tiles: Tiles, held_out: Tiles) -> dict[str, object]:
    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    first = next(iter(tiles))
    placement = placement_of(
        network, layers_of(network, first), "openvino"
    )  # a scale for each channel, as ModelOpt has
    with torch.no_grad():
        wanted = [network(tile) for tile in held_out]
    rows: dict[str, object] = {}

    def note(name: str, quantised: nn.Module) -> None:
        decibels = tile_psnrs(quantised, held_out, wanted, 2.0)
        rows[name] = {"mean_db": round(sum(decibels) / len(decibels), 2), "worst_db": round(min(decibels), 2)}
        print(name, rows[name], flush=True)

    with torch.no_grad():
        for scheme in SCHEMES:
            note(scheme, theirs_of(network, scheme, placement, tiles))
    statistics = observe(network, tiles)
    for method in METHODS:
        note(f"zoomrt {method}", quantise(network, ranges_of(statistics, method), placement, INT8))
    equalise(network, statistics, first, per_channel=True)
    note("zoomrt mse, equalised", quantise(network, ranges_of(observe(network, tiles), "mse"), placement, INT8))
    return {"layers": len(placement.quantised), "share": round(placement.share, 4), **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--tiles", type=int, default=8)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    x = torch.randn(1, 32, 64, 64) * torch.exp(torch.randn(1, 32, 1, 1))
    pictures = pictures_of(given.pictures)
    tiles, held_out = (
        tiles_from_pictures(pictures, count=count, height=TILE, width=TILE, value_range=(-1.0, 1.0), seed=seed)
        for count, seed in ((given.tiles, 1), (max(2, given.tiles // 2), 2))
    )
    result = {
        "ranges": ranges_beside(x),
        "rounding": rounding_beside(x),
        "network": networks_beside(tiles, held_out),
    }
    print(json.dumps(result, indent=2))
    print("recorded in", record("modelopt_compare", result, "torch", "nvidia-modelopt"))


if __name__ == "__main__":
    main()
