"""The zoom session: which tiles run, exact reuse, newest frame wins, deadlines, faults, closing, formats in and out."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_helpers import photograph
from zoom_sessions import FRAME, OUTPUT, fake_zoom, until

from zoomrt.errors import RuntimeFault, UsageError
from zoomrt.runtime.upscaler import Upscaler, load
from zoomrt.runtime.zoom.session import ZoomSession


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
