"""The way of a zoom: what the options mean, and that it moves steadily."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.cli.video.zoom_path import Keyframe, ZoomPath, parse_keyframes, parse_path
from zoomrt.errors import UsageError

UNIT = st.floats(0, 1)


@given(st.floats(1, 16), st.floats(1, 16), st.tuples(UNIT, UNIT), st.tuples(UNIT, UNIT), st.floats(0.1, 100))
def test_equal_times_are_equal_factors_and_the_path_is_straight(
    start: float, stop: float, first: tuple[float, float], last: tuple[float, float], seconds: float
) -> None:
    path = ZoomPath([Keyframe(0, start, first), Keyframe(seconds, stop, last)])
    steps = [path.at(seconds * k / 8) for k in range(9)]
    factors = np.diff([math.log(zoom) for zoom, _ in steps])
    np.testing.assert_allclose(factors, math.log(stop / start) / 8, atol=1e-9)
    np.testing.assert_allclose(steps[0][1], first, atol=1e-9)
    np.testing.assert_allclose(steps[-1][1], last, atol=1e-9)
    if abs(stop / start - 1) > 1e-3:  # the centre moves in step with the crop's side
        sides = np.array([1 / zoom for zoom, _ in steps])
        for axis in (0, 1):
            places = np.array([centre[axis] for _, centre in steps])
            slope = (places[-1] - places[0]) / (sides[-1] - sides[0])
            np.testing.assert_allclose(places, places[0] + slope * (sides - sides[0]), atol=1e-6)
    assert all(min(start, stop) <= zoom <= max(start, stop) for zoom, _ in steps)  # 1 - 1e-16 would be refused
    assert path.at(-1) == (start, first)
    assert path.at(2 * seconds) == (stop, last)


def test_options() -> None:
    assert parse_path("4", "0.6,0.4", None).at(99) == (4.0, (0.6, 0.4))
    path = parse_path("1:8", "0.5,0.5:0.6,0.4", 3.0)
    assert path.at(0) == (1.0, (0.5, 0.5))
    assert path.at(3) == (8.0, (0.6, 0.4))
    assert path.at(1.5)[0] == pytest.approx(math.sqrt(8))
    pan = parse_path("2", "0.2,0.5:0.8,0.5", 2.0)
    assert pan.at(0.5) == (pytest.approx(2), pytest.approx((0.35, 0.5)))
    keys = parse_keyframes("0=1 2.5=8@0.6,0.4 4=2@0.1,0.9")
    assert keys.at(2.5) == (pytest.approx(8.0), pytest.approx((0.6, 0.4)))
    assert keys.at(9) == (2.0, (0.1, 0.9))


@pytest.mark.parametrize(
    ("zoom", "centre", "seconds"),
    [
        ("x", "0.5,0.5", 1.0),
        ("0", "0.5,0.5", 1.0),
        ("0.9", "0.5,0.5", 1.0),
        ("1:65", "0.5,0.5", 1.0),
        ("nan", "0.5,0.5", 1.0),
        ("1:2:3", "0.5,0.5", 1.0),
        ("1", "0.5", 1.0),
        ("1", "0.5,1.5", 1.0),
        ("1", "0.5,0.5,0.5", 1.0),
        ("1:4", "0.5,0.5", None),
    ],
)
def test_bad_paths(zoom: str, centre: str, seconds: float | None) -> None:
    with pytest.raises(UsageError, match="cannot use --"):
        parse_path(zoom, centre, seconds)


@pytest.mark.parametrize(
    "text", ["", "1", "a=1", "0=1@2,2", "2=1 1=2", "1=1 1=2", "0=inf", "0=1 0.1=0", "0=0.5", "0=65", "0=-1"]
)
def test_bad_keyframes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keyframes(text)
