"""The blend against a slow weighted sum in float64, on tiles that do not agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legal_facts import legal_facts
from runtime_helpers import facts, slow_axis_weights

from zoomrt.bundle import TileFacts
from zoomrt.runtime.tiles.blend import Blender
from zoomrt.runtime.tiles.plan import plan


@settings(max_examples=100)
@given(
    legal_facts(longest=12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 2**32),
    st.sampled_from(["float32", "float16"]),
)
def test_blend_is_the_weighted_sum_and_hands_out_each_pixel_once(
    tile: TileFacts, height: int, width: int, seed: int, dtype: str
) -> None:
    rng, scale = np.random.default_rng(seed), tile.scale
    tiles = plan(height, width, tile)
    slow_rows, slow_columns = slow_axis_weights(height, tile, tile.height), slow_axis_weights(width, tile, tile.width)
    blender = Blender(tiles)
    result = np.zeros((3, height * scale, width * scale), np.float32)
    count = np.zeros(result.shape[1:], int)
    expected = np.zeros(result.shape)
    for index in range(len(tiles)):
        pixels = rng.normal(size=(3, tile.height * scale, tile.width * scale)).astype(dtype)
        rows, columns, block = blender.add(index, pixels)
        result[:, rows, columns] = block
        count[rows, columns] += 1
        row, column = tiles.position(index)
        place(expected, pixels, tiles.rows.spans[row].origin, tiles.columns.spans[column].origin, scale,
              np.outer(slow_rows[row], slow_columns[column]))  # fmt: skip
    assert (count == 1).all()
    np.testing.assert_allclose(result, expected, atol=3e-6)


def place(total: np.ndarray, tile: np.ndarray, top: int, left: int, scale: int, weight: np.ndarray) -> None:
    """Add one tile, with its weight over the whole frame, where it lies; parts beyond the frame are dropped."""
    frame = np.zeros_like(total)
    _, high, wide = total.shape
    y, x = top * scale, left * scale
    y0, x0 = max(0, -y), max(0, -x)
    y1, x1 = min(tile.shape[1], high - y), min(tile.shape[2], wide - x)
    frame[:, y + y0 : y + y1, x + x0 : x + x1] = tile[:, y0:y1, x0:x1]
    total += frame * weight


def test_the_tile_is_not_written_to(rng: np.random.Generator) -> None:
    blender = Blender(plan(40, 40, facts()))
    tile = rng.random((3, 128, 128), np.float32)
    before = tile.copy()
    blender.add(0, tile)
    assert np.array_equal(tile, before)


@pytest.mark.parametrize(("height", "width"), [(20, 20), (20, 4000), (4000, 20), (4000, 4000)])
def test_what_waits_is_a_strip_one_seam_high(height: int, width: int) -> None:
    tile = facts(overlap=12, context=4)
    seam = (12 - 2 * 4) * tile.scale
    several_rows = height > tile.height
    assert Blender(plan(height, width, tile))._strip.nbytes == several_rows * seam * width * tile.scale * 3 * 4
