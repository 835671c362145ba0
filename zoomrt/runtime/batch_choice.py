"""Which batch size to use: measured on the engine that will run, because no table knows it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from zoomrt.runtime.session import Session

_ROUNDS = 3
_WORTH = 0.97  # a larger batch keeps a tile waiting longer, so it must take at most this share of the time per tile


def choose_batch(session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
    """Time every batch size in use (a warm-up, then the median of three runs on flat tiles), keep the fastest per tile.

    Writes `session.stats.batch` and `batch_ms`. With a single size nothing is run. Raises what `Session.run` raises.
    """
    if len(session.batches) == 1:
        return
    tile, stats = session.tile, session.stats
    inputs = np.full((session.batches[-1], tile.channels, tile.height, tile.width), sum(tile.value_range) / 2, "f4")
    for size in session.batches:
        seconds = []
        for _ in range(1 + _ROUNDS):
            started = clock()
            session.run(inputs[:size])
            seconds.append(clock() - started)
        if size > stats.batch:  # memory ran out, and what was timed were smaller batches
            break
        stats.batch_ms[size] = statistics.median(seconds[1:]) * 1e3
    best = 1
    for size, milliseconds in stats.batch_ms.items():
        if milliseconds / size < stats.batch_ms[best] / best * _WORTH:
            best = size
    stats.batch = best
