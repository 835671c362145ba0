"""The zoom session: which tiles run, exact reuse, newest frame wins, deadlines, faults, closing, formats in and out."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_helpers import FakeSession, facts, fake_upscaler, photograph, write_bundle

from zoomrt.errors import InputError, RuntimeFault, UsageError
from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, empty_like
from zoomrt.runtime.frames.yuv import read_window, write_view
from zoomrt.runtime.upscaler import Upscaler, load
from zoomrt.runtime.zoom.session import ZoomSession

FRAME = (120, 160)
OUTPUT = (160, 120)


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return photograph(*FRAME)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("zoom") / "b", facts(batches=(1, 4)), 7)


@pytest.fixture
def upscaler(bundle: Path) -> Iterator[Upscaler]:
    with load(bundle, threads=1) as loaded:
        yield loaded


def fake_zoom(size: tuple[int, int] = OUTPUT, **options: Any) -> tuple[ZoomSession, FakeSession]:
    hooks = {name: options.pop(name) for name in ("before", "after") if name in options}
    upscaler, session = fake_upscaler(facts(), **hooks)
    return ZoomSession(upscaler, size, **options), session


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for another thread; fails when it never happens."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_only_the_tiles_of_the_crop_run(frame: NDArray[np.uint8]) -> None:
    session, engine = fake_zoom()
    with session:
        result = session.process(frame, 8.0, (0.5, 0.5))
        assert result.mode == "full"
        assert 1 <= result.tiles == result.computed == engine.runs <= 4  # of 48 in the frame
        assert result.reused == result.bicubic == 0
        assert result.pixels.shape == (120, 160, 3)


def test_no_tile_runs_where_the_output_is_no_finer_than_the_frame(frame: NDArray[np.uint8]) -> None:
    session, engine = fake_zoom()
    with session:
        result = session.process(frame, 1.0)
        assert (result.mode, result.tiles, engine.runs) == ("full", 0, 0)
        np.testing.assert_array_equal(result.pixels, frame)


def test_a_pan_reuses_tiles_bit_for_bit(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    path = [(4.0, (0.4 + 0.004 * step, 0.5)) for step in range(25)]
    with ZoomSession(upscaler, OUTPUT) as session, ZoomSession(upscaler, OUTPUT, reuse=False) as anew:
        results = [session.process(frame, *view) for view in path]
        for result, view in zip(results, path, strict=True):
            fresh = anew.process(frame, *view)
            assert fresh.reused == 0
            assert fresh.computed == fresh.tiles == result.computed + result.reused
            np.testing.assert_array_equal(result.pixels, fresh.pixels)
        assert sum(result.reused for result in results) > 3 * sum(result.computed for result in results)


def test_one_changed_pixel_recomputes_its_tiles_alone(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    with ZoomSession(upscaler, OUTPUT) as session:
        whole = session.process(frame, 2.0)
        changed = frame.copy()
        changed[60, 80] ^= 255
        result = session.process(changed, 2.0)
        assert 1 <= result.computed <= 4 < result.tiles == whole.tiles
        assert result.reused == result.tiles - result.computed
        with ZoomSession(upscaler, OUTPUT) as other:
            np.testing.assert_array_equal(result.pixels, other.process(changed, 2.0).pixels)


def test_a_small_cache_and_a_new_frame_size_change_no_pixel(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    other = photograph(100, 140)
    with ZoomSession(upscaler, OUTPUT) as session, ZoomSession(upscaler, OUTPUT, cache_bytes=1) as forgetful:
        for picture in (frame, other, frame):
            for zoom in (1.3, 3.0, 3.0):
                one, two = session.process(picture, zoom), forgetful.process(picture, zoom)
                np.testing.assert_array_equal(one.pixels, two.pixels)


def test_submitted_frames_equal_processed_ones(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    with ZoomSession(upscaler, OUTPUT) as session:
        for zoom in (1.0, 1.2, 2.5, 16.0):
            view = session.result(session.submit(frame, zoom, (0.3, 0.6)), 20)
            np.testing.assert_array_equal(view.pixels, session.process(frame, zoom, (0.3, 0.6)).pixels)


def test_the_newest_frame_wins() -> None:
    """While the first frame is held in the engine, three more come: two are dropped at once, the last is answered."""
    gate, entered = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        entered.set()
        assert gate.wait(20)

    session, _ = fake_zoom(before=hold)
    with session:
        frames = [np.full((*FRAME, 3), 10 * count, np.uint8) for count in range(4)]
        tickets = [session.submit(frames[0], 8.0)]
        assert entered.wait(20)
        tickets += [session.submit(frame, 8.0) for frame in frames[1:]]
        for ticket in tickets[1:3]:
            dropped = ticket.result(20)
            assert (dropped.mode, dropped.frame) == ("dropped", None)
            with pytest.raises(RuntimeFault, match="dropped"):
                dropped.pixels  # noqa: B018
        assert not tickets[3].done()
        gate.set()
        assert tickets[0].result(20).pixels[0, 0, 0] == 0
        assert tickets[3].result(20).pixels[0, 0, 0] == 30


def test_a_cancelled_ticket_is_not_computed(frame: NDArray[np.uint8]) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        entered.set()
        assert gate.wait(20)

    session, engine = fake_zoom(before=hold)
    with session:
        first = session.submit(frame, 16.0)
        assert entered.wait(20)
        second = session.submit(255 - frame, 16.0)
        assert second.cancel()
        gate.set()
        first.result(20)
        runs = engine.runs
        session.process(frame, 16.0)
        assert engine.runs == runs


def test_a_slow_engine_gives_bicubic_in_time_and_refines_while_the_view_is_still(frame: NDArray[np.uint8]) -> None:
    """The engine waits for a gate, so that nothing here depends on how fast the machine is."""
    steps = threading.Semaphore(2)  # the two warm-up runs

    def held(_: int) -> None:
        assert steps.acquire(timeout=20)
        time.sleep(0.02)

    session, engine = fake_zoom(before=held, budget_ms=1.0)
    with session:
        first = session.process(frame, 8.0)
        assert (first.mode, first.computed, engine.runs) == ("bicubic", 0, 2)
        assert first.bicubic == first.tiles > 1
        second = session.process(frame, 8.0)  # the same view again: the engine begins
        assert second.mode == "bicubic"
        for count in range(1, first.tiles + 1):
            steps.release()
            until(lambda: session._cache.bytes > 0 and len(session._cache._entries) == count)  # noqa: B023
            if count < first.tiles:
                partly = session.process(frame, 8.0)
                assert partly.mode == "centre_first"
                assert partly.reused == count
                assert partly.bicubic == first.tiles - count
        last = session.process(frame, 8.0)
        assert (last.mode, last.reused) == ("full", first.tiles)
        assert engine.runs == 2 + first.tiles  # none twice
    exact, _ = fake_zoom()
    with exact:
        np.testing.assert_array_equal(exact.process(frame, 8.0).pixels, last.pixels)


def test_a_moving_view_leaves_a_slow_engine_alone(frame: NDArray[np.uint8]) -> None:
    session, engine = fake_zoom(before=lambda _: time.sleep(0.02), budget_ms=1.0)
    with session:
        for step in range(10):
            assert session.process(frame, 8.0 + 0.01 * step).mode == "bicubic"
        assert engine.runs == 2  # the warm-up


def test_noise_below_the_tolerance_is_a_still_view(frame: NDArray[np.uint8], rng: np.random.Generator) -> None:
    def noisy() -> NDArray[np.uint8]:
        return np.clip(frame + rng.normal(0, 1, frame.shape), 0, 255).round().astype(np.uint8)

    session, engine = fake_zoom(still_tolerance=4 / 255)
    with session:
        first = session.process(noisy(), 8.0)
        for _ in range(5):
            assert session.process(noisy(), 8.0).reused == first.tiles
        assert engine.runs == first.tiles
        assert session.process(255 - frame, 8.0).reused == 0
    strict, _ = fake_zoom()
    with strict:
        strict.process(noisy(), 8.0)
        assert strict.process(noisy(), 8.0).reused == 0


def test_overload_is_answered_in_time_with_few_frames_in_memory(frame: NDArray[np.uint8]) -> None:
    """Frames come four times faster than even bicubic answers leave: every ticket ends, and none waits but one."""
    session, _ = fake_zoom(before=lambda _: time.sleep(0.005), budget_ms=5.0)
    with session:
        tickets = []
        for count in range(200):
            tickets.append(session.submit(frame, 2.0 + 0.01 * count))
            assert sum(not ticket.done() for ticket in tickets) <= 2
            time.sleep(0.001)
        modes = [ticket.result(20).mode for ticket in tickets]
        assert modes[-1] != "dropped"
        assert set(modes) <= {"bicubic", "centre_first", "full", "dropped"}


def test_smoothing_is_used_when_asked_for(frame: NDArray[np.uint8], rng: np.random.Generator) -> None:
    plain, _ = fake_zoom()
    smooth, _ = fake_zoom(noise=3 / 255)
    with plain, smooth:
        views: dict[str, list[NDArray[np.uint8]]] = {"plain": [], "smooth": []}
        for _ in range(16):
            noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).round().astype(np.uint8)
            views["plain"].append(plain.process(noisy, 4.0).pixels)
            views["smooth"].append(smooth.process(noisy, 4.0).pixels)
        spread = {name: np.var(np.array(pictures[8:], float), axis=0).mean() for name, pictures in views.items()}
        assert spread["smooth"] < 0.4 * spread["plain"]


class Boom(Exception):
    pass


@pytest.mark.parametrize("error", [Boom("engine"), RuntimeFault("x", seen="a", needed="b", remedy="c"), MemoryError()])
def test_a_fault_ends_its_frame_and_no_other(frame: NDArray[np.uint8], error: Exception) -> None:
    broken = True

    def fail(_: int) -> None:
        if broken:
            raise error

    session, _ = fake_zoom(before=fail)
    with session:
        for _ in range(2):
            with pytest.raises(type(error)):
                session.process(frame, 4.0)
            with pytest.raises(type(error)):
                session.submit(frame, 4.0).result(20)
        broken = False
        result = session.process(frame, 4.0)
        assert result.mode == "full"
        assert session.submit(frame, 4.0).result(20).reused == result.tiles


def test_a_fault_in_the_background_is_told_with_the_next_view(frame: NDArray[np.uint8]) -> None:
    def slow(run: int) -> None:
        time.sleep(0.02)
        if run > 2:
            raise Boom("engine")

    session, engine = fake_zoom(before=slow, budget_ms=1.0)
    with session:
        session.process(frame, 16.0)
        session.process(frame, 16.0)
        until(lambda: engine.runs > 2 and not session._engine.running()[0])
        until(lambda: isinstance(session.process(frame, 16.0).problem, Boom))


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


def test_close_is_clean_in_any_state(frame: NDArray[np.uint8]) -> None:
    gate, entered = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        entered.set()
        gate.wait(20)

    before = threading.active_count()
    session, engine = fake_zoom(before=hold)
    busy = session.submit(frame, 4.0)
    assert entered.wait(20)
    waiting = session.submit(frame, 5.0)
    closer = threading.Thread(target=session.close)
    closer.start()
    with pytest.raises(RuntimeFault, match="closed"):
        waiting.result(20)
    gate.set()
    with pytest.raises(RuntimeFault, match="closed"):
        busy.result(20)
    closer.join(20)
    assert threading.active_count() == before
    session.close()
    assert session.closed
    assert engine.released == 0  # the upscaler was the caller's
    for call in (session.process, session.submit):
        with pytest.raises(RuntimeFault, match="closed"):
            call(frame, 2.0)  # type: ignore[operator]


def test_a_session_closes_the_bundle_that_it_opened(bundle: Path, frame: NDArray[np.uint8]) -> None:
    with ZoomSession(bundle, OUTPUT, threads=1) as session:
        session.process(frame, 2.0)
    assert session._upscaler.closed


def test_another_colour_step(bundle: Path, upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    """Chosen when loading, which is the caller's where an upscaler is given."""
    views = []
    for colour in (None, "none", "wavelet"):
        with ZoomSession(bundle, OUTPUT, colour=colour, threads=1) as session:
            views.append(session.process(frame, 4.0).pixels)
    assert np.array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    with load(bundle, threads=1, colour="wavelet") as loaded, ZoomSession(loaded, OUTPUT) as session:
        assert np.array_equal(session.process(frame, 4.0).pixels, views[2])
    with pytest.raises(UsageError, match=r"colour='wavelet' with a loaded Upscaler.*zoomrt.load"):
        ZoomSession(upscaler, OUTPUT, colour="wavelet")
    with pytest.raises(UsageError, match="unknown colour step"):
        ZoomSession(bundle, OUTPUT, colour="auto")


def test_two_sessions_share_one_engine(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    with ZoomSession(upscaler, OUTPUT) as one, ZoomSession(upscaler, (80, 60)) as two:
        expected = [one.process(frame, 3.0).pixels, two.process(frame, 3.0).pixels]
    with ZoomSession(upscaler, OUTPUT) as one, ZoomSession(upscaler, (80, 60)) as two:
        tickets = [one.submit(frame, 3.0), two.submit(frame, 3.0)]
        for ticket, pixels in zip(tickets, expected, strict=True):
            np.testing.assert_array_equal(ticket.result(20).pixels, pixels)


@pytest.mark.parametrize("given", LAYOUTS)
@pytest.mark.parametrize("asked", [None, "rgb", "nv12"])
def test_every_format_in_and_out(upscaler: Upscaler, frame: NDArray[np.uint8], given: Any, asked: Any) -> None:
    """Against the view of the RGB that the planes stand for, rounded to 8 bits, converted to the same format."""
    source = empty_like(CameraFrame((frame,)), FRAME, given)
    write_view(frame.transpose(2, 0, 1).astype(np.float32) / 255, source)
    with ZoomSession(upscaler, OUTPUT, output_format=asked) as session:
        view = session.process(source, 3.0).frame
        assert view is not None
        assert view.format == (asked or given)
        assert view.shape == (120, 160)
        out = empty_like(view, view.shape)
        again = session.process(source, 3.0, out=out)
        assert again.frame is out
        assert all(np.array_equal(one, two) for one, two in zip(out.planes, view.planes, strict=True))
    whole = slice(0, FRAME[0]), slice(0, FRAME[1])
    rgb = np.rint(read_window(source, *whole).transpose(1, 2, 0) * 255).astype(np.uint8)
    with ZoomSession(upscaler, OUTPUT) as session:
        direct = session.process(rgb, 3.0).pixels
    expected = empty_like(view, view.shape)
    write_view(direct.transpose(2, 0, 1).astype(np.float32) / 255, expected)
    pictures = [read_window(picture, slice(0, 120), slice(0, 160)) * 255 for picture in (view, expected)]
    assert np.abs(pictures[0] - pictures[1]).mean() <= 1.0


@pytest.mark.parametrize("format", ["p010", "i010", "i210", "i410", "rgb48"])
def test_every_level_of_more_than_8_bits_comes_out(format: Any, rng: np.random.Generator) -> None:
    """Through an engine that repeats pixels, in a view of its size: each code comes back, wherever it is."""
    bits = 16 if format == "rgb48" else 10
    codes = rng.permutation(1 << bits)[:1024].repeat(4).reshape(64, 64)  # all of 10 bits
    source = empty_like(CameraFrame((np.zeros((1, 1, 3), np.uint8),), full_range=True), codes.shape, format)
    for plane in source.planes:
        plane[...] = 512 << (6 if format == "p010" else 0)  # no chroma
    shift = 6 if format == "p010" else 0
    source.pixels[...] = (codes << shift)[..., None] if bits == 16 else codes << shift
    session, _ = fake_zoom((4 * codes.shape[1], 4 * codes.shape[0]))
    with session:
        result = session.process(source, 1.0)
    assert result.mode == "full"
    assert result.tiles > 1
    expected = source.pixels.repeat(4, 0).repeat(4, 1)
    assert result.pixels.dtype == np.uint16
    np.testing.assert_array_equal(result.pixels, expected)


@pytest.mark.parametrize("aspect", [4 / 3, 16 / 15, 0.5])
def test_a_view_of_pixels_that_are_not_square_shows_circles_as_circles(aspect: float) -> None:
    """A picture of smooth rings, sampled at the frame's pixels, against the same rings at the view's."""

    def rings(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """In [0, 1], at positions in frame rows from the middle."""
        return 0.5 + 0.4 * np.cos(np.hypot(x[None], y[:, None]) / 5)

    height, width, zoom = 90, 100, 3.0
    columns, rows = ((np.arange(side) + 0.5 - side / 2) for side in (width, height))
    pixels = (rings(columns * aspect, rows) * 65535).round().astype(np.uint16)[:, :, None].repeat(3, 2)
    step = min(height / OUTPUT[1], width * aspect / OUTPUT[0]) / zoom
    columns, rows = ((np.arange(side) + 0.5 - side / 2) * step for side in OUTPUT)
    expected = rings(columns, rows)
    session, _ = fake_zoom()
    with session:
        plain = session.bicubic(CameraFrame((pixels,), "rgb48", pixel_aspect=aspect), zoom)
        result = session.process(CameraFrame((pixels,), "rgb48", pixel_aspect=aspect), zoom)
    assert result.frame is not None
    assert result.frame.pixel_aspect == plain.pixel_aspect == 1
    assert np.abs(plain.pixels[:, :, 1] / 65535 - expected).max() < 0.01
    assert np.abs(result.pixels[:, :, 1] / 65535 - expected).mean() < 0.03, "an engine that repeats pixels"


def test_an_output_that_does_not_fit_is_refused(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    locked = np.zeros((120, 160, 3), np.uint8)
    locked.flags.writeable = False
    with session:
        for out in (np.zeros((60, 80, 3), np.uint8), locked):
            with pytest.raises(InputError, match="writable"):
                session.process(frame, 2.0, out=CameraFrame((out,)))
        for alien in (bytearray(3 * 120 * 160), [1], np.zeros((120, 160, 3)), np.zeros((120, 160), np.uint8)):
            with pytest.raises(InputError, match=r"view|planes"):
                session.process(frame, 2.0, out=alien)  # type: ignore[arg-type]


def test_an_array_is_an_output_too(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    whole = np.zeros((120, 320, 3), np.uint8)
    out = whole[:, 160:]
    with session:
        result = session.process(frame, 3.0, out=out)
        assert result.pixels is out
        np.testing.assert_array_equal(out, session.process(frame, 3.0).pixels)
        np.testing.assert_array_equal(out, session.submit(frame, 3.0, out=np.zeros_like(out)).result(20).pixels)
    assert not whole[:, :160].any()


def test_frames_are_read_only_and_in_place(upscaler: Upscaler, frame: NDArray[np.uint8]) -> None:
    """A buffer that must not be written to, with gaps between its rows, gives the view of its copy."""
    wide = np.zeros((FRAME[0], 2 * FRAME[1], 3), np.uint8)
    strided = wide[:, 10 : 10 + FRAME[1]]
    strided[...] = frame
    wide.flags.writeable = False
    with ZoomSession(upscaler, OUTPUT) as session:
        view = session.process(strided, 3.0).pixels
        np.testing.assert_array_equal(view, session.process(frame, 3.0).pixels)
        np.testing.assert_array_equal(view, session.process(frame[::-1][::-1], 3.0).pixels)


def test_memory_and_threads_stay_flat(bundle: Path, frame: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """The short form of benchmarks/endurance.py: random zoom and pan, counted in objects rather than pages."""
    import psutil

    process = psutil.Process()
    with (
        ZoomSession(bundle, OUTPUT, threads=1, cache_bytes=2 << 20) as session,
        ZoomSession(bundle, OUTPUT, threads=1) as other,
    ):

        def some(count: int) -> None:
            for _ in range(count):
                zoom, centre = float(rng.uniform(1, 16)), (float(rng.random()), float(rng.random()))
                view = session.result(session.submit(frame, zoom, centre), 20)
                np.testing.assert_array_equal(view.pixels, other.process(frame, zoom, centre).pixels)

        some(20)
        counts = threading.active_count(), process.num_fds()
        some(60)
        assert (threading.active_count(), process.num_fds()) == counts
        session.process(frame, 16.0)
        assert session._cache.bytes <= 2 << 20


def test_a_still_view_becomes_whole_whatever_the_cache_may_hold(frame: NDArray[np.uint8]) -> None:
    session, engine = fake_zoom(before=lambda _: time.sleep(0.002), budget_ms=1.0, cache_bytes=0)
    with session:
        tiles = session.process(frame, 4.0).tiles
        assert tiles > 4
        until(lambda: session.process(frame, 4.0).reused == tiles)
        runs = engine.runs
        held = session._cache.bytes
        assert session.process(frame, 4.0).mode == "full"
        assert engine.runs == runs
        session.process(frame, 1.0)  # no tile wanted
        assert session._cache.bytes == 0 < held


def test_a_session_that_is_dropped_ends_its_threads(bundle: Path, frame: NDArray[np.uint8]) -> None:
    before = set(threading.enumerate())
    session = ZoomSession(bundle, OUTPUT, threads=1, budget_ms=50)
    session.result(session.submit(frame, 3.0), 20)
    ticket = session.submit(frame, 16.0)
    threads = [thread for thread in threading.enumerate() if thread not in before]
    held = [weakref.ref(session), weakref.ref(session._upscaler)]
    assert len(threads) >= 2
    del session
    assert ticket.result(20).mode != "dropped"  # what was handed in before is answered

    def gone() -> bool:
        gc.collect()
        return not any(thread.is_alive() for thread in threads) and not any(reference() for reference in held)

    until(gone)


@pytest.mark.skipif(sys.platform != "linux", reason="only there have threads priorities of their own")
@pytest.mark.parametrize(("own", "expected"), [(0, 10), (15, 15)])
def test_the_engine_gives_way_and_never_pushes(frame: NDArray[np.uint8], own: int, expected: int) -> None:
    """In a thread that is nicer already, as the whole process may be."""
    seen = []

    def work() -> None:
        me = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, me, max(own, os.getpriority(os.PRIO_PROCESS, me)))
        session, _ = fake_zoom(budget_ms=1e4)
        with session:
            assert session.process(frame, 8.0).mode == "full"
            seen.append(os.getpriority(os.PRIO_PROCESS, session._engine._thread.native_id or 0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert seen == [expected]


def test_a_priority_that_is_refused_changes_nothing(frame: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no CAP_SYS_NICE")

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    session, _ = fake_zoom(budget_ms=1e4)
    with session:
        assert session.submit(frame, 8.0).result(20).mode == "full"


def test_an_engine_thread_that_ends_is_told(frame: NDArray[np.uint8]) -> None:
    session, _ = fake_zoom()
    with session:
        session._engine._engine = None  # type: ignore[assignment]  # stands for any fault outside a tile
        for _ in range(3):
            with pytest.raises(RuntimeFault, match="AttributeError"):
                session.submit(frame, 8.0).result(20)
