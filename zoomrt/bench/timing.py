"""The clock: runs repeat until the median is known well enough or the time is spent; two things take turns.

Whatever is timed has been through `warm_up`. In turns, the order within a pair alternates, and a pause lets the worker
threads of whoever ran before go to sleep: they spin on for a while and would take a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zoomrt.bench.statistics import CONFIDENCE, median_interval

WARM_UP_RUNS = 2
"""Before anything is timed, of the engine and of every peer; the first of them is `Row.first_ms`."""
_SETTLE_S = 0.1
_MORE = 20
"""The interval is looked at again after a twentieth more samples: sorting thousands after each would take the time."""


@dataclass(frozen=True)
class Rule:
    """When to stop repeating.

    repeats : runs (or pairs) at least; six are the fewest whose range holds the median with 95 %.
    seconds : stop once so many are spent. width : or once the interval is so narrow, relative to the median.
    """

    repeats: int = 6
    seconds: float = 10.0
    width: float = 0.02

    def known(self, samples: Sequence[float]) -> bool:
        """Whether the interval is narrow enough."""
        low, high, coverage = median_interval(samples)
        return coverage >= CONFIDENCE and high - low <= self.width * float(np.median(samples))

    def __str__(self) -> str:
        return (
            f"at least {self.repeats} runs, then until the {CONFIDENCE:.0%} interval of the median is within "
            f"{self.width:.0%} of it or {self.seconds:g} s are spent"
        )


def warm_up(run: Callable[[], object]) -> float:
    """Call it WARM_UP_RUNS times. Returns the seconds of the first."""
    first, *_ = [_timed(run) for _ in range(WARM_UP_RUNS)]
    return first


def time_alone(run: Callable[[], object], rule: Rule) -> list[float]:
    """Seconds of each run."""
    return _repeated(lambda: _timed(run), rule)


def time_in_turns(
    base: Callable[[], object], other: Callable[[], object], rule: Rule
) -> tuple[list[float], list[float]]:
    """Seconds of each run of both, A B B A A B; the rule is applied to their ratio."""
    of_base: list[float] = []
    of_other: list[float] = []

    def ratio() -> float:
        turns = [(base, of_base), (other, of_other)]
        for run, taken in turns if len(of_base) % 2 == 0 else reversed(turns):
            time.sleep(_SETTLE_S)
            taken.append(_timed(run))
        return of_other[-1] / of_base[-1]

    _repeated(ratio, rule)
    return of_base, of_other


def _repeated(take: Callable[[], float], rule: Rule) -> list[float]:
    """Samples until the rule says that it is enough."""
    samples: list[float] = []
    started, due = time.perf_counter(), rule.repeats
    while len(samples) < rule.repeats or time.perf_counter() - started < rule.seconds:
        if len(samples) >= due:
            if rule.known(samples):
                break
            due = len(samples) + max(1, len(samples) // _MORE)
        samples.append(take())
    return samples


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
