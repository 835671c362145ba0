"""The colour step `wavelet` on blocks of any shape, against a direct float64 implementation of the formula."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from colour_steps import low, one_level, pillow_bicubic, torch_bicubic, wavelet
from runtime_helpers import photograph

from zoomrt.runtime.tiles.blocks import Block
from zoomrt.runtime.tiles.wavelet import match_low_frequencies

SIZES = [(1, 1), (4, 36), (12, 20), (32, 32), (160, 12), (148, 164), (300, 40)]
"""Smaller than the blur's reach, about as large, and several bands high or wide."""


class Known:
    """A reference that is there."""

    def __init__(self, planes: np.ndarray) -> None:
        self.planes = planes

    def moments(self) -> None:
        raise AssertionError("a wavelet needs none")

    def rows(self, first: int, stop: int) -> np.ndarray:
        return self.planes[:, first:stop].copy()


def blocks_of(planes: np.ndarray, rng: np.random.Generator) -> Iterator[Block]:
    """Raster order, in a buffer that is used again, as the blend's is."""
    cuts = [
        [0, *sorted(set(rng.integers(1, side, 3).tolist())), side] if side > 1 else [0, 1] for side in planes.shape[1:]
    ]
    buffer = np.empty(planes.shape, np.float32)
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            block = buffer[:, : bottom - top, : right - left]
            block[...] = planes[:, top:bottom, left:right]
            yield slice(top, bottom), slice(left, right), block
            buffer.fill(np.nan)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_against_the_formula(rng: np.random.Generator, channels: int, size: tuple[int, int]) -> None:
    picture, reference = (rng.uniform(-0.2, 1.2, (channels, *size)).astype(np.float32) for _ in range(2))
    found = np.full_like(picture, np.nan)
    done = 0
    for rows, columns, block in match_low_frequencies(blocks_of(picture, rng), Known(reference), channels, size):
        assert (rows.start, columns) == (done, slice(0, size[1]))
        found[:, rows] = block
        done = rows.stop
    expected = wavelet(*(each.transpose(1, 2, 0).astype(np.float64) for each in (picture, reference)))
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 1e-6


def test_the_formula_spelled_out(rng: np.random.Generator) -> None:
    """The convolution that the tests measure with, against its nine taps."""
    picture = rng.random((40, 37, 3))
    chain = picture
    for radius in (1, 2, 4, 8, 16):
        chain = one_level(chain, radius)
    np.testing.assert_allclose(chain, low(picture), atol=1e-12)


def test_the_two_enlargements_differ_by_less_than_half_a_step() -> None:
    """In low frequencies of a photograph, on which nothing but the choice of a reference depends. 0.43 was seen."""
    pixels = photograph(200, 300) / 255
    difference = np.abs(low(pillow_bicubic(pixels, (800, 1200))) - low(torch_bicubic(pixels, (800, 1200)))) * 255
    assert difference.max() <= 0.5
    assert difference.mean() <= 0.05


def test_memory_grows_with_the_width_only() -> None:
    def peak_bytes(rows: int, columns: int) -> int:
        block, reference = np.zeros((3, 256, columns), np.float32), Known(np.zeros((3, rows, columns), np.float32))
        blocks = ((slice(top, top + 256), slice(0, columns), block) for top in range(0, rows, 256))
        tracemalloc.start()
        try:
            for _ in match_low_frequencies(blocks, reference, 3, (rows, columns)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, tall = peak_bytes(512, 800), peak_bytes(2048, 800)
    assert abs(tall - short) <= 100_000
    print(f"{short / 800:.0f} bytes a column for 256 rows")
    assert short <= 800 * (12 * (256 + 2 * 31) * 2 + 5000), "the rows that are held, twice while there are more of them"
