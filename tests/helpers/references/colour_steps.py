"""The colour steps of the models, from their fact sheets: as records, and as slow float64 pictures in and out.

Pictures are (H, W, C) float64 with white 1. Nothing of the package's arithmetic is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from zoomrt.bundle import ColourFacts

Pixels = NDArray[Any]

STEPS = {
    "none": ColourFacts(),
    "osediff": ColourFacts(method="adain", clamp="first", reference="pillow_bicubic", epsilon=1e-5),
    "osediff_wavelet": ColourFacts(method="wavelet", clamp="first", reference="pillow_bicubic", epsilon=1e-5),
    "hypir": ColourFacts(method="wavelet", clamp="last", reference="torch_bicubic", epsilon=1e-5),
    "adcsr": ColourFacts(method="adain", clamp="last", reference="input", epsilon=1e-10),
}
"""What manifests hold."""


def osediff(result: Pixels, source: Pixels) -> Pixels:
    """cswry/OSEDiff: the network's answer is clamped; adain against the resized input, also of 8 bits
    and so within [0, 1]; clamped again. (The authors also truncate both to 8 bits.)"""
    return np.clip(adain(np.clip(result, 0, 1), pillow_bicubic(source, result.shape[:2]), 1e-5), 0, 1)


def osediff_wavelet(result: Pixels, source: Pixels) -> Pixels:
    """The other variant of cswry/OSEDiff"""
    return np.clip(wavelet(np.clip(result, 0, 1), pillow_bicubic(source, result.shape[:2])), 0, 1)


def hypir(result: Pixels, source: Pixels) -> Pixels:
    """XPixelGroup/HYPIR: floats that were not clamped, against torch's bicubic; clamped last."""
    return np.clip(wavelet(result, torch_bicubic(source, result.shape[:2])), 0, 1)


def adcsr(result: Pixels, source: Pixels) -> Pixels:
    """Guaishou74851/AdcSR: floats in [-1, 1] that were not clamped, deviations of the small input, no epsilon."""
    signed = adain(result * 2 - 1, source * 2 - 1, 0.0)
    return np.clip(signed / 2 + 0.5, 0, 1)


def none(result: Pixels, source: Pixels) -> Pixels:  # noqa: ARG001
    return np.clip(result, 0, 1)


REFERENCES: dict[str, Callable[[Pixels, Pixels], Pixels]] = {
    "none": none,
    "osediff": osediff,
    "osediff_wavelet": osediff_wavelet,
    "hypir": hypir,
    "adcsr": adcsr,
}


def adain(result: Pixels, reference: Pixels, epsilon: float) -> Pixels:
    out = np.empty_like(result)
    for channel in range(result.shape[2]):
        y, x = result[..., channel].ravel(), reference[..., channel].ravel()
        mu_y, mu_x = y.sum() / y.size, x.sum() / x.size
        sigma_y = np.sqrt(((y - mu_y) ** 2).sum() / max(y.size - 1, 1) + epsilon)
        sigma_x = np.sqrt(((x - mu_x) ** 2).sum() / max(x.size - 1, 1) + epsilon)
        if sigma_y == 0:  # AdcSR's authors add no epsilon, and divide 0 by 0
            out[..., channel] = mu_x
        else:
            out[..., channel] = ((y - mu_y) / sigma_y * sigma_x + mu_x).reshape(result.shape[:2])
    return out


def wavelet(result: Pixels, reference: Pixels) -> Pixels:
    """high(result) + low(reference), level by level as the authors write it."""
    high = np.zeros_like(result)
    for radius in (1, 2, 4, 8, 16):
        blurred = one_level(result, radius)
        high += result - blurred
        result = blurred
    for radius in (1, 2, 4, 8, 16):
        reference = one_level(reference, radius)
    return high + reference


def one_level(picture: Pixels, radius: int) -> Pixels:
    """Nine taps by torch's depthwise dilated convolution."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
    planes = F.pad(torch.from_numpy(picture.copy()).permute(2, 0, 1)[:, None], [radius] * 4, mode="replicate")
    return F.conv2d(planes, kernel[None, None], dilation=radius)[:, 0].permute(1, 2, 0).numpy()


def low(picture: Pixels) -> Pixels:
    """Five levels of nine taps each, spelled out; tests/runtime/tiles/test_wavelet.py holds `one_level` against it."""
    for radius in (1, 2, 4, 8, 16):
        padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
        height, width = picture.shape[:2]
        picture = np.zeros_like(picture)
        for j, row in enumerate([[1, 2, 1], [2, 4, 2], [1, 2, 1]]):
            for i, weight in enumerate(row):
                picture += weight / 16 * padded[j * radius :, i * radius :][:height, :width]
    return picture


def torch_bicubic(picture: Pixels, size: tuple[int, ...]) -> Pixels:
    """No antialias, align_corners false."""
    planes = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    return F.interpolate(planes, size=tuple(size), mode="bicubic")[0].permute(1, 2, 0).numpy()


def pillow_bicubic(picture: Pixels, size: tuple[int, ...]) -> Pixels:
    """Of 8 bits, but not rounded: cut to [0, 1] after the columns, and after the rows."""
    wide = np.clip(resampled(picture, (picture.shape[0], size[1]), *KERNELS["BICUBIC"]), 0, 1)
    return np.clip(resampled(wide, size, *KERNELS["BICUBIC"]), 0, 1)


def lanczos(picture: Pixels, size: tuple[int, ...]) -> Pixels:
    return resampled(picture, size, *KERNELS["LANCZOS"])


def resampled(picture: Pixels, size: tuple[int, ...], kernel: Callable[[float], float], support: int) -> Pixels:
    """Pillow's definition: the kernel widens with the step, what lies beyond the picture is left out, weights sum to 1.

    tests/runtime/tiles/test_reference.py holds it against Pillow itself.
    """
    for axis in (1, 0):
        if picture.shape[axis] == size[axis]:
            continue
        old, new = picture.shape[axis], size[axis]
        step = old / new
        stretch = max(step, 1.0)
        matrix = np.zeros((new, old))
        for i in range(new):
            centre = (i + 0.5) * step
            for j in range(max(int(centre - support * stretch) - 1, 0), min(int(centre + support * stretch) + 2, old)):
                matrix[i, j] = kernel((j + 0.5 - centre) / stretch)
            matrix[i] /= matrix[i].sum()
        picture = np.moveaxis(np.tensordot(matrix, picture, (1, axis)), 0, axis)
    return picture


def _cubic(x: float) -> float:
    """Keys (1981), a = -0.5."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def _lanczos(x: float) -> float:
    return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0


KERNELS: dict[str, tuple[Callable[[float], float], int]] = {"BICUBIC": (_cubic, 2), "LANCZOS": (_lanczos, 3)}
"""As Pillow names them; with how far each reaches."""
