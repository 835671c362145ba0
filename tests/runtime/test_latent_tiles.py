"""Latent tiles against the authors' rule, spelled out as loops over single pixels in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.runtime.latent_tiles import blended, window_weights, windows

sides = st.integers(1, 60)


def authors_offsets(size: int, tile: int, overlap: int) -> list[int]:
    offsets = [0]
    while offsets[-1] + tile < size:
        offsets.append(offsets[-1] + tile - overlap)
    return [min(offset, size - tile) for offset in offsets]


def authors_weight(position: int, tile: int, middle: float) -> float:
    return math.exp(-((position - middle) ** 2) / (tile * tile * 0.02)) / math.sqrt(0.02 * math.pi)


@given(sides, sides, st.integers(2, 24), st.integers(0, 23))
def test_windows_cover_the_latent_and_stay_inside(height: int, width: int, tile: int, overlap: int) -> None:
    tiles = windows(height, width, tile, min(overlap, tile - 1))
    covered = np.zeros((height, width), int)
    for rows, columns in tiles:
        assert 0 <= rows.start < rows.stop <= height
        assert 0 <= columns.start < columns.stop <= width
        covered[rows, columns] += 1
    assert covered.min() >= 1
    assert len(set(map(str, tiles))) == len(tiles)


@given(sides, sides, st.integers(2, 24), st.integers(0, 23))
def test_windows_are_the_authors(height: int, width: int, tile: int, overlap: int) -> None:
    side = min(tile, height, width)
    if height * width <= tile * tile:
        assert windows(height, width, tile, overlap) == [(slice(0, height), slice(0, width))]
    elif overlap < side:
        starts = [(rows.start, columns.start) for rows, columns in windows(height, width, tile, overlap)]
        rows, columns = authors_offsets(height, side, overlap), authors_offsets(width, side, overlap)
        assert starts == [(y, x) for y in rows for x in columns]


@pytest.mark.parametrize("side", [1, 5, 16, 96])
def test_window_weights(side: int) -> None:
    expected = [
        [authors_weight(y, side, side / 2) * authors_weight(x, side, (side - 1) / 2) for x in range(side)]
        for y in range(side)
    ]
    weights = window_weights(side)
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, expected, rtol=1e-12)
    assert weights.astype(np.float32).min() > 0


@pytest.mark.parametrize(("height", "width"), [(30, 41), (16, 16), (9, 60), (17, 16)])
def test_blended_against_a_loop_over_pixels(height: int, width: int) -> None:
    rng, tile, overlap = np.random.default_rng(), 16, 6
    latent = rng.normal(size=(1, 2, height, width)).astype(np.float32)
    tiles = windows(height, width, tile, overlap)
    answers = [rng.normal(size=latent[:, :, rows, columns].shape).astype(np.float32) for rows, columns in tiles]
    asked = []

    def predict(part: np.ndarray) -> np.ndarray:
        asked.append(part.copy())
        return answers[len(asked) - 1]

    result = blended(latent, tiles, predict)
    assert result.dtype == np.float32
    for part, (rows, columns) in zip(asked, tiles, strict=True):
        assert np.array_equal(part, latent[:, :, rows, columns])
    for y in range(height):
        for x in range(width):
            total, weight = np.zeros(2), 0.0
            for answer, (rows, columns) in zip(answers, tiles, strict=True):
                if rows.start <= y < rows.stop and columns.start <= x < columns.stop:
                    side = rows.stop - rows.start
                    share = authors_weight(y - rows.start, side, side / 2)
                    share *= authors_weight(x - columns.start, side, (side - 1) / 2)
                    total += share * answer[0, :, y - rows.start, x - columns.start]
                    weight += share
            np.testing.assert_allclose(result[0, :, y, x], total / weight, rtol=0, atol=1e-5)
