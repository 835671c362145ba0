"""The plan's arithmetic against its definition: full cover, weights that sum to one, no pixel outside, no cut shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from legal_facts import legal_facts
from runtime_helpers import facts, slow_axis_weights

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError
from zoomrt.runtime.sizes import check_size
from zoomrt.runtime.tiles.plan import AxisPlan, plan, reflect_indices


@settings(max_examples=150)
@given(legal_facts(), st.integers(1, 9000), st.integers(1, 9000))
def test_every_output_pixel_has_weights_that_sum_to_one(tile: TileFacts, height: int, width: int) -> None:
    tiles = plan(height, width, tile)
    for axis in (tiles.rows, tiles.columns):
        total = np.zeros(axis.size * axis.scale)
        for span in axis.spans:
            weight = np.ones(span.stop - span.start, np.float32)
            weight[: span.rise] = axis.ramp[: span.rise]
            weight[weight.size - span.fall :] = axis.fade[: span.fall]
            total[span.start : span.stop] += weight
        assert np.abs(total - 1).max() <= 1e-6


@settings(max_examples=150)
@given(legal_facts(), st.integers(1, 9000))
def test_tiles_stay_inside_and_seams_stay_away_from_cuts(tile: TileFacts, width: int) -> None:
    axis = plan(1, width, tile).columns
    first, last = axis.spans[0], axis.spans[-1]
    assert (first.start, first.rise, last.stop, last.fall) == (0, 0, width * tile.scale, 0)
    assert all(a.done == b.start for a, b in zip(axis.spans, axis.spans[1:], strict=False)), "each pixel is done once"
    if width <= tile.width:
        assert len(axis.spans) == 1
    else:
        assert first.origin == 0
        assert last.origin + tile.width == width, "the last tile is flush with the edge"
        assert all(0 <= span.origin <= width - tile.width for span in axis.spans)
        steps = np.diff([span.origin for span in axis.spans])
        assert (steps[:-1] == tile.width - tile.overlap).all()
        assert 0 < steps[-1] <= tile.width - tile.overlap
    for span in axis.spans:
        begin, end = span.origin * tile.scale, (span.origin + tile.width) * tile.scale
        assert span.offset == span.start - begin
        margin = tile.context * tile.scale
        assert span is first or span.start >= begin + margin, "context at an inner edge has weight zero"
        assert span is last or span.stop <= end - margin, "context at an inner edge has weight zero"
        assert span.rise + span.fall <= span.stop - span.start


@settings(max_examples=150)
@given(legal_facts(longest=14), st.integers(1, 60), st.integers(1, 60))
def test_weights_are_those_of_the_slow_two_dimensional_reference(tile: TileFacts, height: int, width: int) -> None:
    tiles = plan(height, width, tile)
    slow_rows, slow_columns = (
        slow_axis_weights(height, tile, tile.height),
        slow_axis_weights(width, tile, tile.width),
    )
    assert len(tiles) == len(slow_rows) * len(slow_columns)
    total = np.zeros((height * tile.scale, width * tile.scale))
    for index in range(len(tiles)):
        row, column = tiles.position(index)
        weight = np.outer(tiles.rows.weights(row), tiles.columns.weights(column))
        assert np.abs(weight - np.outer(slow_rows[row], slow_columns[column])).max() <= 1e-6
        total += weight
    assert np.abs(total - 1).max() <= 1e-6


@given(st.integers(-100, 100), st.integers(1, 100), st.integers(1, 40))
def test_reflect_indices_are_those_of_numpy_pad(origin: int, count: int, size: int) -> None:
    before, after = max(0, -origin), max(0, origin + count - size)
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    expected = padded[origin + before : origin + before + count]
    assert reflect_indices(origin, count, size).tolist() == expected.tolist()


def test_indices_are_slices_inside_and_mirrored_where_the_picture_is_small() -> None:
    large = plan(100, 100, facts()).rows
    assert [large.indices(i) for i in range(len(large.spans))][-1] == slice(68, 100)
    small = plan(7, 100, facts()).rows
    assert small.spans[0].origin == -12, "a small picture lies in the middle of its tile"
    np.testing.assert_array_equal(small.indices(0), np.pad(np.arange(7), (12, 13), mode="reflect"))


def test_tiles_are_named_for_people() -> None:
    assert plan(40, 60, facts()).name(4) == "tile 5 of 6 (32x32 input pixels at x=20, y=8)"


def test_plan_is_immutable() -> None:
    axis = plan(40, 60, facts()).rows
    assert isinstance(axis, AxisPlan)
    with pytest.raises(AttributeError):
        axis.size = 3  # type: ignore[misc]


@pytest.mark.parametrize("size", [(1, 1), (4320, 8192), (16320, 12240), (1, 65535)])
def test_sizes_up_to_a_phones_200_megapixels_pass(size: tuple[int, int]) -> None:
    check_size(*size, "cannot")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (65536, 1), (1, 65536), (16400, 16400)])
def test_sizes_out_of_bounds_are_input_errors(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="cannot: got"):
        check_size(*size, "cannot")
