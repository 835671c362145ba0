"""Frames through the scheduler, and what it does when something fails: on threads, with faults on purpose."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import pytest
from device_helpers import Faults, fault, no_room, threaded
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import FakeSession, facts, fake_upscaler, manifest, write_bundle
from seeds import rng_for
from thread_device import SessionEngine, ThreadDevice

from zoomrt.errors import OutOfMemory, RuntimeFault
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.loading import choose_batch
from zoomrt.runtime.upscaler import Upscaler, engine_of, load

FRAME = rng_for("test_device_session").integers(0, 256, (90, 90, 3), np.uint8)
EXPECTED = FRAME.repeat(4, 0).repeat(4, 1)


def upscaler_on_threads(tile: Any, faults: Faults | None = None, slots: int = 2) -> tuple[Upscaler, Faults]:
    session, faults = threaded(tile, faults, slots)
    return Upscaler(manifest(tile), session), faults


@settings(max_examples=20)
@given(
    height=st.integers(1, 100),
    width=st.integers(1, 100),
    slots=st.integers(1, 4),
    batches=st.sampled_from([(1,), (1, 2), (1, 3, 4)]),
    dtype=st.sampled_from(["float32", "float16"]),
    colour=st.sampled_from(["none", "osediff"]),
    seed=st.integers(0, 2**32),
)
def test_frames_are_bit_identical_to_the_sequential_path(
    height: int, width: int, slots: int, batches: tuple[int, ...], dtype: str, colour: str, seed: int
) -> None:
    tile = facts(batches=batches, dtype=dtype, colour=colour)
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    plain, _ = fake_upscaler(tile)
    upscaler, _ = upscaler_on_threads(tile, slots=slots)
    with upscaler:
        assert np.array_equal(upscaler(frame), plain(frame))


def test_a_real_engine_gives_the_same_bits(tmp_path: Any, rng: np.random.Generator) -> None:
    tile = facts(batches=(1, 4))
    with load(write_bundle(tmp_path / "b", tile, 7), threads=1) as plain, engine_of(plain).use() as session:
        threads = DeviceSession(tile, ThreadDevice(), lambda _size, _stream: SessionEngine(session.run))
        with Upscaler(plain.manifest, threads) as upscaler:
            frame = rng.integers(0, 256, (75, 120, 3), np.uint8)
            assert np.array_equal(upscaler(frame), plain(frame))


def test_out_of_memory_in_a_frame_halves_the_batch_and_says_so_once() -> None:
    def before(_run: int, size: int) -> None:
        if size > 1:
            raise no_room()

    tile = facts(batches=(1, 2, 4))
    upscaler, faults = upscaler_on_threads(tile, Faults(tile, before))
    with upscaler:
        with pytest.warns(UserWarning, match="out of memory for a batch of") as said:
            assert np.array_equal(upscaler(FRAME), EXPECTED)
        assert [str(one.message).split(" (")[0] for one in said] == [
            "out of memory for a batch of 4",
            "out of memory for a batch of 2",
        ]
        assert upscaler.stats.batch == 1
        assert len(upscaler.stats.notes) == 2
        faults.sizes.clear()
        assert np.array_equal(upscaler(FRAME), EXPECTED), "and no second warning"
        assert set(faults.sizes) == {1}


@pytest.mark.parametrize("at", [2, 3])
def test_out_of_memory_in_the_middle_loses_no_tile(at: int) -> None:
    def before(run: int, _size: int) -> None:
        if run == at:
            raise no_room()

    tile = facts(batches=(1, 2, 4))
    upscaler, _ = upscaler_on_threads(tile, Faults(tile, before), slots=3)
    with upscaler:
        with pytest.warns(UserWarning, match="batch of 4"):
            result = upscaler(FRAME)
        assert np.array_equal(result, EXPECTED)
        assert upscaler.stats.batch == 2


def test_out_of_memory_for_one_tile_says_that_nothing_smaller_is_left() -> None:
    def before(_run: int, _size: int) -> None:
        raise no_room()

    for upscaler in (fake_upscaler(facts(), before=lambda run: before(run, 1))[0], upscaler_on_threads(facts())[0]):
        session: Any = engine_of(upscaler).session
        if isinstance(session, DeviceSession):
            upscaler, _ = upscaler_on_threads(facts(), Faults(facts(), before))
        with upscaler, pytest.raises(OutOfMemory, match=r"no smaller batch.*--tile 16.*--fallback"):
            upscaler(FRAME)


def test_the_sequential_path_recovers_in_the_same_way(rng: np.random.Generator) -> None:
    sizes: list[int] = []

    class Small(FakeSession):
        def _execute(self, batch: np.ndarray) -> np.ndarray:
            sizes.append(len(batch))
            if len(batch) > 2:
                raise no_room()
            return super()._execute(batch)

    tile = facts(batches=(1, 2, 5))
    upscaler = Upscaler(manifest(tile), Small(tile))
    with pytest.warns(UserWarning, match="batch of 5") as said:
        assert np.array_equal(upscaler(FRAME), EXPECTED)
    assert len(said) == 1
    assert sizes.count(5) == 1
    batch = rng.standard_normal((5, 3, 32, 32), np.float32)
    with engine_of(upscaler).use() as session:
        assert np.array_equal(session.run(batch), batch.repeat(4, 2).repeat(4, 3)), "whoever asks for 5 still gets 5"


def test_out_of_memory_while_loading_gives_up_the_large_batches() -> None:
    tile, loaded, closed = facts(batches=(1, 2, 4, 8)), list[int](), list[int]()

    class Engine(SessionEngine):
        def __init__(self, size: int) -> None:
            super().__init__(Faults(tile).enlarge)
            self.size = size

        def close(self) -> None:
            closed.append(self.size)

    def load_engine(size: int, _stream: object) -> SessionEngine:
        loaded.append(size)
        if size == 4:
            raise no_room("the engine does not fit")
        return Engine(size)

    with pytest.warns(UserWarning, match="batch of 4"):
        session = DeviceSession(tile, ThreadDevice(), load_engine)
    assert (loaded, session.batches) == ([1, 2, 4], (1, 2))
    with Upscaler(manifest(tile), session) as upscaler:
        assert np.array_equal(upscaler(FRAME), EXPECTED)
    assert closed == [1, 2]

    before = set(threading.enumerate())

    def never(_size: int, _stream: object) -> SessionEngine:
        raise no_room("the engine does not fit")

    with pytest.raises(OutOfMemory, match="no smaller batch"):
        DeviceSession(tile, ThreadDevice(), never)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_failing_tile_names_itself_and_the_next_frame_is_right(slots: int) -> None:
    def before(run: int, _size: int) -> None:
        if run == 3:
            raise fault()

    upscaler, faults = upscaler_on_threads(facts(), Faults(facts(), before), slots)
    with upscaler:
        with pytest.raises(RuntimeFault, match="the engine failed: tile 3 of 16"):
            upscaler(FRAME)
        assert np.array_equal(upscaler(FRAME), EXPECTED)
        faults.spoil = {faults.runs + 5}
        with pytest.raises(RuntimeFault, match=r"tile 5 of 16.*NaN"):
            upscaler(FRAME)
        assert np.array_equal(upscaler(FRAME), EXPECTED)


def test_a_fault_of_a_batch_names_its_tiles_in_the_sequential_path_too() -> None:
    def before(_run: int) -> None:
        raise fault()

    upscaler, _ = fake_upscaler(facts(batches=(1, 4)), before=before)
    with pytest.raises(RuntimeFault, match=r"tile 1 of 16 .* to tile 4 of 16"):
        upscaler(FRAME)


def test_callbacks_may_use_the_session_close_it_or_raise() -> None:
    tile = facts(batches=(1, 2))
    upscaler, _ = upscaler_on_threads(tile)
    inner: list[bool] = []
    small = FRAME[:40, :40]

    def nested(_done: int, _total: int) -> None:
        inner.append(np.array_equal(upscaler(small), EXPECTED[:160, :160]))

    assert np.array_equal(upscaler.upscale(FRAME, on_tile=nested), EXPECTED)
    assert len(inner) == 16
    assert all(inner)

    def interrupt(done: int, _total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscaler.upscale(FRAME, on_tile=interrupt)
    assert np.array_equal(upscaler(FRAME), EXPECTED)
    before = threading.active_count()
    with pytest.raises(RuntimeFault, match="closed upscaler"):
        upscaler.upscale(FRAME, on_tile=lambda _done, _total: upscaler.close())
    assert threading.active_count() == before - 3, "three streams ended"
    with pytest.raises(RuntimeFault, match="closed"):
        engine_of(upscaler).session.run(np.zeros((1, 3, 32, 32), np.float32))  # type: ignore[union-attr,call-arg]


@pytest.mark.parametrize(
    ("milliseconds", "best"),
    [({1: 4, 2: 6, 4: 10}, 4), ({1: 4, 2: 6, 4: 14}, 2), ({1: 4, 2: 8, 4: 15.8}, 1), ({1: 4, 2: 4, 4: 8}, 2)],
)
def test_the_batch_with_the_least_time_per_tile_is_taken(milliseconds: dict[int, float], best: int) -> None:
    tile = facts(batches=(1, 2, 4))
    now, slow = [0.0], [100.0]

    class Timed(FakeSession):
        def _execute(self, batch: np.ndarray) -> np.ndarray:
            now[0] += milliseconds[len(batch)] / 1e3 + (slow.pop() if slow else 0)
            return super()._execute(batch)

    session = Timed(tile)
    choose_batch(session, lambda: now[0])
    assert session.stats.batch == best
    assert session.stats.batch_ms == pytest.approx(milliseconds)
    assert session.batches == tuple(size for size in (1, 2, 4) if size <= best)
    assert np.array_equal(Upscaler(manifest(tile), session)(FRAME), EXPECTED)


def test_the_choice_copes_with_a_batch_that_does_not_fit() -> None:
    tile = facts(batches=(1, 2, 4))

    def before(_run: int, size: int) -> None:
        if size > 1:
            raise no_room()

    session, _ = threaded(tile, Faults(tile, before))
    with session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choose_batch(session)
        assert (session.stats.batch, set(session.stats.batch_ms)) == (1, {1})


def test_one_batch_size_is_not_measured() -> None:
    session, faults = threaded(facts())
    with session:
        choose_batch(session)
    assert faults.runs == 0
