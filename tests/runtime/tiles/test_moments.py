"""Mean and variance of a picture in parts, and the affine map, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from zoomrt.runtime.tiles.moments import Moments, matching_affine


def moments_of(picture: np.ndarray) -> Moments:
    moments = Moments(len(picture))
    moments.add(picture)
    return moments


@pytest.mark.parametrize("spread", [0.7, 1e-2, 1e-4])
def test_parts_are_the_whole(rng: np.random.Generator, spread: float) -> None:
    """Over-range values and little contrast included: a sum of squares in float32 would lose the last."""
    whole = (rng.uniform(0.2, 0.9, (3, 1, 1)) + rng.normal(0, spread, (3, 400, 990))).astype(np.float32)
    moments = Moments(3)
    for rows, columns in (
        (slice(0, 37), slice(0, 990)),
        (slice(37, 400), slice(0, 11)),
        (slice(37, 400), slice(11, 990)),
    ):
        moments.add(whole[:, rows, columns])
    reference = whole.astype(np.float64).reshape(3, -1)
    np.testing.assert_allclose(moments.mean, reference.mean(1), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, reference.var(1, ddof=1), rtol=1e-4)


def test_the_map_gives_the_mean_and_deviation_that_are_wanted(rng: np.random.Generator) -> None:
    wanted, found = (rng.normal(0.5, s, (3, 90, 80)).astype(np.float32) for s in (0.2, 0.1))
    gain, bias = matching_affine(moments_of(wanted), moments_of(found), 1e-10)
    mapped = gain[:, None, None] * found + bias[:, None, None]
    np.testing.assert_allclose(mapped.mean((1, 2)), wanted.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(mapped.std((1, 2)), wanted.std((1, 2)), rtol=1e-5)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-10])
def test_flat_pictures_and_single_pixels_take_the_colour(rng: np.random.Generator, epsilon: float) -> None:
    for shape in ((1, 1), (10, 33)):
        wanted, found = (np.full((3, *shape), rng.random(), np.float32) for _ in range(2))
        gain, bias = matching_affine(moments_of(wanted), moments_of(found), epsilon)
        assert np.abs(gain[:, None, None] * found + bias[:, None, None] - wanted).max() <= 1e-5


def test_the_epsilon_bounds_the_gain(rng: np.random.Generator) -> None:
    textured, noisy = rng.random((3, 40, 40), np.float32), rng.normal(0.5, 1e-5, (3, 40, 40)).astype(np.float32)
    gain, _ = matching_affine(moments_of(textured), moments_of(noisy), 1e-5)
    assert (gain < 1 / np.sqrt(1e-5)).all()
