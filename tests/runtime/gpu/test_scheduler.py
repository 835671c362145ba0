"""The scheduler on threads: the same numbers as one batch after another, real overlap, no buffer touched in use.

Overlap is proved by waiting, not by timing: a stage goes on only when another one has begun, so that without overlap
nothing would ever finish.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from device_helpers import WatchedDevice, WatchedEngine
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zoomrt.runtime.gpu.scheduler import Pipeline
from zoomrt.runtime.session import batches_of

WIDTH = 8


def affine(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return batch * np.float32(3) - np.float32(0.25)


def pipeline_on(device: WatchedDevice, sizes: tuple[int, ...], slots: int, run=affine) -> Pipeline:  # type: ignore[no-untyped-def]
    pipeline = Pipeline(device, slots)
    for size in sizes:
        pipeline.add(size, WatchedEngine(run, device), ((size, WIDTH), (size, WIDTH)), "float32")
    return pipeline


def fill_from(data: NDArray[np.float32]):  # type: ignore[no-untyped-def]
    def fill(items: range, out: NDArray[np.float32]) -> None:
        np.copyto(out, data[items.start : items.stop])

    return fill


def collected(pipeline: Pipeline, data: NDArray[np.float32], sizes: tuple[int, ...]) -> NDArray[np.float32]:
    out = np.full_like(data, np.nan)
    for items, land in pipeline.run(batches_of(range(len(data)), sizes), fill_from(data)):
        out[items.start : items.stop] = land()
    return out


@settings(max_examples=40)
@given(
    count=st.integers(0, 23),
    more=st.sets(st.integers(2, 6), max_size=2),
    slots=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_any_count_any_batches_any_slots_gives_the_plain_result(
    count: int, more: set[int], slots: int, seed: int
) -> None:
    """Stages take random times, so that runs differ in their order; every buffer is watched."""
    sizes = (1, *sorted(more))
    data = np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)
    chance = random.Random(seed)
    device = WatchedDevice()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        time.sleep(chance.random() * 1e-3)
        return affine(batch)

    pipeline = pipeline_on(device, sizes, slots, run)
    held = device.allocated
    for _ in range(2):
        np.testing.assert_array_equal(collected(pipeline, data, sizes), affine(data))
    assert device.allocated == held, "nothing is allocated after loading"
    pipeline.close()
    assert device.trespasses == []


def test_the_watched_device_sees_a_write_to_a_buffer_in_use() -> None:
    device = WatchedDevice()
    one, two, three = (device.memory((4,), "float32") for _ in range(3))
    device.touch(two, one, lambda: device.touch(one, three, lambda: None))
    assert len(device.trespasses) == 1


def test_the_streams_really_work_at_the_same_time(rng: np.random.Generator) -> None:
    """Compute k goes on only when copy-in k+1 and copy-out k-1 have begun."""
    device = WatchedDevice()
    count, numbers = 6, iter(range(6))

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        k = next(numbers)
        if k + 1 < count:
            device.wait_for(("copy in", k + 1, "begin"))
        if k > 0:
            device.wait_for(("copy out", k - 1, "begin"))
        return affine(batch)

    pipeline = pipeline_on(device, (1,), 2, run)
    data = rng.standard_normal((count, WIDTH), np.float32)
    np.testing.assert_array_equal(collected(pipeline, data, (1,)), affine(data))
    at = {moment: index for index, moment in enumerate(device.moments)}
    for k in range(count):
        assert at["copy in", k, "end"] < at["compute", k, "begin"]
        assert at["compute", k, "end"] < at["copy out", k, "begin"]
        if k + 1 < count:
            assert at["copy in", k + 1, "begin"] < at["compute", k, "end"]
    pipeline.close()


def test_with_one_slot_nothing_overlaps() -> None:
    device = WatchedDevice()
    pipeline = pipeline_on(device, (1,), 1)
    collected(pipeline, np.zeros((4, WIDTH), np.float32), (1,))
    order = [stream for stream, _, moment in device.moments if moment == "begin"]
    assert order == ["copy in", "compute", "copy out"] * 4
    pipeline.close()


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_slow_taker_holds_back_the_intake(slots: int) -> None:
    device = WatchedDevice()
    pipeline = pipeline_on(device, (1,), slots)
    filled: list[int] = []

    def fill(items: range, out: NDArray[np.float32]) -> None:
        filled.append(items.start)
        out[...] = items.start

    for taken, (items, land) in enumerate(pipeline.run(batches_of(range(9), (1,)), fill)):
        land()
        assert items.start == taken
        assert len(filled) <= taken + slots, "at most as many as there are slots"
    assert filled == list(range(9))
    pipeline.close()


def test_a_failed_batch_is_told_by_its_landing_and_the_others_are_right() -> None:
    device = WatchedDevice()

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if batch[0, 0] == 3:
            raise ZeroDivisionError
        return affine(batch)

    pipeline = pipeline_on(device, (1,), 2, run)
    data = np.arange(7, dtype=np.float32)[:, None].repeat(WIDTH, 1)
    for _ in range(2):
        for items, land in pipeline.run(batches_of(range(7), (1,)), fill_from(data)):
            if items.start == 3:
                with pytest.raises(ZeroDivisionError):
                    land()
            else:
                np.testing.assert_array_equal(land(), affine(data[items.start : items.stop]))
    pipeline.close()


def test_a_batch_that_no_stream_takes_is_told_by_its_landing(rng: np.random.Generator) -> None:
    """As a CUDA launch fails: at once, in the caller's thread."""

    class Refusing(WatchedEngine):
        def prepare(self, source, target):  # type: ignore[no-untyped-def]
            launch, left = super().prepare(source, target), iter([None, ZeroDivisionError()])

            def refuse(stream) -> None:  # type: ignore[no-untyped-def]
                if error := next(left, None):
                    raise error
                launch(stream)

            return refuse

    device = WatchedDevice(copy_s=0.01)
    pipeline = Pipeline(device, 2)
    pipeline.add(1, Refusing(affine, device), ((1, WIDTH), (1, WIDTH)), "float32")
    data = rng.standard_normal((7, WIDTH), np.float32)
    failed = []

    def fill(items: range, out: NDArray[np.float32]) -> None:
        if items.start >= 2:
            assert ("copy in", items.start - 2, "end") in device.moments, "the slot is still being read"
        fill_from(data)(items, out)

    for items, land in pipeline.run(batches_of(range(7), (1,)), fill):
        try:
            np.testing.assert_array_equal(land(), affine(data[items.start : items.stop]))
        except ZeroDivisionError:
            failed.append(items.start)
    assert failed == [2, 3], "the second run on each slot"
    np.testing.assert_array_equal(collected(pipeline, data, (1,)), affine(data))
    pipeline.close()


@pytest.mark.parametrize("taken", [1, 2, 3])
def test_leaving_in_the_middle_leaves_a_usable_pipeline(taken: int, rng: np.random.Generator) -> None:
    device = WatchedDevice(copy_s=0.005)
    pipeline = pipeline_on(device, (1, 2), 2)
    data = rng.standard_normal((9, WIDTH), np.float32)
    landings = pipeline.run(batches_of(range(9), (1, 2)), fill_from(data))
    for _ in range(taken):
        next(landings)[1]()
    if taken == 3:
        landings.close()
    other = rng.standard_normal((9, WIDTH), np.float32)
    np.testing.assert_array_equal(collected(pipeline, other, (1, 2)), affine(other))
    assert next(landings, None) is None, "who was overtaken ends, without a result that is not his"
    np.testing.assert_array_equal(collected(pipeline, data, (1, 2)), affine(data))
    pipeline.close()
    assert device.trespasses == []


def test_closing_in_the_middle_of_work_waits_for_it_and_ends_the_threads() -> None:
    device = WatchedDevice()
    before = set(threading.enumerate())
    inside, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def run(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        inside.set()
        assert go_on.wait(30)
        ended.append("compute")
        return affine(batch)

    class Engine(WatchedEngine):
        def close(self) -> None:
            ended.append("closed")

    pipeline = Pipeline(device, 2)
    pipeline.add(1, Engine(run, device), ((1, WIDTH), (1, WIDTH)), "float32")
    landings: Iterator[object] = pipeline.run(batches_of(range(5), (1,)), fill_from(np.zeros((5, WIDTH), np.float32)))
    next(landings)
    assert inside.wait(30)
    closer = threading.Thread(target=pipeline.close)
    closer.start()
    go_on.set()
    closer.join(30)
    pipeline.close()
    assert ended == ["compute", "compute", "closed"], "both batches in flight are finished before the engine goes"
    assert next(landings, None) is None
    assert set(threading.enumerate()) <= before


def test_an_engine_that_does_not_fit_leaves_nothing_behind(rng: np.random.Generator) -> None:
    class TooLarge(WatchedEngine):
        def prepare(self, *_buffers):  # type: ignore[no-untyped-def]
            raise MemoryError

    device = WatchedDevice()
    pipeline = pipeline_on(device, (1,), 2)
    large = TooLarge(affine, device)
    with pytest.raises(MemoryError):
        pipeline.add(2, large, ((2, WIDTH), (2, WIDTH)), "float32")
    assert large.closed == 1
    data = rng.standard_normal((3, WIDTH), np.float32)
    np.testing.assert_array_equal(collected(pipeline, data, (1,)), affine(data))
    pipeline.close()
    assert large.closed == 1
