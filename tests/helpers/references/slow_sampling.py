"""Samplers of the multi-step models, each written out as its paper has it, slow and in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from slow_reference import Array

Denoise = Callable[[Array, float], Array]


def resshift_schedule(steps: int) -> list[float]:
    """sqrt(eta) at t = 0 .. steps - 1."""
    low = {15: 0.04, 4: 0.2}[steps] / 2
    return [math.exp(math.log(low) + (t / (steps - 1)) ** 0.3 * (math.log(0.99) - math.log(low))) for t in range(steps)]


def resshift(latent: Array, draws: list[Array], steps: int, denoise: Denoise) -> Iterator[Array]:
    """x after each step; denoise : (scaled x, t) -> clean latent. draws : of the start, then of each step but the
    last."""
    eta = [value**2 for value in resshift_schedule(steps)]
    x = latent + 2 * math.sqrt(eta[-1]) * draws[0]
    for i, t in enumerate(reversed(range(steps))):
        clean = denoise(x / math.sqrt(4 * eta[t] + 1), t)
        if t == 0:
            x = clean
        else:
            step = eta[t] - eta[t - 1]
            variance = 4 * eta[t - 1] * step / eta[t]
            x = (eta[t - 1] * x + step * clean) / eta[t] + math.sqrt(variance) * draws[i + 1]
        yield x


def flow(noise: Array, steps: int, denoise: Denoise, heun: bool) -> Iterator[Array]:
    """x after each step from t = 0 to 1; denoise : (x, t) -> clean picture (flyingbucket/JiTSR)."""

    def velocity(x: Array, t: float) -> Array:
        return (denoise(x, t) - x) / max(1 - t, 0.05)

    x = noise
    for i in range(steps):
        t, after = i / steps, (i + 1) / steps
        v = velocity(x, t)
        if heun and i < steps - 1:
            v = (v + velocity(x + v / steps, after)) / 2
        x = x + v / steps
        yield x


def signal_shares() -> list[float]:
    """Variance of the picture after t of SR3's 2000 steps."""
    share, out = 1.0, [1.0]
    for t in range(2000):
        share *= 1 - (1e-6 + (1e-2 - 1e-6) * t / 1999)
        out.append(share)
    return out


def two_stages(steps: int) -> list[tuple[int, int, bool]]:
    """(t, next t, whether it may be skipped): a fifth of the steps from 2000 down to 800, the others down to 0."""
    coarse = max(1, steps // 5)
    first = [round(2000 - 1200 * i / coarse) for i in range(coarse)]
    second = [round(800 - 800 * i / (steps - coarse)) for i in range(steps - coarse + 1)]
    times = first + second
    return [(a, b, i >= coarse) for i, (a, b) in enumerate(itertools.pairwise(times))]


def skipdiff(
    noise: Array, steps: int, noise_in: Denoise, accepts: Callable[[int, Array, Array], bool]
) -> Iterator[Array]:
    """x after each step (doi 10.1609/aaai.v38i5.28195), literally: compute the step, then keep or drop it.

    noise_in : (x, noise level) -> noise. accepts : (t, x, what would follow) -> kept or not; asked in the fine stage.
    """
    share, x = signal_shares(), noise
    for t, following, fine in two_stages(steps):
        guess = noise_in(x, math.sqrt(share[t]))
        clean = (x - math.sqrt(1 - share[t]) * guess) / math.sqrt(share[t])
        y = math.sqrt(share[following]) * clean + math.sqrt(1 - share[following]) * guess
        if not fine or accepts(t, x, y):
            x = y
        yield x
