"""Blocks: rows that come and go, and a picture resampled as it comes, against the whole picture in float64."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from colour_steps import lanczos

from zoomrt.runtime.tiles.blocks import Block, RowBuffer, resized


def test_a_row_buffer_is_a_window_on_the_picture(rng: np.random.Generator) -> None:
    picture = rng.random((2, 100, 7)).astype(np.float32)
    buffer, written = RowBuffer(2, 7), 0
    for _ in range(60):
        if rng.random() < 0.5:
            stop = min(written + int(rng.integers(0, 30)), 100)
            buffer.grow(stop)
            assert not buffer.rows(written, stop).any(), "new rows are 0"
            buffer.rows(written, stop)[...] = picture[:, written:stop]
            written = stop
        else:
            buffer.drop(int(rng.integers(buffer.first, buffer.stop + 1)))
        assert buffer.stop == written
        assert np.array_equal(buffer.rows(buffer.first, buffer.stop), picture[:, buffer.first : buffer.stop])


def blocks_of(planes: np.ndarray, rng: np.random.Generator, cuts: int = 3) -> Iterator[Block]:
    height, width = planes.shape[1:]
    tops, lefts = (sorted({0, side, *rng.integers(0, side + 1, cuts).tolist()}) for side in (height, width))
    for (top, bottom), (left, right) in itertools.product(itertools.pairwise(tops), itertools.pairwise(lefts)):
        yield slice(top, bottom), slice(left, right), planes[:, top:bottom, left:right].copy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("source", "target"),
    [((1, 1), (1, 1)), ((1, 1), (3, 2)), ((128, 96), (64, 48)), ((128, 96), (9, 95)), ((90, 70), (1, 1)),
     ((60, 61), (59, 60)), ((40, 44), (41, 45)), ((3, 200), (2, 7))],
)  # fmt: skip
def test_resized_is_the_whole_picture_resampled(
    rng: np.random.Generator, channels: int, source: tuple[int, int], target: tuple[int, int]
) -> None:
    """Values outside [0, 1] included: nothing is cut."""
    picture = rng.uniform(-0.5, 1.5, (channels, *source)).astype(np.float32)
    found, done = np.full((channels, *target), np.nan, np.float32), 0
    for rows, columns, block in resized(blocks_of(picture, rng), channels, source, target):
        assert (rows.start, columns) == (done, slice(0, target[1]))
        found[:, rows] = block
        done = rows.stop
    expected = lanczos(picture.transpose(1, 2, 0).astype(np.float64), target)
    assert np.abs(found.transpose(1, 2, 0) - expected).max() <= 3e-6


def test_neither_picture_is_held() -> None:
    """Four times as high: nothing more is held."""

    def peak_bytes(rows: int) -> int:
        block = np.zeros((3, 64, 512), np.float32)
        blocks = ((slice(top, top + 64), slice(0, 512), block) for top in range(0, rows, 64))
        tracemalloc.start()
        try:
            for _ in resized(blocks, 3, (rows, 512), (rows * 3 // 8, 192)):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    short, tall = peak_bytes(1024), peak_bytes(4096)
    assert tall - short < 3072 * 500, "the weights of rows; rows of both pictures take 8400 bytes each"
