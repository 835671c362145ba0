"""Samplers of the multi-step models, each written out as its paper has it, slow and in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from slow_reference import Array

Denoise = Callable[[Array, float], Array]


def resshift_schedule(steps: int) -> list[float]:
    """sqrt(eta) at t = 0 .. steps - 1."""
    low = {15: 0.04, 4: 0.2}[steps] / 2
    return [math.exp(math.log(low) + (t / (steps - 1)) ** 0.3 * (math.log(0.99) - math.log(low))) for t in range(steps)]


def resshift(latent: Array, draws: list[Array], steps: int, denoise: Denoise) -> Iterator[Array]:
    """x after each step; denoise : (scaled x, t) -> clean latent. draws : of the start, then of each step but the last."""
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
    """x after each step from t = 0 to 1; denoise : (x, t) -> clean picture (jit_sr.md section 2)."""

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
