"""From a histogram of magnitudes to the one magnitude that the largest code stands for: max, percentile, entropy, MSE.

Ranges are symmetric: what lies beyond is clipped. A narrower range clips more and rounds finer; the methods differ in
how they weigh the two. FP8 rounds relative to the value, so a narrower range gains nothing there: use `max`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zoomrt.calibration.observers import Observer
from zoomrt.errors import unknown_name

PERCENTILE = 99.99
"""Share of values not clipped, in percent; of pytorch-quantization's choices (99.9 to 99.9999) the second."""
ENTROPY_LEVELS = 128
"""Levels of a magnitude in int8, zero included (Migacz, "8-bit inference with TensorRT", GTC 2017)."""
_LARGEST_CODE = 127
_MSE_CANDIDATES = np.exp2(-np.arange(128) / 16)  # of the maximum, down to a 245th, each 4 % below the last

Counts = NDArray[np.float64]


def range_of(observer: Observer, method: str) -> float:
    """The magnitude for code 127, by one of `METHODS`; 0.0 if only zeros were seen.

    Raises UsageError for an unknown method.
    """
    if method not in METHODS:
        raise unknown_name("range method", method, METHODS)
    largest = observer.largest
    if largest < observer.width:  # nothing but zeros, or values below 2**-100
        return largest
    return min(largest, METHODS[method](observer.counts.double().numpy(), observer.width, largest))


def _percentile(counts: Counts, width: float, _largest: float) -> float:
    """Upper edge of the bin in which the cumulative share passes PERCENTILE."""
    cumulative = np.cumsum(counts)
    return float(np.searchsorted(cumulative, cumulative[-1] * PERCENTILE / 100) + 1) * width


def _entropy(counts: Counts, width: float, _largest: float) -> float:
    """The range at which the distribution, clipped, differs least from its 128-level version (Kullback-Leibler)."""
    top = int(np.flatnonzero(counts)[-1]) + 1
    divergences = [_divergence(counts, bins) for bins in range(ENTROPY_LEVELS, top + 1)]
    return (int(np.argmin(divergences)) + ENTROPY_LEVELS) * width


def _divergence(counts: Counts, bins: int) -> float:
    """KL divergence of the first `bins` bins, the rest added to the last of them, from their 128-level version.

    A level spreads its sum evenly over those of its bins that are not empty; the clipped rest is not in it.
    """
    inside = counts[:bins]
    wanted = inside.copy()
    wanted[-1] += counts[bins:].sum()
    level = np.arange(bins) * ENTROPY_LEVELS // bins
    sums = np.bincount(level, inside)
    filled = np.bincount(level, inside > 0)
    had = np.where(inside > 0, (sums / np.maximum(filled, 1))[level], 0.0)
    some = wanted > 0
    if not had[some].all():
        return float("inf")  # the last bin was empty and got the clipped rest
    p, q = wanted[some] / wanted.sum(), had[some] / had.sum()
    return float(np.sum(p * np.log(p / q)))


def _mse(counts: Counts, width: float, largest: float) -> float:
    """The range with the least mean squared error of rounding and clipping, values spread evenly within each bin."""
    edges = np.arange(len(counts) + 1, dtype=np.float64) * width
    errors = [_squared_error(counts / width, edges, largest * share) for share in _MSE_CANDIDATES]
    return float(largest * _MSE_CANDIDATES[int(np.argmin(errors))])


def _squared_error(density: Counts, edges: Counts, amax: float) -> float:
    """Integral of density(x) * (x - rounded(x))**2 over all bins.

    With u = x / scale and n the nearest code, the integral of (u - n)**2 from 0 to u is n/12 + (u - n)**3 / 3, also
    beyond the last code.
    """
    scale = amax / _LARGEST_CODE
    u = edges / scale
    n = np.minimum(np.rint(u), _LARGEST_CODE)
    integral = n / 12 + (u - n) ** 3 / 3
    return float(np.sum(density * np.diff(integral)) * scale**3)


METHODS: dict[str, Callable[[Counts, float, float], float]] = {
    "max": lambda _counts, _width, largest: largest,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
