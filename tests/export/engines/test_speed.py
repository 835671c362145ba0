"""Timing in turns: the order, what is counted, and one engine in memory at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.export.engines import speed
from zoomrt.export.engines.speed import Timing, time_in_turns
from zoomrt.runtime.session import Session

TILE = TileFacts(
    scale=1,
    height=4,
    width=4,
    batches=(1,),
    overlap=2,
    context=0,
    value_range=(0.0, 1.0),
    dtype="float32",
)


@pytest.fixture(autouse=True)
def _quick_builds() -> None:
    """As many turns as users get."""


class Clock:
    """Stands in for `time`: it advances when an engine works, and never by itself."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    monotonic = perf_counter

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Engine(Session):
    """Takes the given seconds for its first run and for each later one; `log` gets what happens."""

    def __init__(self, name: str, clock: Clock, log: list[str], first: float, later: list[float]) -> None:
        super().__init__(TILE)
        self.name, self.clock, self.log, self.first, self.later = name, clock, log, first, later
        self.runs = 0
        log.append(f"+{name}")

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        self.clock.now += self.later[(self.runs - 1) % len(self.later)] if self.runs else self.first
        self.runs += 1
        return batch

    def _release(self) -> None:
        self.log.append(f"-{self.name}{self.runs}")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def timed(clock: Clock, log: list[str], **engines: tuple[float, list[float]]) -> dict[str, Timing]:
    loaders = {
        name: lambda name=name, first=first, later=later: Engine(name, clock, log, first, later)
        for name, (first, later) in engines.items()
    }
    return time_in_turns(loaders, np.zeros((1, 3, 4, 4), np.float32))


def test_fast_engines_take_turns_and_the_first_run_does_not_count(clock: Clock) -> None:
    log: list[str] = []
    found = timed(clock, log, a=(9.0, [0.010, 0.030, 0.020, 0.020, 0.020]), b=(0.001, [0.040]))
    assert log == ["+a", "-a6", "+b", "-b6"] * 3
    assert found["a"] == Timing(20.0, 10.0, 5 * 3)
    assert found["b"] == Timing(40.0, 40.0, 5 * 3)


def test_slow_engines_run_once_in_one_turn(clock: Clock) -> None:
    log: list[str] = []
    found = timed(clock, log, a=(30.0, [20.0]), b=(30.0, [5.0]))
    assert log == ["+a", "-a2", "+b", "-b2"]
    assert found == {"a": Timing(20000.0, 20000.0, 1), "b": Timing(5000.0, 5000.0, 1)}


def test_a_failing_engine_is_closed(clock: Clock) -> None:
    log: list[str] = []

    class Broken(Engine):
        def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
            raise OSError(f"no room for {len(batch)}")

    with pytest.raises(OSError, match="no room for 1"):
        time_in_turns({"a": lambda: Broken("a", clock, log, 1.0, [1.0])}, np.zeros((1, 3, 4, 4), np.float32))
    assert log == ["+a", "-a0"]


def test_the_real_clock_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that seconds become milliseconds: a run that sleeps 20 ms takes no less."""
    assert speed.time is time
    monkeypatch.setattr(speed, "TURNS", 1)

    class Sleeps(Session):
        def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
            time.sleep(0.02)
            return batch

        def _release(self) -> None:
            pass

    (found,) = time_in_turns({"a": lambda: Sleeps(TILE)}, np.zeros((1, 3, 4, 4), np.float32)).values()
    assert 20 <= found.fastest_ms <= found.median_ms
