"""The engine at work: a thread that runs tiles one batch after another, for the newest list of wishes.

Whoever wants tiles hands in jobs and waits for them as long as it can. A new list replaces what has not been started;
what runs is finished, and its pixels are kept. A tile that fails carries its error and harms no other.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import RuntimeFault, TileTooLarge
from zoomrt.runtime.loading import LoadedEngine
from zoomrt.runtime.zoom.tile_cache import Codes, codes_of
from zoomrt.runtime.zoom.view import View

_NICENESS = 10
"""Of a thread that yields, at least: a tenth of the share of one at 0."""


@dataclass(eq=False)
class Job:
    """One tile to compute; `codes` or `error` is there when it is done."""

    index: int
    source: NDArray[np.float32]
    view: View
    codes: Codes | None = None
    error: BaseException | None = None
    done: bool = False

    @property
    def place(self) -> tuple[int, ...]:
        return self.view.place(self.index)

    def same(self, other: Job) -> bool:
        """Whether both give the same pixels."""
        return self.place == other.place and np.array_equal(self.source, other.source)


class TileEngine:
    """Runs jobs on an engine in a thread of its own.

    on_done : called in that thread with each job that has pixels, before anyone who waits is woken.
    on_cost : called in that thread with the seconds that each tile took.
    yields : whether the thread gives way to others where both want a core (Linux): views that must be in time are made
        beside it. `live` in `benchmarks/zoom.py` shows how many are.
    """

    def __init__(
        self,
        engine: LoadedEngine,
        on_done: Callable[[Job], None],
        on_cost: Callable[[float], None],
        *,
        yields: bool = False,
    ) -> None:
        self._engine = engine
        self._on_done, self._on_cost, self._yields = on_done, on_cost, yields
        self._inputs: NDArray[np.float32] = np.empty((0, 0, 0, 0), np.float32)
        self._changed = threading.Condition()
        self._queue: list[Job] = []
        self._running: list[Job] = []
        self._since = 0.0
        self._closing = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="zoomrt tiles", daemon=True)
        self._thread.start()

    def replace(self, jobs: Sequence[Job]) -> None:
        """Run these jobs next, in order, instead of those that wait.

        Raises RuntimeFault when closed, or when the thread has ended by a fault.
        """
        with self._changed:
            if self._fault is not None:
                needed, remedy = "its thread at work", "Make a new session, and report this with its traceback."
                raise RuntimeFault(
                    "cannot run tiles", seen=repr(self._fault), needed=needed, remedy=remedy
                ) from self._fault
            if self._closing:
                raise RuntimeFault(
                    "cannot run tiles", seen="a closed session", needed="an open one", remedy="Load again."
                )
            self._queue = list(jobs)
            self._changed.notify_all()

    def wait(self, jobs: Sequence[Job], seconds: float | None) -> None:
        """Return when all these jobs are done, `seconds` have passed (None: no limit) or the engine closes."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or all(job.done for job in jobs), seconds)

    def running(self) -> tuple[list[Job], float]:
        """The jobs in the engine now, and for how many seconds they have been there."""
        with self._changed:
            return list(self._running), time.perf_counter() - self._since if self._running else 0.0

    def stop(self) -> None:
        """End after the batch that runs now. Does not wait for it; may be called again."""
        with self._changed:
            self._closing = True
            self._queue = []
            self._changed.notify_all()

    def close(self) -> None:
        """`stop`, and wait until it has ended."""
        self.stop()
        self._thread.join()

    def _work(self) -> None:
        try:
            if self._yields:
                _give_way()
            self._serve()
        except BaseException as problem:  # not of a tile: nobody would ever answer those who wait
            with self._changed:
                self._fault = problem
                for job in (*self._running, *self._queue):
                    job.error, job.done = problem, True
                self._running, self._queue = [], []
                self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or bool(self._queue))
                if self._closing:
                    return
                sizes = self._engine.manifest.tile.batches
                size = max(size for size in sizes if size <= len(self._queue))
                jobs, self._queue = self._queue[:size], self._queue[size:]
                self._running, self._since = jobs, time.perf_counter()
            try:
                self._run_with_room(jobs)
            except BaseException as problem:  # whoever waits for the tile raises it; this thread goes on
                for job in jobs:
                    job.error = problem
            with self._changed:
                self._running = []
                for job in jobs:
                    job.done = True
                self._changed.notify_all()

    def _run_with_room(self, jobs: list[Job]) -> None:
        """`_run`; where there is no room for a tile the fallback is loaded, and the jobs fail all the same: they are
        for the tile before."""
        facts = jobs[0].view.facts
        try:
            return self._run(jobs)
        except TileTooLarge as error:
            if not self._engine.may_shrink(facts):
                raise
            why = error.seen
        self._engine.shrink(facts, why)
        raise _of_another_tile(facts)

    def _run(self, jobs: list[Job]) -> None:
        started = time.perf_counter()
        pixels: list[Any] = []
        with self._engine.use() as session:
            facts = session.tile
            if any(job.view.facts != facts for job in jobs):
                raise _of_another_tile(jobs[0].view.facts)
            inputs = self._inputs_for(facts)[: len(jobs)]
            for job, tile in zip(jobs, inputs, strict=True):
                job.view.network_input(job.source, job.index, tile)
            outputs = session.run(inputs, [job.view.tiles.name(job.index) for job in jobs])
            pixels = [codes_of(output, facts) for output in outputs]
        for job, codes in zip(jobs, pixels, strict=True):
            job.codes = codes
            self._on_done(job)
        self._on_cost((time.perf_counter() - started) / len(jobs))

    def _inputs_for(self, facts: TileFacts) -> NDArray[np.float32]:
        """Room for the largest batch, made once; again where the engine has changed to a smaller tile."""
        shape = (facts.batches[-1], facts.channels, facts.height, facts.width)
        if self._inputs.shape != shape:
            self._inputs = np.empty(shape, np.float32)
        return self._inputs


def _of_another_tile(facts: TileFacts) -> RuntimeFault:
    seen, needed = (
        f"a tile of {facts.height}x{facts.width}",
        "one of the engine's, which is smaller since memory ran out",
    )
    return RuntimeFault("cannot run tiles", seen=seen, needed=needed, remedy="Send the frame again.")


def _give_way() -> None:
    """Make this thread nicer, never less nice than it is; where the system says no, all goes on as before."""
    if sys.platform != "linux":  # elsewhere priorities are the whole process's
        return
    with contextlib.suppress(OSError):
        thread = threading.get_native_id()
        if os.getpriority(os.PRIO_PROCESS, thread) < _NICENESS:
            os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
