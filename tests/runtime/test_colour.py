"""The colour step against float64 references written from the formula."""

from __future__ import annotations

import numpy as np
import pytest

from zoomrt.runtime.colour import EPSILON, Moments, apply_affine, matching_affine, moments_of_frame

DTYPES = [np.uint8, np.uint16, np.float32]


def random_frame(rng: np.random.Generator, dtype: type, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    values = rng.uniform(low, high, shape) ** rng.uniform(0.5, 2, shape[2:] or 1)
    return values.astype(np.float32) if dtype is np.float32 else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def unit(frame: np.ndarray) -> np.ndarray:
    """Values in [0, 1] as (pixels, channels) float64."""
    peak = np.iinfo(frame.dtype).max if frame.dtype.kind == "u" else 1
    return frame.reshape(frame.shape[0] * frame.shape[1], -1).astype(np.float64) / peak


def statistics(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = unit(frame)
    return values.mean(0), np.sqrt(values.var(0, ddof=1) + EPSILON)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(301, 517, 3), (301, 517), (3, 70000, 3), (2, 1)])
def test_moments_of_a_frame(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> None:
    frame = random_frame(rng, dtype, shape, 0.2, 0.7)
    moments = moments_of_frame(frame)
    np.testing.assert_allclose(moments.mean, unit(frame).mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, unit(frame).var(0, ddof=1), rtol=1e-5, atol=1e-7)


def test_moments_of_blocks_are_those_of_the_whole(rng: np.random.Generator) -> None:
    whole = rng.uniform(0, 255, (3, 100, 90)).astype(np.float32)
    moments = Moments(3, 255.0)
    for rows, columns in (
        (slice(0, 37), slice(0, 90)),
        (slice(37, 100), slice(0, 11)),
        (slice(37, 100), slice(11, 90)),
    ):
        moments.add(whole[:, rows, columns])
    reference = whole.astype(np.float64).reshape(3, -1) / 255
    np.testing.assert_allclose(moments.mean, reference.mean(1), rtol=1e-6)
    np.testing.assert_allclose(moments.variance, reference.var(1, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grey", [False, True])
def test_the_result_takes_the_colours_of_the_source(rng: np.random.Generator, dtype: type, grey: bool) -> None:
    channels = () if grey else (3,)
    source = random_frame(rng, dtype, (80, 90, *channels), 0.3, 0.7)
    result = random_frame(rng, dtype, (320, 360, *channels), 0.4, 0.6)
    (mean_x, sigma_x), (mean_y, sigma_y) = statistics(source), statistics(result)
    expected = np.clip((unit(result) - mean_y) / sigma_y * sigma_x + mean_x, 0, 1)

    apply_affine(result, *matching_affine(moments_of_frame(source), moments_of_frame(result)))

    rounding = 0.5 / np.iinfo(dtype).max if np.dtype(dtype).kind == "u" else 0
    assert np.abs(unit(result) - expected).max() <= rounding + 2e-6
    np.testing.assert_allclose(statistics(result)[0], mean_x, atol=rounding + 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_flat_picture_stays_flat_and_small_noise_stays_small(rng: np.random.Generator, dtype: type) -> None:
    source = np.full((10, 10, 3), 0.25 if dtype is np.float32 else np.iinfo(dtype).max // 4, dtype)
    flat = np.full((40, 40, 3), 0.5 if dtype is np.float32 else np.iinfo(dtype).max // 2, dtype)
    apply_affine(flat, *matching_affine(moments_of_frame(source), moments_of_frame(flat)))
    assert np.abs(unit(flat) - unit(source)[0]).max() <= 0.5 / 255 + 1e-6

    textured = random_frame(rng, dtype, (10, 10, 3), 0.0, 1.0)
    noisy = np.full((40, 40, 3), 0.5, np.float32) + rng.normal(0, 1e-5, (40, 40, 3)).astype(np.float32)
    gain, _ = matching_affine(moments_of_frame(textured), moments_of_frame(noisy))
    assert (gain < 1 / np.sqrt(EPSILON)).all(), "the epsilon bounds the gain"


def test_a_single_pixel_takes_the_colour_of_its_source() -> None:
    source, result = np.uint8([[[10, 200, 30]]]), np.uint8([[[50, 60, 70]]])
    apply_affine(result, *matching_affine(moments_of_frame(source), moments_of_frame(result)))
    assert result.tolist() == source.tolist()
