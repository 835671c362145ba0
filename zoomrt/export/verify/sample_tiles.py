"""The tiles that a network is tried on: a photograph, noise, and the flat ones that break FP16 first."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoomrt.bundle import NoiseFacts
from zoomrt.runtime.tiles.noise import noise_at

EXTREMES = ("photograph", "noise", "flat", "black", "white")
PHOTOGRAPH = Path(__file__).with_name("photograph.png")
"""256 x 256 RGB, NASA, public domain."""


def probe_seed(family: str) -> int:
    """The seed of a family's probes: CRC-32 of its name, so that every build of the same network is tried on the same.

    Independent of code and versions: a build that passed passes again, and whoever reads the manifest can draw them.
    """
    return zlib.crc32(family.encode())


def photograph_tile(height: int, width: int, value_range: tuple[float, float]) -> NDArray[np.float32]:
    """(1, 3, height, width) float32 of the bundled photograph (NASA, public domain), cropped or mirrored to size."""
    with Image.open(PHOTOGRAPH) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    pad = [(0, max(0, side - extent)) for side, extent in zip((height, width), pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [*pad, (0, 0)], mode="symmetric")[:height, :width]
    low, high = value_range
    tile = pixels.transpose(2, 0, 1)[None] / 255.0 * (high - low) + low
    return np.ascontiguousarray(tile, dtype=np.float32)


def half_photograph_half_noise(
    shape: tuple[int, int, int, int], value_range: tuple[float, float], seed: int
) -> NDArray[np.float32]:
    """Tiles of `shape` (N, 3, h, w): the photograph on the left, random pixels on the right of each."""
    tiles = np.repeat(photograph_tile(shape[2], shape[3], value_range), shape[0], axis=0)
    noise = np.random.default_rng(seed).uniform(*value_range, shape).astype(np.float32)
    right = slice(shape[3] // 2, None)
    tiles[..., right] = noise[..., right]
    return tiles


def with_noise(tiles: NDArray[np.float32], noise: NoiseFacts | None) -> NDArray[np.float32]:
    """The start noise of the frame's corner after the channels of each tile, if the network takes any."""
    if noise is None:
        return tiles
    n, _, height, width = tiles.shape
    return np.concatenate([tiles, np.repeat(noise_at(noise, 0, 0, height, width)[None], n, axis=0)], axis=1)


def extreme_tiles(side: int, value_range: tuple[float, float], seed: int) -> dict[str, NDArray[np.float32]]:
    """Name, one of `EXTREMES` -> (1, 3, side, side) float32."""
    low, high = value_range
    random = np.random.default_rng(seed)
    shape = (1, 3, side, side)
    return {
        "photograph": photograph_tile(side, side, value_range),
        "noise": random.uniform(low, high, shape).astype(np.float32),
        "flat": np.broadcast_to(random.uniform(low, high, (1, 3, 1, 1)), shape).astype(np.float32),
        "black": np.full(shape, low, np.float32),
        "white": np.full(shape, high, np.float32),
    }
