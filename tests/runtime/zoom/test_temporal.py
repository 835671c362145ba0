"""Smoothing in time: how much noise it leaves, and that it leaves alone what moves."""

from __future__ import annotations

import numpy as np
import pytest
from runtime_helpers import photograph

from zoomrt.runtime.zoom.temporal import Smoother, _local_mean

KEEP = 0.75

SIZE = (96, 120)
PLACE = slice(0, 96), slice(0, 120)
NOISE = 4 / 255


def scene() -> np.ndarray:  # type: ignore[type-arg]
    return photograph(*SIZE).transpose(2, 0, 1).astype(np.float32) / 255


def test_local_mean_is_the_slow_loop(rng: np.random.Generator) -> None:
    plane = rng.random((13, 17), np.float32)
    padded = np.pad(plane, 3, mode="edge").astype(np.float64)
    slow = [[padded[y : y + 7, x : x + 7].mean() for x in range(17)] for y in range(13)]
    np.testing.assert_allclose(_local_mean(plane), slow, atol=1e-12)


def test_a_still_scene_loses_noise_as_a_recursive_average_does(rng: np.random.Generator) -> None:
    smoother, still = Smoother(NOISE), scene()
    frames = []
    for count in range(60):
        noisy = (still + rng.normal(0, NOISE, still.shape)).astype(np.float32)
        smooth = smoother.apply(noisy.copy(), PLACE, SIZE)
        if count >= 20:
            frames.append(smooth)
    ratio = np.square(np.array(frames) - still).mean() / NOISE**2
    assert ratio == pytest.approx((1 - KEEP) / (1 + KEEP), rel=0.15)
    assert np.abs(np.mean(frames, axis=0) - still).mean() < NOISE / 4  # no bias


def test_a_moving_thing_leaves_no_ghost(rng: np.random.Generator) -> None:
    """A bright square of 24 moves 6 pixels a frame over a flat ground: where it was, the ground is back at once."""
    smoother = Smoother(NOISE)
    for count in range(8):
        frame = np.full((3, *SIZE), 0.3, np.float32)
        frame[:, 30:54, 6 * count : 6 * count + 24] = 0.8
        noisy = (frame + rng.normal(0, NOISE, frame.shape)).astype(np.float32)
        smooth = smoother.apply(noisy.copy(), PLACE, SIZE)
        if count:
            gone = smooth[:, 34:50, 6 * count - 6 : 6 * count]
            assert np.array_equal(gone, noisy[:, 34:50, 6 * count - 6 : 6 * count])
    far = smooth[:, 70:, :40]
    assert far.std() < 0.6 * NOISE  # the rest of the scene is still smoothed


def test_a_cut_a_new_size_and_unseen_pixels_are_taken_as_they_are() -> None:
    smoother, still = Smoother(NOISE), scene()
    part = slice(0, 40), slice(0, 50)
    window = still[:, :40, :50].copy()
    assert np.array_equal(smoother.apply(window.copy(), part, SIZE), window)
    whole = smoother.apply(still.copy(), PLACE, SIZE)
    assert np.array_equal(whole[:, 50:, 60:], still[:, 50:, 60:])
    cut = ((still + 0.5) % 1).astype(np.float32)  # everywhere half the range away
    assert np.array_equal(smoother.apply(cut.copy(), PLACE, SIZE), cut)
    other = np.full((3, 10, 12), 0.5, np.float32)
    assert np.array_equal(smoother.apply(other.copy(), (slice(0, 10), slice(0, 12)), (10, 12)), other)
