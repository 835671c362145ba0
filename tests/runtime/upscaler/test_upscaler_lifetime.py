"""Who owns what, and for how long: closing, leaks of objects, memory and file handles."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from runtime_helpers import facts, fake_upscaler, write_bundle

from zoomrt.errors import RuntimeFault
from zoomrt.runtime.upscaler import engine_of, load


def test_close_is_idempotent_and_use_after_it_is_a_fault() -> None:
    upscaler, session = fake_upscaler(facts())
    upscaler.close()
    upscaler.close()
    assert (upscaler.closed, session.closed, session.released) == (True, True, 1)
    with pytest.raises(RuntimeFault, match="closed upscaler"):
        upscaler(np.zeros((4, 4, 3), np.uint8))
    assert upscaler.scale == 4, "the manifest outlives the engine"


def test_the_context_manager_closes_also_on_an_error() -> None:
    upscaler, session = fake_upscaler(facts())
    with pytest.raises(ZeroDivisionError), upscaler:
        raise ZeroDivisionError
    assert session.released == 1


def test_results_outlive_the_upscaler(tmp_path: Path, rng: np.random.Generator) -> None:
    frame = rng.integers(0, 256, (50, 50, 3), np.uint8)
    with load(write_bundle(tmp_path / "b", facts(), 7), threads=1) as upscaler:
        result = upscaler(frame)
        before = result.copy()
        upscaler(255 - frame)
    gc.collect()
    assert np.array_equal(result, before)


def test_closing_lets_go_of_the_engine_and_its_buffers(tmp_path: Path) -> None:
    upscaler = load(write_bundle(tmp_path / "b", facts(), 7), threads=1)
    engine = engine_of(upscaler).session._engines[1]  # type: ignore[attr-defined]
    parts = [weakref.ref(engine.session), weakref.ref(engine.input), weakref.ref(engine.output)]
    del engine
    upscaler.close()
    gc.collect()
    assert [part() for part in parts] == [None] * 3


def test_frames_leave_nothing_behind(rng: np.random.Generator) -> None:
    upscaler, _ = fake_upscaler(facts(colour="osediff"))
    frame = rng.integers(0, 256, (100, 100, 3), np.uint8)
    upscaler(frame)
    tracemalloc.start()
    try:
        upscaler(frame)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            upscaler(frame)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 10_000, "20 frames of 480 KB each"


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
def test_loading_leaves_no_file_open(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", facts(), 7)
    load(path, threads=1).close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        load(path, threads=1).close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
