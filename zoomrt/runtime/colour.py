"""The colour step: brings the whole finished picture back to the colours of its input, once and globally.

Policy `mean_std` (AdaIN as OSEDiff and AdcSR use it): per channel y' = (y - mean_y) / sigma_y * sigma_x + mean_x over
the whole picture, with sigma = sqrt(unbiased variance + EPSILON) for values in [0, 1]. Per tile it would make seams.
The sums run in float64 while tiles finish, on blended float pixels after clipping to [0, 1], so that they describe the
pixels that are stored. The affine map is then applied in place to the finished frame, as a lookup table where
pixels are integers; the reference systems work on 8 bit here too. Nothing frame-sized is allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.rgb_view import Picture

__all__ = ["EPSILON", "Moments", "apply_affine", "matching_affine", "moments_of_frame", "peak_of"]

EPSILON = 1e-5
"""Added to the variance (OSEDiff's value): a flat picture has sigma 0.003 instead of 0, and noise is not blown up."""

_BAND_PIXELS = 1 << 16  # pixels worked on at a time, so that temporaries stay small whatever the frame


def peak_of(dtype: np.dtype[Any]) -> float:
    """The value of white: 255, 65535, or 1 for floats."""
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0


class Moments:
    """Running float64 count, mean and variance of each channel.

    channels : how many.
    peak : the value of white in what is added; means and variances are for values in [0, 1].
    """

    def __init__(self, channels: int, peak: float) -> None:
        self._peak = peak
        self._count = 0
        self._sum = np.zeros(channels)
        self._squares = np.zeros(channels)

    def add(self, block: NDArray[np.float32]) -> None:
        """Take pixels, (channels, rows, columns) float32 in [0, peak].

        A row is summed pairwise in float32 (numpy's `sum`; `einsum` adds one by one and loses 3e-4), rows in float64.
        """
        self._count += block.shape[1] * block.shape[2]
        self._sum += block.sum(axis=2).sum(axis=1, dtype=np.float64)
        self._squares += np.square(block).sum(axis=2).sum(axis=1, dtype=np.float64)

    def add_sums(self, count: int, sums: NDArray[np.float64], squares: NDArray[np.float64]) -> None:
        """Take pixels that were summed elsewhere: how many, and per channel their sum and that of their squares."""
        self._count += count
        self._sum += sums
        self._squares += squares

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._sum / self._count / self._peak

    @property
    def variance(self) -> NDArray[np.float64]:
        """Unbiased; 0 for a single pixel."""
        centred = self._squares / self._peak**2 - self._count * self.mean**2
        return np.maximum(centred, 0) / max(self._count - 1, 1)


def moments_of_frame(frame: Picture) -> Moments:
    """Moments of a whole frame, (H, W, 3) or (H, W) uint8, uint16 or float32, or YUV, of which they are the RGB's."""
    moments = Moments(1 if frame.ndim == 2 else 3, peak_of(frame.dtype))
    for band in _bands(frame):
        moments.add(np.ascontiguousarray(np.moveaxis(_three_axes(band), 2, 0), np.float32))
    return moments


def matching_affine(source: Moments, result: Moments) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gain and bias per channel, for values in [0, 1], that give `result` the mean and deviation of `source`."""
    gain = np.sqrt((source.variance + EPSILON) / (result.variance + EPSILON))
    return gain, source.mean - gain * result.mean


def apply_affine(frame: NDArray[Any], gain: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
    """Replace a frame's values v in [0, 1] by clip(gain * v + bias) in place.

    frame : (H, W, 3) or (H, W), C-contiguous uint8, uint16 or float32; gain and bias : (channels,).
    """
    if frame.dtype.kind == "f":
        for band in map(_three_axes, _bands(frame)):
            band *= gain.astype(np.float32)
            band += bias.astype(np.float32)
            np.clip(band, 0, 1, out=band)
        return
    peak = peak_of(frame.dtype)
    values = np.arange(peak + 1)[:, None] * gain + bias * peak
    tables = np.rint(np.clip(values, 0, peak)).astype(frame.dtype)
    for band in map(_three_axes, _bands(frame)):
        for channel, table in enumerate(tables.T):
            band[..., channel] = table[band[..., channel]]


def _bands(frame: Picture) -> Iterator[NDArray[Any]]:
    """Views of a few rows each, wide frames also cut into columns."""
    wide = min(frame.shape[1], _BAND_PIXELS)
    high = max(1, _BAND_PIXELS // wide)
    for top in range(0, frame.shape[0], high):
        for left in range(0, frame.shape[1], wide):
            yield frame[top : top + high, left : left + wide]


def _three_axes(frame: NDArray[Any]) -> NDArray[Any]:
    return frame[:, :, None] if frame.ndim == 2 else frame
