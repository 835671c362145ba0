"""How close tiles of `edge` come to one untiled pass over the whole picture, by tile side, through the real runtime.

    python -m benchmarks.tile_agreement

GroupNorm and attention see a tile instead of the picture; this is what that costs, on photographs held out of training.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

import zoomrt
from benchmarks._record import record
from training.data import HELD_OUT_PHOTOGRAPHS, photograph
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

TILES = (128, 192)
CROPS = ((240, 272), (300, 400))  # rows and columns from the top left corner, LR pixels


def untiled(frame: NDArray[np.float32]) -> NDArray[np.float32]:
    """One pass in torch FP32; frame (H, W, 3) in [0, 1] -> (4H, 4W, 3) in [0, 1]."""
    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    with torch.inference_mode():
        out = network(torch.from_numpy(frame.transpose(2, 0, 1)[None] * 2 - 1))[0]
    return np.asarray(((out + 1) / 2).clamp(0, 1).permute(1, 2, 0))


def main() -> None:
    torch.set_num_threads(2)
    frames = {
        f"{Path(name).stem} {height}x{width}": np.ascontiguousarray(photograph(name)[:height, :width] / np.float32(255))
        for name in HELD_OUT_PHOTOGRAPHS
        for height, width in CROPS
    }
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        upscalers = {
            side: zoomrt.load(build(BuildRequest(tile=side), Path(folder) / str(side)).path, threads=2)
            for side in TILES
        }
        for name, frame in frames.items():
            whole = untiled(frame)
            figures[name] = {
                f"tile_{side}_psnr_db": round(float(peak_signal_noise_ratio(whole, upscaler(frame), data_range=1)), 2)
                for side, upscaler in upscalers.items()
            }
    print(json.dumps(figures, indent=2))
    print("recorded in", record("tile_agreement", figures, "torch", "onnxruntime", "scikit-image"))


if __name__ == "__main__":
    main()
