"""The colour step `wavelet` against a direct float64 implementation of the formula, and against Pillow's reference."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runtime_helpers import facts, photograph, write_bundle
from torch.nn import functional as F

from zoomrt.runtime.colour import peak_of
from zoomrt.runtime.upscaler import load
from zoomrt.runtime.wavelet import match_low_frequencies

DTYPES = [np.uint8, np.uint16, np.float32]
SIZES = [(1, 1), (1, 9), (3, 5), (8, 8), (40, 3), (37, 41), (5, 120)]
"""Source sizes; at x4 they are smaller than the blur's reach, about as large, and several bands high or wide."""


def random_frame(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Fresh noise around a fresh slope, the full range of values."""
    values = np.clip(rng.random(shape) * 0.6 + np.linspace(0, rng.uniform(-0.5, 0.8), shape[0])[:, None, None], 0, 1)
    return values.astype(np.float32) if dtype is np.float32 else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def bicubic(source: np.ndarray, scale: int) -> np.ndarray:
    """(h, w, C) float64, enlarged by torch."""
    planes = torch.from_numpy(source).permute(2, 0, 1)[None]
    return F.interpolate(planes, scale_factor=scale, mode="bicubic")[0].permute(1, 2, 0).numpy()


def slow_low(picture: np.ndarray) -> np.ndarray:
    """Five levels of nine taps each, (h, w, C) float64."""
    for radius in (1, 2, 4, 8, 16):
        padded = np.pad(picture, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
        height, width = picture.shape[:2]
        picture = np.zeros_like(picture)
        for j, row in enumerate([[1, 2, 1], [2, 4, 2], [1, 2, 1]]):
            for i, weight in enumerate(row):
                picture += weight / 16 * padded[j * radius :, i * radius :][:height, :width]
    return picture


def slow_wavelet(frame: np.ndarray, source: np.ndarray, scale: int) -> np.ndarray:
    """high(frame) + low(reference), values in [0, 1], clipped: level by level, as the authors write it."""
    peak = peak_of(frame.dtype)
    picture, high = frame.astype(np.float64) / peak, np.zeros(frame.shape)
    for radius in (1, 2, 4, 8, 16):
        blurred = one_level(picture, radius)
        high += picture - blurred
        picture = blurred
    return np.clip(high + slow_low(bicubic(source.astype(np.float64) / peak, scale)), 0, 1)


def one_level(picture: np.ndarray, radius: int) -> np.ndarray:
    """The same nine taps by torch's depthwise dilated convolution."""
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64) / 16
    planes = F.pad(torch.from_numpy(picture).permute(2, 0, 1)[:, None], [radius] * 4, mode="replicate")
    return F.conv2d(planes, kernel[None, None], dilation=radius)[:, 0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_against_the_formula(rng: np.random.Generator, dtype: type, grey: bool, size: tuple[int, int]) -> None:
    channels, scale = 1 if grey else 3, 4
    source = random_frame(rng, dtype, (*size, channels))
    frame = random_frame(rng, dtype, (size[0] * scale, size[1] * scale, channels))
    expected = slow_wavelet(frame, source, scale)
    result = frame.copy()
    if grey:
        match_low_frequencies(result[:, :, 0], source[:, :, 0])
    else:
        match_low_frequencies(result, source)
    peak = peak_of(frame.dtype)
    assert not np.array_equal(result, frame)
    assert np.abs(result / peak - expected).max() <= (0.5 / peak if peak > 1 else 0) + 1e-6


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_other_scales(rng: np.random.Generator, scale: int) -> None:
    source = random_frame(rng, np.float32, (50, 43, 3))
    frame = random_frame(rng, np.float32, (50 * scale, 43 * scale, 3))
    expected = slow_wavelet(frame, source, scale)
    match_low_frequencies(frame, source)
    assert np.abs(frame - expected).max() <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_flat_pictures_take_the_colour_of_their_source(rng: np.random.Generator, dtype: type) -> None:
    peak = peak_of(np.dtype(dtype))
    colour = (rng.random(3) * peak).astype(dtype)
    source = np.full((9, 40, 3), colour, dtype)
    frame = np.full((36, 160, 3), (rng.random(3) * peak).astype(dtype), dtype)
    match_low_frequencies(frame, source)
    assert np.abs(frame.astype(np.float64) - colour).max() <= (0 if peak > 1 else 1e-6)


def test_the_reference_of_osediff_differs_by_less_than_half_a_step() -> None:
    """OSEDiff enlarges 8-bit pictures with Pillow; only low frequencies of the reference count. 0.43 was seen."""
    pixels = photograph(200, 300)
    pillow = np.asarray(Image.fromarray(pixels).resize((1200, 800), Image.Resampling.BICUBIC), np.float64)
    difference = np.abs(slow_low(pillow) - slow_low(bicubic(pixels.astype(np.float64), 4)))
    assert difference.max() <= 0.5
    assert difference.mean() <= 0.05


def test_memory_grows_with_the_width_only() -> None:
    def peak_bytes(rows: int, columns: int) -> int:
        frame, source = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows // 4, columns // 4, 3), np.uint8)
        tracemalloc.start()
        try:
            match_low_frequencies(frame, source)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    low, high = peak_bytes(400, 800), peak_bytes(1600, 800)
    assert abs(high - low) <= 100_000, "the frames are 1 and 4 MB"
    print(f"{low / 800:.0f} bytes a column")
    assert low <= 3500 * 800


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("grey", [False, True])
def test_an_upscaler_applies_it_once_to_the_whole_picture(
    tmp_path: Path, rng: np.random.Generator, dtype: type, grey: bool
) -> None:
    frame = random_frame(rng, dtype, (70, 61, 3))[::-1]
    frame = frame[:, :, 1] if grey else frame
    with load(write_bundle(tmp_path / "none", facts(), 7), threads=1) as upscaler:
        plain = upscaler(frame)
    with load(write_bundle(tmp_path / "wavelet", facts(colour="wavelet"), 7), threads=1) as upscaler:
        result = upscaler(frame)
    three = (*plain.shape[:2], -1)
    expected = slow_wavelet(plain.reshape(three), frame.reshape(*frame.shape[:2], -1), 4)
    peak = peak_of(plain.dtype)
    assert np.abs(result.reshape(three) / peak - expected).max() <= (0.5 / peak if peak > 1 else 0) + 1e-6
