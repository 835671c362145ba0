"""The generic loop: scripted policies, call counts, noise draws, features; networks are functions here."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import rng_for

from zoomrt.bundle import Evaluation, SamplingFacts
from zoomrt.bundle.sampling import split_draws, timestep_embedding, trajectory

COARSE, FINE = 3, 6


def facts(decide: str | None, spread: float = 0.0) -> SamplingFacts:
    rng = rng_for("facts")
    evaluations = tuple(
        Evaluation(
            timestep=float(i),
            gain=float(rng.uniform(0.5, 2)),
            prev_sample=(*rng.uniform(-1, 1, 3), spread),
            held=(0.5, 0.25, 0.125),
            skippable=i >= COARSE,
        )
        for i in range(COARSE + FINE)
    )
    return SamplingFacts(channels=2, pixels=1, image_latents=0.5, noise=2.0, evaluations=evaluations, decide=decide)


class Run:
    """One run with a script of decisions; counts what is called with what."""

    def __init__(self, sampling: SamplingFacts, script: list[bool] | None) -> None:
        rng = np.random.default_rng(7)
        self.base = rng.standard_normal((1, 2, 3, 4)).astype(np.float32)
        self.draws = list(rng.standard_normal((sampling.draws, 1, 2, 3, 4)).astype(np.float32))
        self.called: list[float] = []
        self.asked: list[tuple[float, bool]] = []
        decisions = iter(script or [])

        def predict(x, one):
            self.called.append(one.timestep)
            return np.sin(x + np.float32(one.timestep))

        def policy(_x, following, one):
            self.asked.append((one.timestep, following is not None))
            return next(decisions)

        self.moments = list(trajectory(sampling, self.base, self.draws, predict, None if script is None else policy))


def slow_chain(run: Run, sampling: SamplingFacts, script: list[bool]) -> np.ndarray:
    x = 0.5 * run.base.astype(np.float64) + 2 * run.draws[0]
    h, draws, decisions = 0 * x, iter(run.draws[1:]), iter(script)
    for one in sampling.evaluations:
        p, n = np.sin(one.gain * x + one.timestep), next(draws) if one.prev_sample[3] else 0
        (a, b, c, d), (e, f, g) = one.prev_sample, one.held
        if not one.skippable or next(decisions):
            x, h = a * x + b * h + c * p + d * n, e * x + f * h + g * p
    return x


@given(
    st.lists(st.booleans(), min_size=FINE, max_size=FINE),
    st.sampled_from(["before", "after"]),
    st.sampled_from([0.0, 0.3]),
)
def test_any_script(script: list[bool], decide: str, spread: float) -> None:
    """Skipping before the call saves it, after it does not; the state is the same, and so is others' noise."""
    sampling = facts(decide, spread)
    run = Run(sampling, script)
    calls = [i for i in range(COARSE + FINE) if i < COARSE or decide == "after" or script[i - COARSE]]
    assert run.called == calls
    assert run.asked == [(i, decide == "after") for i in range(COARSE, COARSE + FINE)]
    assert run.moments[-1].calls == len(calls)
    assert [moment.accepted for moment in run.moments] == [True] * COARSE + script
    np.testing.assert_allclose(run.moments[-1].sample, slow_chain(run, sampling, script), atol=1e-4)


@pytest.mark.parametrize("decide", ["before", "after"])
def test_all_accept_is_the_plain_sampler_and_all_reject_the_coarse_result(decide: str) -> None:
    sampling = facts(decide)
    plain = Run(sampling, None)
    assert plain.asked == []
    np.testing.assert_array_equal(Run(sampling, [True] * FINE).moments[-1].sample, plain.moments[-1].sample)
    rejected = Run(sampling, [False] * FINE)
    np.testing.assert_array_equal(rejected.moments[-1].sample, plain.moments[COARSE - 1].sample)
    assert rejected.moments[-1].calls == (COARSE if decide == "before" else COARSE + FINE)


@given(st.floats(0, 2000), st.integers(1, 90))
def test_time_features(timestep: float, half: int) -> None:
    got = timestep_embedding(timestep, 2 * half)
    assert got.dtype == np.float32
    angles = [timestep / 10000 ** (i / half) for i in range(half)]
    wanted = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
    np.testing.assert_allclose(got, [wanted], atol=1e-6)


def test_draws_are_squares_of_channels(rng: np.random.Generator) -> None:
    """State pixel (y, x) of a draw comes from LR pixel (y // 2, x // 2) and one channel: tiles agree where they
    overlap."""
    sampling = SamplingFacts(
        channels=3,
        pixels=2,
        image_latents=0.0,
        noise=1.0,
        evaluations=(
            Evaluation(timestep=0.0, prev_sample=(1.0, 0.0, 0.0, 1.0)),
            Evaluation(timestep=1.0, prev_sample=(1.0, 0.0, 0.0, 0.0)),
        ),
    )
    assert (sampling.draws, sampling.noise_channels) == (2, 24)
    channels = rng.standard_normal((1, 24, 4, 5)).astype(np.float32)
    draws = split_draws(sampling, channels)
    assert [draw.shape for draw in draws] == [(1, 3, 8, 10)] * 2
    for d, draw in enumerate(draws):
        for c in range(3):
            for y in range(8):
                for x in range(10):
                    channel = d * 12 + c * 4 + (y % 2) * 2 + x % 2
                    assert draw[0, c, y, x] == channels[0, channel, y // 2, x // 2]
