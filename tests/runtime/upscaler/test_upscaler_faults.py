"""Faults in the middle of a frame, injected by a fake session: a clear error, and the upscaler stays usable."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from runtime_helpers import facts, fake_upscaler
from seeds import rng_for

from zoomrt.errors import RuntimeFault, ZoomrtError

FRAME = rng_for("test_upscaler_faults").integers(0, 256, (90, 90, 3), np.uint8)
EXPECTED = FRAME.repeat(4, 0).repeat(4, 1)


def raising(error: BaseException, at: int) -> Callable[[int], None]:
    def before(run: int) -> None:
        if run == at:
            raise error

    return before


@pytest.mark.parametrize("at", [1, 5, 16])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeFault("the engine failed", seen="a fault", needed="none", remedy="Try again."),
        MemoryError(),
        KeyboardInterrupt(),
    ],
)
def test_an_exception_in_the_engine_comes_through_and_the_next_frame_is_right(error: BaseException, at: int) -> None:
    upscaler, session = fake_upscaler(facts(), before=raising(error, at))
    with pytest.raises(type(error)):
        upscaler(FRAME)
    assert session.runs == at
    assert not upscaler.closed
    assert np.array_equal(upscaler(FRAME), EXPECTED)


def test_a_tile_of_nan_leaves_the_upscaler_usable() -> None:
    def spoil(run: int, output: np.ndarray) -> np.ndarray:
        return output * np.nan if run == 3 else output

    upscaler, _ = fake_upscaler(facts(), after=spoil)
    with pytest.raises(RuntimeFault, match="tile 3 of 16"):
        upscaler(FRAME)
    assert np.array_equal(upscaler(FRAME), EXPECTED)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("from the callback")])
def test_ctrl_c_and_errors_in_the_progress_callback_end_the_call(error: BaseException) -> None:
    def on_tile(done: int, _total: int) -> None:
        if done == 4:
            raise error

    upscaler, session = fake_upscaler(facts())
    with pytest.raises(type(error)):
        upscaler.upscale(FRAME, on_tile=on_tile)
    assert session.runs == 4
    assert np.array_equal(upscaler(FRAME), EXPECTED), "the lock was given back"


def test_another_thread_can_go_on_after_an_interrupt() -> None:
    upscaler, _ = fake_upscaler(facts(), before=raising(KeyboardInterrupt(), 5))
    with pytest.raises(KeyboardInterrupt):
        upscaler(FRAME)
    results: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: results.append(upscaler(FRAME)))
    thread.start()
    thread.join(timeout=30)
    assert len(results) == 1
    assert np.array_equal(results[0], EXPECTED)


def test_closing_from_the_callback_ends_the_frame_with_a_fault() -> None:
    upscaler, session = fake_upscaler(facts())
    with pytest.raises(RuntimeFault, match="closed upscaler"):
        upscaler.upscale(FRAME, on_tile=lambda _done, _total: upscaler.close())
    assert (session.runs, session.released) == (1, 1)


def test_closing_from_another_thread_waits_for_the_tile_under_way() -> None:
    inside, go_on = threading.Event(), threading.Event()
    events: list[str] = []

    def hold(run: int) -> None:
        if run == 2:
            inside.set()
            assert go_on.wait(timeout=30)
            assert session.released == 0, "the engine was released under a running tile"
            events.append("tile done")

    upscaler, session = fake_upscaler(facts(), before=hold)
    errors: list[ZoomrtError] = []

    def work() -> None:
        try:
            upscaler(FRAME)
        except ZoomrtError as error:
            errors.append(error)

    def close() -> None:
        upscaler.close()
        events.append("closed")

    worker, closer = threading.Thread(target=work), threading.Thread(target=close)
    worker.start()
    assert inside.wait(timeout=30)
    closer.start()
    while not upscaler.closed:  # the closer has announced itself and waits for the tile
        threading.Event().wait(0.001)
    go_on.set()
    worker.join(timeout=30)
    closer.join(timeout=30)
    assert events == ["tile done", "closed"]
    assert session.runs == 2
    assert session.released == 1
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeFault)


def test_a_callback_may_upscale_another_frame_in_between() -> None:
    upscaler, _ = fake_upscaler(facts(batches=(1, 4)))
    small = FRAME[:20, :20]
    inner: list[np.ndarray] = []
    result = upscaler.upscale(FRAME, on_tile=lambda _done, _total: inner.append(upscaler(small)))
    assert np.array_equal(result, EXPECTED)
    assert all(np.array_equal(frame, EXPECTED[:80, :80]) for frame in inner)
