"""Latent tiles as the authors of OSEDiff cut and blend them: what the split form runs its UNet over.

Pure arithmetic (osediff.md section 4.1). Square tiles in latent pixels share `overlap`; the last of each axis is flush
with the edge. What is blended is the predicted noise, under a Gaussian window: sums in float32, weights in float64,
divided at the end. A latent of no more pixels than one tile is predicted in one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Window", "blended", "window_weights", "windows"]

Window = tuple[slice, slice]
"""Rows and columns of one tile in the latent."""

_VARIANCE = 0.01  # of the window, in units of the tile's side squared


def windows(height: int, width: int, tile: int, overlap: int) -> list[Window]:
    """The tiles of a latent, in raster order; all of it where it has no more pixels than one tile.

    Tiles are as wide as the shorter side where that is less than `tile`; they overlap by half where that leaves no
    room for the overlap (the authors never have such latents: they enlarge small pictures first).
    """
    if height * width <= tile * tile:
        return [(slice(0, height), slice(0, width))]
    side = min(tile, height, width)
    stride = side - (overlap if overlap < side else side // 2)
    return [
        (slice(y, y + side), slice(x, x + side))
        for y in _origins(height, side, stride)
        for x in _origins(width, side, stride)
    ]


def _origins(size: int, tile: int, stride: int) -> list[int]:
    count = math.ceil((size - tile) / stride) + 1
    return [min(index * stride, size - tile) for index in range(count)]


def window_weights(side: int) -> NDArray[np.float64]:
    """(side, side) float64, above zero. As in the original the peak lies half a pixel lower than the tile's middle:
    at side / 2 down the rows, at (side - 1) / 2 along the columns."""

    def along(middle: float) -> NDArray[np.float64]:
        distance = (np.arange(side) - middle) / side
        return np.exp(-(distance**2) / (2 * _VARIANCE)) / math.sqrt(2 * math.pi * _VARIANCE)

    return np.outer(along(side / 2), along((side - 1) / 2))


def blended(
    latent: NDArray[np.float32],
    tiles: Sequence[Window],
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """`predict` over every tile of a latent, blended; (1, C, height, width) float32, as the latent.

    predict : (1, C, h, w) float32 -> the same shape.
    """
    if len(tiles) == 1:
        return predict(latent)
    total, weight = np.zeros_like(latent), np.zeros(latent.shape[2:], np.float32)
    share = window_weights(tiles[0][0].stop)
    for rows, columns in tiles:
        total[:, :, rows, columns] += predict(np.ascontiguousarray(latent[:, :, rows, columns])) * share
        weight[rows, columns] += share
    total /= weight
    return total
