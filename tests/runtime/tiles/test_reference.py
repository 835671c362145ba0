"""The input enlarged for the colour step, against Pillow and torch themselves."""

from __future__ import annotations

import itertools

import colour_steps
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from zoomrt.bundle import ColourFacts
from zoomrt.runtime.tiles.reference import InputReference

SIZES = [((1, 1), (4, 4)), ((9, 1), (36, 3)), ((37, 41), (148, 164)), ((37, 41), (53, 200)), ((40, 60), (17, 31))]


def pixels_of(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.random(shape)
    return values.astype(dtype) if dtype is np.float32 else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def rows_in_parts(rng: np.random.Generator, reference: InputReference, height: int) -> np.ndarray:
    cuts = [0, *sorted(set(rng.integers(1, height, 3).tolist()) if height > 1 else ()), height]
    return np.concatenate([reference.rows(a, b) for a, b in itertools.pairwise(cuts)], axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_pillows(
    rng: np.random.Generator, dtype: type, grey: bool, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    frame = pixels_of(rng, dtype, size if grey else (*size, 3))
    reference = InputReference(frame, wanted, ColourFacts(reference="pillow_bicubic"))
    found = rows_in_parts(rng, reference, wanted[0])
    peak = 1 if dtype is np.float32 else np.iinfo(dtype).max
    for plane, channel in zip(found, (frame[None] if grey else frame.transpose(2, 0, 1)), strict=True):
        pillow = (channel / np.float64(peak)).astype(np.float32)
        for target in ((wanted[1], size[0]), wanted[::-1]):  # columns, then rows, in floats
            pillow = np.asarray(Image.fromarray(pillow).resize(target, Image.Resampling.BICUBIC)).clip(0, 1)
        assert np.abs(plane - pillow).max() <= 2e-6
    moments = reference.moments()
    np.testing.assert_allclose(moments.mean, found.mean((1, 2), dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(moments.variance, found.var((1, 2), dtype=np.float64, ddof=1), rtol=1e-5)


def test_pillows_is_that_of_8_bits_to_rounding(rng: np.random.Generator) -> None:
    """What OSEDiff's authors really do: rounded after the columns, times at most 1.25, and after the rows."""
    frame = pixels_of(rng, np.uint8, (50, 60, 3))
    found = InputReference(frame, (200, 240), ColourFacts(reference="pillow_bicubic")).rows(0, 200)
    pillow = np.asarray(Image.fromarray(frame).resize((240, 200), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(found * 255 - pillow).max() <= 0.5 * 1.25 + 0.5 + 0.01


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_torchs(rng: np.random.Generator, grey: bool, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    frame = pixels_of(rng, np.float32, size if grey else (*size, 3))
    found = rows_in_parts(rng, InputReference(frame, wanted, ColourFacts(reference="torch_bicubic")), wanted[0])
    planes = torch.from_numpy(frame[None] if grey else frame.transpose(2, 0, 1).copy())[None].double()
    expected = F.interpolate(planes, size=wanted, mode="bicubic")[0].numpy()
    assert np.abs(found - expected).max() <= 2e-6
    if size == (37, 41):
        assert expected.max() > 1.05, "and it is not cut"


def test_the_input_as_it_is(rng: np.random.Generator) -> None:
    for shape in ((70, 61, 3), (70, 61), (3, 70000, 3)):
        frame = pixels_of(rng, np.uint16, shape)
        moments = InputReference(frame, (280, 244), ColourFacts(reference="input")).moments()
        values = frame.reshape(shape[0] * shape[1], -1) / 65535
        np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-6)
        np.testing.assert_allclose(moments.variance, values.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("filter_name", ["BICUBIC", "LANCZOS"])
@pytest.mark.parametrize(("size", "wanted"), SIZES)
def test_the_tests_own_resampling_is_pillows(
    rng: np.random.Generator, filter_name: str, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    """`colour_steps` is what other tests measure with."""
    picture = rng.random((*size, 1))
    kernel, support = colour_steps.KERNELS[filter_name]
    own = colour_steps.resampled(picture, wanted, kernel, support)
    image = Image.fromarray(picture[..., 0].astype(np.float32))
    pillow = np.asarray(image.resize(wanted[::-1], Image.Resampling[filter_name]), np.float64)
    assert np.abs(own[..., 0] - pillow).max() <= 2e-6
