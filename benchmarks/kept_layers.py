"""Are the first and the last layer of `edge` worth keeping in high precision? PSNR to FP32 with them in INT8 too.

python -m benchmarks.kept_layers --pictures ../shared/data/drealsr/lr
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks._record import record
from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import pictures_of, tiles_from_pictures
from zoomrt.calibration.fake_quant import INT8
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.placement import placement_of
from zoomrt.calibration.quantise import quantise, tile_psnrs
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

TILE = 96
ENDS = ("conv_in", "conv_out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, required=True)
    given = parser.parse_args()
    pictures = pictures_of(given.pictures)
    tiles, held_out = (
        tiles_from_pictures(pictures, count=count, height=TILE, width=TILE, value_range=(-1.0, 1.0), seed=seed)
        for count, seed in ((8, 1), (6, 2))
    )
    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    layers = layers_of(network, next(iter(tiles)))
    ranges = ranges_of(observe(network, tiles), "mse")
    default = placement_of(network, layers, "tensorrt_rtx")
    everything = placement_of(network, layers, "tensorrt_rtx", everything=True)
    with torch.no_grad():
        wanted = [network(tile) for tile in held_out]
    rows: dict[str, object] = {}
    for added in ((), ENDS[:1], ENDS[1:], ENDS):
        names = tuple(name for name in everything.quantised if name in default.quantised or name in added)
        placement = replace(default, quantised=names)
        decibels = tile_psnrs(quantise(network, ranges, placement, INT8), held_out, wanted, 2.0)
        rows[" and ".join(("the others", *added))] = {
            "share": round(placement.share, 4),
            "mean_db": round(sum(decibels) / len(decibels), 2),
            "worst_db": round(min(decibels), 2),
        }
    print(json.dumps(rows, indent=2))
    print("recorded in", record("kept_layers", rows, "torch"))


if __name__ == "__main__":
    main()
