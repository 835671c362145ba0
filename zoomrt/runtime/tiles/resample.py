"""Resampling: any part of an axis to any number of pixels, as small dense matrices along the diagonal.

One output pixel is a weighted sum of a few neighbouring source pixels. The kernel widens when the picture shrinks,
so that nothing aliases, and cut off and renormalised at the picture's edge, as Pillow does it. The outputs of an axis
are taken 16 at a time: their weights fill a small dense matrix over the source pixels that they share, and a matrix
product runs at the speed of BLAS, which a loop over taps does not. Axes are separable.

An axis can be cut to one tile, with the tile's blend weights folded in. The parts of all tiles then add up to the
resampled blend, and the blend itself, which may be many times larger than the view, never exists in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GROUP = 16
"""Outputs per matrix: fewer make more calls, more make emptier matrices (`benchmarks/zoom.py` has the time)."""
_ONE_THREAD = 1 << 18
"""Multiplications up to which OpenBLAS starts no threads (its SMP_THRESHOLD_MIN times GEMM_MULTITHREAD_THRESHOLD).

The engine's threads own the cores: with BLAS threads beside them a view took 1 s instead of 30 ms."""


@dataclass(frozen=True)
class Kernel:
    """An even function of the distance in pixels that is zero from `support` on."""

    support: float
    at: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _cubic(a: float, distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cubic convolution, Keys (1981)."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _lanczos(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)


BICUBIC = Kernel(2.0, partial(_cubic, -0.5))
"""The cubic that reproduces quadratics; also Pillow's."""
TORCH_BICUBIC = Kernel(2.0, partial(_cubic, -0.75))
"""That of torch's `interpolate`."""
LANCZOS = Kernel(3.0, _lanczos)


@dataclass(frozen=True, eq=False)
class Band:
    """Outputs `start` .. `start + len(matrix) - 1` of an axis, from source pixels `source` .. + matrix.shape[1] - 1."""

    start: int
    source: int
    matrix: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Axis:
    """How `count` outputs are made from source pixels `first` .. `stop - 1`.

    centres : (count,) of the outputs, in source pixels. stretch : how much wider the kernel is than its own pixels.
    firsts, stops : (count,) the source pixels that each output is made from.
    """

    kernel: Kernel
    centres: NDArray[np.float64]
    stretch: float
    firsts: NDArray[np.intp]
    stops: NDArray[np.intp]

    @property
    def count(self) -> int:
        return len(self.centres)

    @property
    def first(self) -> int:
        return int(self.firsts[0])

    @property
    def stop(self) -> int:
        return int(self.stops[-1])

    @cached_property
    def bands(self) -> tuple[Band, ...]:
        """Made when they are wanted: a view without the network's pixels needs none of their weights."""
        taps = int((self.stops - self.firsts).max())
        pixels = self.firsts[:, None] + np.arange(taps)
        weights = self.kernel.at((pixels + 0.5 - self.centres[:, None]) / self.stretch)
        weights[pixels >= self.stops[:, None]] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        bands = []
        for top in range(0, self.count, _GROUP):
            rows = slice(top, min(top + _GROUP, self.count))
            places = pixels[rows] - self.firsts[top]
            matrix = np.zeros((len(places), int(places[-1, -1]) + 1), np.float32)
            matrix[np.arange(len(places))[:, None], places] = weights[rows]
            width = int(self.stops[rows.stop - 1] - self.firsts[top])
            bands.append(Band(top, int(self.firsts[top]), np.ascontiguousarray(matrix[:, :width])))
        return tuple(bands)


def plan_axis(start: float, stop: float, count: int, size: int, kernel: Kernel, *, antialias: bool = True) -> Axis:
    """Weights that turn the part [start, stop) of an axis into `count` pixels.

    start, stop : in source pixels, whose edges are at whole numbers: pixel i covers [i, i + 1). Fractions are exact.
    count : output pixels, 1 or more. size : source pixels of the whole axis; those around the part have a share too.
    antialias : whether the kernel widens when the picture shrinks.
    """
    step = (stop - start) / count
    stretch = max(step, 1.0) if antialias else 1.0
    reach = kernel.support * stretch
    centres = start + (np.arange(count, dtype=np.float64) + 0.5) * step
    # from the first to the last pixel whose middle is less than `reach` away
    firsts = np.clip(np.floor(centres - reach - 0.5).astype(np.intp) + 1, 0, size - 1)
    stops = np.clip(np.ceil(centres + reach - 0.5).astype(np.intp), firsts + 1, size)
    return Axis(kernel, centres, stretch, firsts, stops)


def cut(axis: Axis, start: int, weights: NDArray[np.float32]) -> list[Band]:
    """The part of an axis that comes from source pixels `start` .. + len(weights) - 1, each times its weight.

    `source` of the bands returned counts from `start`. Parts whose weights sum to one at every pixel sum to the axis.
    """
    stop, parts = start + len(weights), []
    for band in axis.bands:
        low, high = max(band.source, start), min(band.source + band.matrix.shape[1], stop)
        if low < high:
            matrix = band.matrix[:, low - band.source : high - band.source] * weights[low - start : high - start]
            parts.append(Band(band.start, low - start, np.ascontiguousarray(matrix)))
    return parts


def outputs(bands: Sequence[Band], part: slice) -> list[Band]:
    """The bands, or parts of them, that make outputs `part` of an axis; `start` of those returned counts from there."""
    found = []
    for band in bands:
        low, high = max(band.start, part.start), min(band.start + len(band.matrix), part.stop)
        if low < high:
            found.append(Band(low - part.start, band.source, band.matrix[low - band.start : high - band.start]))
    return found


def axis_sum(bands: Sequence[Band], count: int) -> NDArray[np.float32]:
    """What a source of ones becomes, (count,) float32: the share that this part has in each output."""
    total = np.zeros(count, np.float32)
    for band in bands:
        total[band.start : band.start + len(band.matrix)] += band.matrix.sum(axis=1)
    return total


def add_resampled(
    planes: NDArray[Any], rows: Sequence[Band], columns: Sequence[Band], out: NDArray[np.float32], gain: float = 1.0
) -> None:
    """Resample planes and add them, times `gain`, to `out`.

    planes : (channels, H, W) of any number type; band sources count from its first row and column.
    out : (channels, h, w) float32.
    """
    if not rows or not columns:
        return
    top, bottom = min(band.source for band in rows), max(band.source + band.matrix.shape[1] for band in rows)
    begin, end = columns[0].start, columns[-1].start + len(columns[-1].matrix)
    wide = resampled_columns(planes[:, top:bottom], columns)
    add_resampled_rows(wide, [Band(b.start, b.source - top, b.matrix) for b in rows], out[:, :, begin:end], gain)


def resampled_columns(planes: NDArray[Any], columns: Sequence[Band]) -> NDArray[np.float32]:
    """Planes (channels, H, W) of any number type at the width of these bands, (channels, H, width)."""
    left, right = min(band.source for band in columns), max(band.source + band.matrix.shape[1] for band in columns)
    begin, end = columns[0].start, columns[-1].start + len(columns[-1].matrix)
    needed = np.ascontiguousarray(planes[:, :, left:right], np.float32)
    flat = needed.reshape(-1, right - left)
    wide = np.empty((flat.shape[0], end - begin), np.float32)
    for part in _parts(len(flat), max(band.matrix.size for band in columns)):
        for band in columns:
            source, target = band.source - left, band.start - begin
            pixels = flat[part, source : source + band.matrix.shape[1]]
            np.matmul(pixels, band.matrix.T, out=wide[part, target : target + len(band.matrix)])
    return wide.reshape(*planes.shape[:2], end - begin)


def add_resampled_rows(
    planes: NDArray[np.float32], rows: Sequence[Band], out: NDArray[np.float32], gain: float = 1.0
) -> None:
    """The other half of `add_resampled`: planes (channels, H, w) are as wide as `out` already."""
    for band in rows:
        matrix = band.matrix if gain == 1.0 else band.matrix * np.float32(gain)
        for part in _parts(planes.shape[2], matrix.size):
            block = np.matmul(matrix, planes[:, band.source : band.source + matrix.shape[1], part])
            out[:, band.start : band.start + len(matrix), part] += block


def _parts(length: int, matrix_size: int) -> list[slice]:
    """Cut a length into equal parts, so short that BLAS multiplies each with a matrix of that size in one thread."""
    count = -(-length * matrix_size // _ONE_THREAD)
    edges = [length * index // count for index in range(count + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(edges) if low < high]
