"""The visible crop: where it lies, how much of the network it shows, which tiles and pixels it reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_helpers import facts

from zoomrt.errors import InputError
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.zoom.crop import centre_first, crop_of, lr_range, needed_spans, network_share

MAX_ZOOM = 64.0

SIDES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))
FRACTIONS = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(SIDES, SIDES, st.floats(1, MAX_ZOOM), FRACTIONS, st.sampled_from([1.0, 16 / 15, 4 / 3, 0.5, 64.0]))
def test_the_crop_is_inside_and_has_the_outputs_shape(
    frame: tuple[int, int], output: tuple[int, int], zoom: float, centre: tuple[float, float], aspect: float
) -> None:
    crop = crop_of(frame, output, zoom, centre, aspect)
    assert crop.top >= 0
    assert crop.left >= 0
    assert crop.top + crop.height <= frame[0] * (1 + 1e-12)
    assert crop.left + crop.width <= frame[1] * (1 + 1e-12)
    assert crop.height / output[0] == pytest.approx(crop.width * aspect / output[1], rel=1e-9)
    whole = crop_of(frame, output, 1.0, pixel_aspect=aspect)
    assert whole.height * (1 / zoom) == pytest.approx(crop.height, rel=1e-9)
    assert whole.height == pytest.approx(frame[0]) or whole.width == pytest.approx(frame[1])


def test_the_centre_is_the_middle_unless_the_edge_is_near() -> None:
    crop = crop_of((720, 1280), (360, 640), 4.0, (0.6, 0.4))
    assert (crop.top, crop.left) == (0.4 * 720 - 90, 0.6 * 1280 - 160)
    assert crop_of((720, 1280), (360, 640), 4.0, (1.0, 0.0)).left == 1280 - 320


@pytest.mark.parametrize("zoom", [0.99, 0, -1, MAX_ZOOM + 1, float("nan"), float("inf")])
def test_zoom_out_of_range(zoom: float) -> None:
    with pytest.raises(InputError, match="1 to 64"):
        crop_of((10, 10), (10, 10), zoom)


@pytest.mark.parametrize("centre", [(-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_centre_out_of_range(centre: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="0 to 1"):
        crop_of((10, 10), (10, 10), 2, centre)


def test_share_rises_smoothly_from_none_to_all() -> None:
    share = np.array([network_share(m) for m in np.arange(0.5, 2.5, 0.01)])
    assert share[0] == 0
    assert network_share(1.0) == 0
    assert network_share(1.5) == 1
    assert (np.diff(share) >= 0).all()
    assert np.diff(share).max() <= 1.5 * 0.01 / 0.5 + 1e-9  # the steepest slope of a smooth step


@given(st.integers(1, 400), st.data())
def test_needed_tiles_are_those_with_weight(size: int, data: st.DataObject) -> None:
    axis = plan(size, 40, facts()).rows
    first = data.draw(st.integers(0, size * 4 - 1))
    stop = data.draw(st.integers(first + 1, size * 4))
    chosen = needed_spans(axis, first, stop)
    weighty = [index for index in range(len(axis.spans)) if axis.weights(index)[first:stop].any()]
    assert list(chosen) == weighty
    total = sum(axis.weights(index) for index in chosen)
    np.testing.assert_allclose(total[first:stop], 1, atol=1e-6)
    low, high = lr_range(axis, chosen)
    for index in chosen:
        read = np.arange(size)[axis.indices(index)]
        assert low <= read.min()
        assert read.max() < high


def test_the_centre_comes_first() -> None:
    tiles = plan(200, 300, facts())
    crop = crop_of((200, 300), (200, 300), 2, (0.7, 0.3))
    rows, columns = needed_spans(tiles.rows, 0, 800), needed_spans(tiles.columns, 0, 1200)
    order = centre_first(tiles, rows, columns, crop)
    assert sorted(order) == list(range(len(tiles)))
    middle = (crop.top + crop.height / 2, crop.left + crop.width / 2)

    def distance(index: int) -> float:
        row, column = tiles.position(index)
        return float(
            np.hypot(tiles.rows.spans[row].origin + 16 - middle[0], tiles.columns.spans[column].origin + 16 - middle[1])
        )

    assert [distance(index) for index in order] == sorted(distance(index) for index in order)
