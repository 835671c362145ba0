"""What a zoom session is asked: options, zooms, centres and frames that cannot be, and the absurd ones that can."""

from __future__ import annotations

import math
import threading
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from zoom_sessions import fake_zoom

from zoomrt.errors import InputError, UsageError


@pytest.mark.parametrize(
    ("zoom", "centre", "match"),
    [
        (0.5, (0.5, 0.5), "1 to 64"),
        (float("nan"), (0, 0), "1 to 64"),
        (None, (0.5, 0.5), "1 to 64"),
        ("3", (0.5, 0.5), "1 to 64"),
        (2, (2, 0), "0 to 1"),
        (2, None, "0 to 1"),
        (2, 0.5, "0 to 1"),
        (2, (0.5,), "0 to 1"),
        (2, (0.5, 0.5, 0.5), "0 to 1"),
        (2, ("0.5", "0.5"), "0 to 1"),
        (2, (0.5, float("nan")), "0 to 1"),
    ],
)
def test_bad_requests_are_told_and_forgotten(frame: NDArray[np.uint8], zoom: Any, centre: Any, match: str) -> None:
    session, _ = fake_zoom()
    with session:
        with pytest.raises(InputError, match=match):
            session.process(frame, zoom, centre)
        with pytest.raises(InputError, match=match):
            session.submit(frame, zoom, centre).result(20)
        with pytest.raises(InputError, match=match):
            session.bicubic(frame, zoom, centre)
        for unusable in (np.zeros((4, 4)), np.zeros((0, 4, 3), np.uint8), None, "frame"):
            with pytest.raises(InputError):
                session.process(unusable, 2.0)
            with pytest.raises(InputError):
                session.submit(unusable, 2.0).result(20)  # the ticket raises, not `submit`
        assert session.process(frame, 2.0).mode == "full"


def test_numbers_and_centres_of_numpy_are_taken(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    with session:
        expected = session.process(frame, 2.5, (0.25, 0.75)).pixels
        same = session.process(frame, np.float32(2.5), np.array([0.25, 0.75]))  # type: ignore[arg-type]
        np.testing.assert_array_equal(same.pixels, expected)


def test_a_frame_that_cannot_be_used_drops_no_other(frame: NDArray[np.uint8]) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        entered.set()
        assert gate.wait(20)

    session, _ = fake_zoom(before=hold)
    with session:
        session.submit(frame, 8.0)
        assert entered.wait(20)
        waiting = session.submit(frame, 8.0)
        assert isinstance(session.submit(None, 8.0).exception(20), InputError)
        gate.set()
        assert waiting.result(20).mode == "full"


@pytest.mark.parametrize(
    "options",
    [
        {"budget_ms": 0},
        {"budget_ms": -1},
        {"output_format": "nv99"},
        {"still_tolerance": 2},
        {"noise": -1},
        {"size": (0, 10)},
        {"size": (160,)},
        {"size": (160, 120, 3)},
        {"size": (160.0, 120.0)},
        {"size": "160x120"},
        {"size": None},
        {"size": (10**400, 60)},
        {"size": (10**5000, 60)},
        {"cache_bytes": -1},
        {"cache_bytes": None},
        {"budget_ms": "33"},
        *({"budget_ms": absurd} for absurd in (math.nan, math.inf, -math.inf, 1e308, 10**400, 10**5000)),
        {"noise": None},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"cannot zoom with|pixel format") as raised:
        fake_zoom(**options)
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("noise", [5e-324, 1e-50, np.float32(1e-3), 1])
def test_any_noise_gives_pixels(frame: NDArray[np.uint8], noise: Any) -> None:
    session, _ = fake_zoom(noise=noise)
    plain, _ = fake_zoom()
    with session, plain:
        expected = plain.process(frame, 8.0).pixels
        for _ in range(2):  # the same picture again: nothing to smooth
            np.testing.assert_array_equal(session.process(frame, 8.0).pixels, expected)


@pytest.mark.parametrize("budget_ms", [5e-324, 1_000_000, np.float32(33), Fraction(100, 3)])
def test_any_budget_that_a_clock_can_hold(frame: NDArray[np.uint8], budget_ms: Any) -> None:
    session, _ = fake_zoom(budget_ms=budget_ms)
    with session:
        assert session.process(frame, 8.0).mode in ("full", "centre_first", "bicubic")


@pytest.mark.parametrize(
    "absurd",
    [math.nan, math.inf, -math.inf, 0, -1, 1e308, 10**400, pytest.param(10**5000, id="5000 digits"), "2", None, 1j],
)
def test_absurd_zooms_centres_and_waits(frame: NDArray[np.uint8], absurd: Any) -> None:
    session, _ = fake_zoom()
    with session:
        problems = [session.submit(frame, absurd).exception(20)]
        if absurd != 0:
            problems += [session.submit(frame, 2.0, centre).exception(20) for centre in ((absurd, 0.5), (0.5, absurd))]
        for problem in problems:
            assert isinstance(problem, InputError)
            assert len(str(problem)) < 300
        ticket = session.submit(frame, 2.0)
        if absurd is not None and absurd != 0:
            with pytest.raises(UsageError, match="timeout_s"):
                session.result(ticket, absurd)
        assert session.result(ticket, 20).mode == "full"
