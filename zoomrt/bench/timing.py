"""The clock: runs repeat until the median is known well enough or the time is spent; two things take turns.

Whatever is timed has been called at least once before. In turns, the order within a pair alternates, and a pause lets
the worker threads of whoever ran before go to sleep: they spin on for a while and would take a core.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zoomrt.bench.statistics import CONFIDENCE, median_interval

__all__ = ["Rule", "time_alone", "time_in_turns"]

_SETTLE_S = 0.1


@dataclass(frozen=True)
class Rule:
    """When to stop repeating.

    repeats : runs (or pairs) at least; six are the fewest whose range holds the median with 95 %.
    seconds : stop once so many are spent. width : or once the interval is so narrow, relative to the median.
    """

    repeats: int = 6
    seconds: float = 10.0
    width: float = 0.02

    def satisfied(self, samples: Sequence[float], spent_s: float) -> bool:
        if len(samples) < self.repeats:
            return False
        low, high, coverage = median_interval(samples)
        known = coverage >= CONFIDENCE and high - low <= self.width * float(np.median(samples))
        return known or spent_s >= self.seconds

    def __str__(self) -> str:
        return (
            f"at least {self.repeats} runs, then until the {CONFIDENCE:.0%} interval of the median is within "
            f"{self.width:.0%} of it or {self.seconds:g} s are spent"
        )


def time_alone(run: Callable[[], object], rule: Rule) -> list[float]:
    """Seconds of each run."""
    taken: list[float] = []
    started = time.perf_counter()
    while not rule.satisfied(taken, time.perf_counter() - started):
        taken.append(_timed(run))
    return taken


def time_in_turns(
    base: Callable[[], object], other: Callable[[], object], rule: Rule
) -> tuple[list[float], list[float]]:
    """Seconds of each run of both, A B B A A B; the rule is applied to their ratio."""
    of_base: list[float] = []
    of_other: list[float] = []
    ratios: list[float] = []
    started = time.perf_counter()
    while not rule.satisfied(ratios, time.perf_counter() - started):
        turns = [(base, of_base), (other, of_other)]
        for run, taken in turns if len(ratios) % 2 == 0 else reversed(turns):
            time.sleep(_SETTLE_S)
            taken.append(_timed(run))
        ratios.append(of_other[-1] / of_base[-1])
    return of_base, of_other


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
