"""How long engines take for the same tiles: measured in turns, one engine in memory at a time.

For choosing between engines and for saying whether fewer bits were worth it. Not a benchmark: a few runs, medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from zoomrt.bundle.records import Timing
from zoomrt.runtime.session import Session

TURNS = 3
"""Times that each engine is loaded; what else the machine does changes over seconds, so one turn is no comparison."""
BUDGET_S = 60.0
"""No further turn once so many seconds are gone: large networks get one turn, which tells a factor but no percent."""
_RUNS, _RUNS_S = 5, 2.0  # of one engine in one turn: so many runs, or so many seconds, whichever comes first
_SETTLE_S = 0.1  # worker threads of the engine before spin on for a while and would take a core


def time_in_turns(engines: Mapping[str, Callable[[], Session]], batch: NDArray[Any]) -> dict[str, Timing]:
    """Time `Session.run(batch)` of each engine: A B A B, the first run after each loading not counted.

    engines : name -> what loads it; the session is closed again before the next one loads.

    Raises what loading and running raise.
    """
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    started = time.monotonic()
    for _ in range(TURNS):
        for name, load in engines.items():
            with load() as session:
                session.run(batch)
                time.sleep(_SETTLE_S)
                seconds[name] += _some_runs(session, batch)
        if time.monotonic() - started > BUDGET_S:
            break
    return {
        name: Timing(round(statistics.median(times) * 1e3, 3), round(min(times) * 1e3, 3), len(times))
        for name, times in seconds.items()
    }


def _some_runs(session: Session, batch: NDArray[Any]) -> list[float]:
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _RUNS_S:
        started = time.perf_counter()
        session.run(batch)
        times.append(time.perf_counter() - started)
    return times
