"""Quality of `edge` against PIL bicubic on the held-out pictures; `python -m benchmarks.edge_quality` records it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from training.data import HELD_OUT_PHOTOGRAPHS, Pixels, camera_pairs, photograph, shrink
from zoomrt.models.networks.edge import SCALE, EdgeNetwork

BORDER = 4


def luma(rgb: Pixels) -> NDArray[np.float64]:
    """Y of BT.601 as the literature measures it (MATLAB rgb2ycbcr): 16..235, float64."""
    return 16.0 + rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255.0


def quality(picture: Pixels, reference: Pixels) -> tuple[float, float, float]:
    """(PSNR in dB, SSIM, SSIM with the Gaussian window) on Y, 4-pixel border cropped, peak 255.

    SSIM as scikit-image computes it by default (7x7 window), and as Wang et al. 2004 (11 taps, sigma 1.5).
    """
    a, b = (luma(p)[BORDER:-BORDER, BORDER:-BORDER] for p in (picture, reference))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return (
        float(peak_signal_noise_ratio(b, a, data_range=255)),
        float(structural_similarity(a, b, data_range=255)),
        float(structural_similarity(a, b, data_range=255, **gaussian)),
    )


def bicubic(lr: Pixels) -> Pixels:
    size = (lr.shape[1] * SCALE, lr.shape[0] * SCALE)
    return np.asarray(Image.fromarray(lr).resize(size, Image.Resampling.BICUBIC))


@torch.no_grad()
def upscale(network: EdgeNetwork, lr: Pixels) -> Pixels:
    """One untiled pass; sides are cropped to the multiple of four that the network needs."""
    tensor = torch.from_numpy(lr.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1.0)
    pixels = (network(tensor)[0].permute(1, 2, 0).numpy() + 1.0) * 127.5
    return pixels.round().clip(0, 255).astype(np.uint8)


def held_out(pairs_root: Path) -> dict[str, list[tuple[Pixels, Pixels]]]:
    def cropped(name: str) -> Pixels:
        picture = photograph(name)
        height, width = (side // 16 * 16 for side in picture.shape[:2])
        return picture[:height, :width]

    photographs = [cropped(name) for name in HELD_OUT_PHOTOGRAPHS]
    return {
        "camera_pairs": camera_pairs(pairs_root, held_out=True),
        "photographs_bicubic_x4_down": [(shrink(hr), hr) for hr in photographs],
    }


def evaluate(network: EdgeNetwork, sets: dict[str, list[tuple[Pixels, Pixels]]]) -> dict[str, dict[str, float]]:
    """Mean figures per set for bicubic and edge, and the gain."""
    report = {}
    for name, pairs in sets.items():
        base = np.mean([quality(bicubic(lr), hr) for lr, hr in pairs], axis=0)
        ours = np.mean([quality(upscale(network, lr), hr) for lr, hr in pairs], axis=0)
        figures = {"count": float(len(pairs))}
        for index, figure in enumerate(("psnr_db", "ssim", "ssim_gaussian")):
            figures |= {f"bicubic_{figure}": base[index], f"edge_{figure}": ours[index]}
            figures[f"gain_{figure}"] = ours[index] - base[index]
        report[name] = {key: round(float(value), 4) for key, value in figures.items()}
    return report


def contact_sheet(network: EdgeNetwork, pairs: list[tuple[Pixels, Pixels]]) -> Image.Image:
    """Rows of (bicubic, edge, ground truth) centre crops, 256 px each."""
    rows = []
    for lr, hr in pairs:
        y, x = ((side - 256) // 2 for side in hr.shape[:2])
        crops = [p[y : y + 256, x : x + 256] for p in (bicubic(lr), upscale(network, lr), hr)]
        rows.append(np.concatenate(crops, axis=1))
    return Image.fromarray(np.concatenate(rows, axis=0))
