"""Alpha beside an upscaled picture: enlarged without the network, and colour where nothing was visible.

Works on a few rows at a time: no plane of floats is as large as the picture.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomrt.runtime.sizes import bands

Pixels = NDArray[Any]
_SUPPORT = 2  # of a bicubic kernel, in pixels
_LEVELS = 4
_BLOCK = 2**_LEVELS
"""Side of the blocks whose sums stand for the whole picture; bands of rows are as high as a few of them."""
_BAND_PIXELS = 1 << 18


def resize_alpha(alpha: Pixels, size: tuple[int, int]) -> Pixels:
    """(H, W) uint8 or uint16 at (height, width) `size`, by bicubic interpolation (Pillow's, a = -0.5), rounded once."""
    height, width = size
    ratio = alpha.shape[0] / height
    reach = math.ceil(_SUPPORT * max(1.0, ratio)) + 1
    result = np.empty(size, alpha.dtype)
    for rows in bands(height, _BAND_PIXELS // width):
        band, start, stop = result[rows], rows.start * ratio, rows.stop * ratio
        first = max(0, math.floor(start) - reach)
        part = alpha[first : math.ceil(stop) + reach].astype(np.float32)
        box = (0, start - first, alpha.shape[1], min(stop - first, len(part)))
        values = np.asarray(Image.fromarray(part).resize((width, len(band)), Image.Resampling.BICUBIC, box))
        band[...] = np.rint(np.clip(values, 0, np.iinfo(alpha.dtype).max))
    return result


def fill_hidden(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Replace colour under alpha 0 by an average of the nearest visible pixels, coarse to fine.

    pixels : (H, W, 3) or (H, W); alpha : (H, W). Returns pixels of the same type; visible ones are unchanged.
    """
    if alpha.all() or not alpha.any():
        return pixels
    whole = list(bands(alpha.shape[0], max(1, _BAND_PIXELS // (alpha.shape[1] * _BLOCK)) * _BLOCK))
    coarse = []
    for rows in whole:
        sums = _weighted(pixels[rows], alpha[rows])
        for _ in range(_LEVELS):
            sums = _halve(sums[0]), _halve(sums[1])
        coarse.append(sums)
    totals, weights = (np.concatenate(part) for part in zip(*coarse, strict=True))
    blocks = _filled(totals, weights)
    result = np.empty_like(pixels)
    for rows in whole:
        total, weight = _weighted(pixels[rows], alpha[rows])
        first = rows.start // _BLOCK
        filled = _filled(total, weight, blocks[first : first + -(-len(total) // _BLOCK)], _LEVELS)
        shown = (weight > 0).reshape(alpha[rows].shape + (1,) * (pixels.ndim - 2))
        result[rows] = np.where(shown, pixels[rows], np.rint(filled).reshape(pixels[rows].shape).astype(pixels.dtype))
    return result


def _weighted(pixels: Pixels, alpha: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Colours of visible pixels, (rows, columns, channels), and 1 for each of them."""
    weight = (alpha > 0)[:, :, None].astype(np.float32)
    return pixels.reshape(*alpha.shape, -1) * weight, weight


def _filled(
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
    blocks: NDArray[np.float32] | None = None,
    levels: int = 0,
) -> NDArray[np.float32]:
    """Weighted mean where there is weight; elsewhere that of the 2x2, 4x4 ... block which has some.

    blocks : answers for blocks of 2**levels, where they are known.
    """
    if blocks is not None and levels == 0:
        return blocks
    if weight.all():
        return total / weight
    high, wide = weight.shape[:2]
    coarse = _filled(_halve(total), _halve(weight), blocks, levels - 1).repeat(2, 0).repeat(2, 1)[:high, :wide]
    return np.where(weight > 0, total / np.maximum(weight, 1), coarse)


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of 2x2 blocks; odd sides are padded with zeros."""
    high, wide = values.shape[:2]
    values = np.pad(values, ((0, high % 2), (0, wide % 2), (0, 0)))
    return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]
