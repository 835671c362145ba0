"""The interval of the median holds the median as often as it says, for any distribution; and the plain figures."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from zoomrt.bench.statistics import latency_of, median_interval, ratio_of
from zoomrt.bench.timing import Rule, time_alone, time_in_turns

ROUNDS = 4000
# Standard deviations of a binomial share that a correct interval stays within, in all but one of 30 000 runs.
SIGMAS = 4.0


@pytest.mark.parametrize("n", [6, 7, 12, 25, 60])
@pytest.mark.parametrize("law", ["lognormal", "two humps", "uniform"])
def test_the_interval_holds_the_median_as_often_as_it_says(n: int, law: str, rng: np.random.Generator) -> None:
    samples = {
        "lognormal": lambda size: rng.lognormal(0.0, 1.0, size),  # median 1
        "two humps": lambda size: np.where(rng.random(size) < 0.5, rng.random(size), 2 - rng.random(size)),
        "uniform": lambda size: 2 * rng.random(size),
    }[law]((ROUNDS, n))
    found = [median_interval(row.tolist()) for row in samples]
    coverage = found[0][2]
    held = sum(low <= 1.0 <= high for low, high, _ in found) / ROUNDS
    assert coverage >= 0.95
    assert abs(held - coverage) <= SIGMAS * math.sqrt(coverage * (1 - coverage) / ROUNDS)


@pytest.mark.parametrize("n", [*range(1, 200, 7), 1023, 1031, 2000, 5000])
def test_ranks_are_those_of_the_binomial(n: int) -> None:
    low, high, coverage = median_interval([float(i) for i in range(n)])
    k = int(low)  # samples below the interval
    assert high == n - 1 - k
    assert coverage == pytest.approx(max(0.0, 1 - 2 * binom.cdf(k, n, 0.5)), abs=1e-12)
    if coverage >= 0.95 and k + 1 <= n - 2 - k:  # the next narrower one would not do
        assert 1 - 2 * binom.cdf(k + 1, n, 0.5) < 0.95


def test_stopping_when_the_interval_is_narrow_costs_little_coverage(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Repeating until it is narrow favours lucky samples; what is printed must still be about right."""
    clock = Clock(monkeypatch)
    rule, held = Rule(repeats=6, seconds=1e9, width=0.1), 0
    for _ in range(400):
        taken = time_alone(lambda: clock.takes("", float(rng.lognormal(0.0, 0.15))), rule)
        low, high, _ = median_interval(taken)
        held += low <= 1.0 <= high
    assert held / 400 >= 0.85


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=60))
def test_summary_against_the_standard_library(seconds: list[float]) -> None:
    found, ms = latency_of(seconds), [1e3 * value for value in seconds]
    middle = statistics.median(ms)
    assert (found.n, len(found.samples_ms)) == (len(ms), len(ms))
    assert found.p50_ms == pytest.approx(middle, rel=1e-9)
    assert found.mean_ms == pytest.approx(statistics.fmean(ms), rel=1e-9)
    assert found.mad_ms == pytest.approx(statistics.median(abs(value - middle) for value in ms), rel=1e-9, abs=1e-9)
    assert found.min_ms == pytest.approx(min(ms), rel=1e-12)
    assert found.interval_ms[0] <= found.p50_ms * (1 + 1e-9)
    assert found.interval_ms[1] >= found.p50_ms * (1 - 1e-9)
    assert found.min_ms * (1 - 1e-9) <= found.p50_ms <= found.p90_ms * (1 + 1e-9) <= found.p99_ms * (1 + 2e-9)


def test_ratios_are_taken_pair_by_pair() -> None:
    """A machine that slows down fourfold half way through does not move them."""
    drift = [1.0] * 10 + [4.0] * 10
    found = ratio_of([0.5 * slow for slow in drift], drift)
    assert (found.median, found.interval, found.n) == (0.5, (0.5, 0.5), 20)


def test_a_ratio_can_be_made_again_from_what_the_record_keeps(rng: np.random.Generator) -> None:
    base, other = (rng.uniform(0.01, 0.1, 9).tolist() for _ in range(2))
    found, own_ms = ratio_of(other, base), latency_of(other).samples_ms
    again = statistics.median(mine / theirs for mine, theirs in zip(own_ms, found.engine_ms, strict=True))
    assert again == pytest.approx(found.median, rel=1e-6)  # kept to a millionth of a millisecond


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        median_interval([])


class Clock:
    """Time that only passes when something runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.order = 0.0, ""
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
        monkeypatch.setattr("time.sleep", lambda _: None)

    def takes(self, name: str, seconds: float) -> None:
        self.order += name
        self.now += seconds


def test_turns_alternate_and_stop_when_the_ratio_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    base, other = time_in_turns(lambda: clock.takes("a", 1.0), lambda: clock.takes("b", 3.0), Rule(6, 1e9))
    assert clock.order == "abba" * 3
    assert (base, other) == ([1.0] * 6, [3.0] * 6)


@pytest.mark.parametrize(("seconds", "runs"), [(0.0, 6), (7.5, 8), (1e9, 40)])
def test_noise_is_repeated_until_the_time_is_spent(monkeypatch: pytest.MonkeyPatch, seconds: float, runs: int) -> None:
    clock, count = Clock(monkeypatch), iter(range(1000))
    lengths = [0.5, 1.5] * 20  # never narrow
    found = time_alone(lambda: clock.takes("a", lengths[next(count)] if seconds < 1e9 else 1.0), Rule(6, seconds))
    assert len(found) == (runs if seconds < 1e9 else 6)


def test_thousands_of_fast_runs_end_when_the_time_is_spent(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """And the interval is looked at about once for every twentieth more of them."""
    clock, looked = Clock(monkeypatch), 0

    def counted(samples: list[float]) -> tuple[float, float, float]:
        nonlocal looked
        looked += 1
        return median_interval(samples)

    monkeypatch.setattr("zoomrt.bench.timing.median_interval", counted)
    found = time_alone(lambda: clock.takes("", float(rng.uniform(0.5, 1.5))), Rule(6, 3000.0))
    assert 2500 < len(found) < 3500
    assert looked <= 40 + math.log(len(found) / 40, 1.04)
