"""The loop of a multi-step model: from start noise to the clean sample, one network evaluation after another.

Generic: what a sampler does is a table of coefficients in the bundle (`bundle.SamplingFacts`), so that Euler, Heun,
DDIM and ResShift's chain are the same loop. The algebra is FP32 whatever the network computes in. Knows nothing of
engines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle.manifest import Evaluation, SamplingFacts

Sample = NDArray[np.float32]
Predict = Callable[[Sample, Evaluation], Sample]
"""(gain * x, evaluation) -> p, of the same shape."""
Policy = Callable[[Sample, Sample | None, Evaluation], bool]
"""(x, the next sample, evaluation) -> whether the evaluation counts; None where it was not computed yet."""


class Moment(NamedTuple):
    """After one evaluation: the sample, how many network calls it took so far, and whether the evaluation counted."""

    sample: Sample
    calls: int
    accepted: bool


def timestep_embedding(timestep: float, count: int) -> NDArray[np.float32]:
    """(1, count) float32: cosines, then sines, of timestep * 10000^(-i / (count / 2)), as in DDPM (arXiv 2006.11239),
    diffusers' `get_timestep_embedding` with `flip_sin_to_cos`, `downscale_freq_shift` 0.

    Computed here and not in the graph, where FP16 would spoil the angles.
    """
    half = count // 2
    angles = timestep * np.exp(-math.log(10000.0) * np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)[None]


def split_draws(facts: SamplingFacts, channels: NDArray[np.float32]) -> list[Sample]:
    """All draws of one tile: (1, facts.noise_channels, h, w) -> `facts.draws` times (1, facts.channels, H, W).

    Each LR pixel's channels become a square of sample pixels, so that tiles agree where they overlap.
    """
    _, _, high, wide = channels.shape
    side = facts.pixels
    squares = channels.reshape(facts.draws, facts.channels, side, side, high, wide).transpose(0, 1, 4, 2, 5, 3)
    return list(squares.reshape(facts.draws, 1, facts.channels, high * side, wide * side))


def trajectory(
    facts: SamplingFacts,
    image_latents: Sample | None,
    draws: Sequence[Sample],
    predict: Predict,
    policy: Policy | None = None,
) -> Iterator[Moment]:
    """Run the sampler; one `Moment` for each evaluation, skipped ones included.

    image_latents : what the encoder calls so, shaped as the sample; None where `facts.image_latents` is 0.
    draws : see `split_draws`. policy : for evaluations that may be skipped; without one none is.

    A skipped evaluation leaves x and h as they are; its draw of noise is gone all the same, so that what others
    draw does not hang on decisions.
    """
    fresh = iter(draws)
    x = np.float32(facts.noise) * next(fresh)
    if image_latents is not None:
        x += np.float32(facts.image_latents) * image_latents
    h = np.zeros_like(x)
    calls = 0
    for one in facts.evaluations:
        noise = next(fresh) if one.prev_sample[3] else None
        asked = policy if one.skippable else None
        if asked is not None and facts.decide == "before" and not asked(x, None, one):
            yield Moment(x, calls, False)
            continue
        model_output = predict(x * np.float32(one.gain), one)
        calls += 1
        prev_sample = _mixed(one.prev_sample, (x, h, model_output, noise))
        accepted = asked is None or facts.decide == "before" or asked(x, prev_sample, one)
        if accepted:
            x, h = prev_sample, _mixed(one.held, (x, h, model_output))
        yield Moment(x, calls, accepted)


def _mixed(shares: Sequence[float], values: Sequence[Sample | None]) -> Sample:
    """The sum of the values in their shares, float32; a value whose share is 0 is not touched."""
    total = np.zeros(next(value for value in values if value is not None).shape, np.float32)
    for share, value in zip(shares, values, strict=True):
        if share and value is not None:
            total += np.float32(share) * value
    return total
