"""The colour step `wavelet`: the finished picture keeps its detail and takes the coarse colours of its reference.

As OSEDiff (github.com/cswry/OSEDiff) and HYPIR (github.com/XPixelGroup/HYPIR) have it: five blurs in a row, kernel
[1 2 1; 2 4 2; 1 2 1] / 16 with its taps 1, 2, 4, 8 and 16 pixels apart and the edge repeated, are `low`;
out = y - low(y) + low(reference). `low` is linear, so this is y + low(reference - y): one chain of blurs in float32.
Nothing is divided, so flat pictures need no epsilon.

The chain reaches 31 pixels far. It follows the blocks as they come, in bands of rows with 31 more on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.tiles.blocks import Block, RowBuffer
from zoomrt.runtime.tiles.reference import Reference

_SPACINGS = (1, 2, 4, 8, 16)
REACH = sum(_SPACINGS)
"""Pixels to either side that have a part in one blurred pixel."""
_BAND_ROWS = 64


def match_low_frequencies(
    blocks: Iterable[Block], reference: Reference, channels: int, size: tuple[int, int]
) -> Iterator[Block]:
    """The picture of `blocks` with the low frequencies of the reference.

    size : (height, width) of both. Holds the rows of blocks of one height and 62 more, whatever the picture's height.
    """
    height, width = size
    held, done = RowBuffer(channels, width), 0
    for rows, columns, block in blocks:
        held.grow(rows.stop)
        held.rows(rows.start, rows.stop)[:, :, columns] = block
        if columns.stop < width:
            continue
        ready = height if rows.stop == height else rows.stop - REACH
        while done < ready:
            stop = min(done + _BAND_ROWS, ready)
            first, last = max(done - REACH, 0), min(stop + REACH, height)
            wanted = reference.rows(first, last)
            band = slice(done - first, stop - first)
            for plane, pixels in zip(wanted, held.rows(first, last), strict=True):
                plane -= pixels
                plane[band] = _low(plane)[band]
                plane[band] += pixels[band]
            yield slice(done, stop), slice(0, width), wanted[:, band]
            done = stop
        held.drop(max(done - REACH, held.first))


def _low(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    for spacing in _SPACINGS:
        for _ in range(2):  # columns, then rows, by way of the transpose
            pixels = _blurred_rows(pixels, spacing).T
    return pixels


def _blurred_rows(pixels: NDArray[np.float32], spacing: int) -> NDArray[np.float32]:
    """[1 2 1] / 4 down the columns, taps `spacing` apart, the edge repeated."""
    padded = np.pad(pixels, ((spacing, spacing), (0, 0)), mode="edge")
    blurred = padded[: -2 * spacing] + padded[2 * spacing :]
    blurred *= np.float32(0.5)
    blurred += pixels
    blurred *= np.float32(0.5)
    return blurred
