"""What repeated timings say: percentiles, a robust spread, and an interval for the median that assumes no distribution.

The interval is by order statistics: the number of samples below the true median is binomial(n, 1/2), whatever the
distribution, so the k-th smallest and the k-th largest sample enclose it with a probability that is known exactly
(Conover, Practical Nonparametric Statistics, section 3.2). Timings must be independent for that; a machine that gets
slower over seconds breaks it, which is why comparisons are made pair by pair. Where runs repeat until the interval is
narrow, lucky samples stop early, and it holds the median about 93 times in 100 where 95 are asked: coverage is "about".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoomrt.bench.record import Latency, Ratio

CONFIDENCE = 0.95
"""Probability with which an interval encloses the true median, where there are samples enough: six."""


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """The narrowest symmetric interval of order statistics that holds the median with at least that confidence.

    Returns (low, high, coverage). With too few samples for that, the whole range and the coverage that it does have:
    1 - 2^(1 - n). Raises ValueError without samples.
    """
    ordered, n = sorted(samples), len(samples)
    if not n:
        raise ValueError("no samples")
    whole, below, ways = 1 << n, 1, 1  # below / whole is P(binomial(n, 1/2) < k) as k grows from 1; ways is C(n, k - 1)
    k, coverage = 1, 1 - 2 / whole
    while k < (n + 1) // 2:
        ways = ways * (n - k + 1) // k
        below += ways
        narrower = 1 - 2 * below / whole  # of whole numbers, which a float could not hold above 1030 samples
        if narrower < confidence:
            break
        k, coverage = k + 1, narrower
    return ordered[k - 1], ordered[n - k], max(coverage, 0.0)


def latency_of(seconds: Sequence[float]) -> Latency:
    """Summary of timings in seconds; at least one."""
    ms = np.asarray(seconds, np.float64) * 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(ms, [50, 90, 99]))
    low, high, coverage = median_interval(ms.tolist())
    return Latency(
        n=len(ms),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        min_ms=float(ms.min()),
        mean_ms=float(ms.mean()),
        mad_ms=float(np.median(np.abs(ms - p50))),
        interval_ms=(low, high),
        coverage=coverage,
        samples_ms=tuple(round(value, 6) for value in ms.tolist()),
    )


def ratio_of(times: Sequence[float], base: Sequence[float]) -> Ratio:
    """Median of the ratios time / base in seconds, pair by pair: what slows both of a pair does not move it."""
    ratios = [mine / other for mine, other in zip(times, base, strict=True)]
    low, high, coverage = median_interval(ratios)
    return Ratio(
        median=float(np.median(ratios)),
        interval=(low, high),
        coverage=coverage,
        n=len(ratios),
        engine_ms=tuple(round(second * 1e3, 6) for second in base),
    )
