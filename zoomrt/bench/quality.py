"""How good the pictures are, beside how fast they come: PSNR, SSIM (scikit-image) and FLIP, on 8-bit RGB.

FLIP (Andersson et al. 2020, flip-evaluator) models what the eye sees of a difference: contrast sensitivity, edges and
points, colour; it needs no network. LPIPS and its kin are not here: the libraries (lpips, torchmetrics, piq) carry the
last layer alone and download the network below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import metrics

from zoomrt.bench.record import Quality
from zoomrt.errors import InputError
from zoomrt.files import entries, is_folder
from zoomrt.runtime.pictures.formats import READABLE
from zoomrt.runtime.pictures.images import read_rgb8
from zoomrt.runtime.tiles.psnr import psnr_db
from zoomrt.runtime.upscaler import Upscaler

_WINDOW = 11
"""Pixels across the Gaussian window of SSIM (Wang et al. 2004)."""
_METRICS: Any = metrics  # untyped


def compare_pictures(of: str, to: str, pictures: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> Quality:
    """Means over (got, expected), (H, W, 3) each, of equal sizes. SSIM with the Gaussian window of the paper."""
    psnr, ssim, flip = [], [], []
    for got, expected in pictures:
        psnr.append(psnr_db(expected, got, 255))
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        ssim.append(float(_METRICS.structural_similarity(expected, got, channel_axis=2, data_range=255, **options)))
        flip.append(_flip(expected, got))
    return Quality(
        of=of,
        to=to,
        count=len(pictures),
        psnr_db=round(float(np.mean(psnr)), 3),
        ssim=round(float(np.mean(ssim)), 5),
        flip=None if None in flip else round(float(np.mean(flip)), 5),  # type: ignore[arg-type]
    )


def _flip(expected: NDArray[np.uint8], got: NDArray[np.uint8]) -> float | None:
    """Mean FLIP at its own viewing conditions; None without its package, which has no wheels for ARM Linux."""
    try:
        import flip_evaluator
    except ImportError:
        return None
    reference, test = (pixels.astype(np.float32) / 255 for pixels in (expected, got))
    return float(flip_evaluator.evaluate(reference, test, "LDR", applyMagma=False)[1])


def quality_of(name: str, upscaler: Upscaler, pairs: list[tuple[Path, Path]]) -> Quality:
    """Against ground truth, of `pairs_in`."""
    made = [(upscaler.upscale(small), truth) for small, truth in _read(pairs, upscaler.scale)]
    return compare_pictures(name, "ground truth", made)


def bicubic(pairs: list[tuple[Path, Path]], scale: int) -> Quality:
    """What every picture viewer does, as the row to beat."""
    from PIL import Image

    def enlarged(small: NDArray[np.uint8]) -> NDArray[np.uint8]:
        size = (small.shape[1] * scale, small.shape[0] * scale)
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))

    made = [(enlarged(small), truth) for small, truth in _read(pairs, scale)]
    return compare_pictures("bicubic", "ground truth", made)


def pairs_in(low: Path, high: Path, scale: int) -> list[tuple[Path, Path]]:
    """Pictures of equal file stems in two folders, sorted. Reads all of them, so that none fails after hours of timing.

    Raises InputError for no picture, one without partner, two of one name, sizes that do not fit the scale, and sides
    shorter than SSIM's window.
    """
    found = [_by_stem(folder) for folder in (low, high)]
    lonely = sorted(found[0].keys() ^ found[1].keys())
    if lonely or not found[0]:
        seen = f"no partner for {', '.join(lonely[:4])}" if lonely else "no pictures"
        remedy = "Give each low-resolution picture the file name of its high-resolution one."
        raise InputError("cannot pair the pictures", seen=seen, needed="equal names in both", remedy=remedy)
    pairs = [(found[0][stem], found[1][stem]) for stem in sorted(found[0])]
    for (_, path), (_, truth) in zip(pairs, _read(pairs, scale), strict=True):
        if min(truth.shape[:2]) < _WINDOW:
            seen, needed = f"{truth.shape[1]} x {truth.shape[0]}", f"{_WINDOW} px or more on each side"
            raise InputError(f"{str(path)!r} is too small for SSIM", seen=seen, needed=needed, remedy="Leave it out.")
    return pairs


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in _listed(folder):
        if file.suffix.lower() in READABLE:
            if file.stem in found:
                seen, remedy = f"{found[file.stem].name} and {file.name}", "Leave one of them out."
                raise InputError("cannot pair the pictures", seen=seen, needed="one of each name", remedy=remedy)
            found[file.stem] = file
    return found


def _listed(folder: Path) -> list[Path]:
    if not is_folder(folder):
        raise InputError(
            "cannot pair the pictures", seen=f"no folder {str(folder)!r}", needed="a folder", remedy="Check --pairs."
        )
    return entries(folder)


def _read(pairs: list[tuple[Path, Path]], scale: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for low, high in pairs:
        small, truth = (read_rgb8(path) for path in (low, high))
        expected = tuple(side * scale for side in small.shape[:2])
        if truth.shape[:2] != expected:
            raise InputError(
                f"{str(high)!r} is not {scale} times as large as its partner",
                seen=f"{truth.shape[1]} x {truth.shape[0]}",
                needed=f"{expected[1]} x {expected[0]}",
                remedy="Crop one of them.",
            )
        yield small, truth
