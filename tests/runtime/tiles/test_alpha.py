"""Alpha beside an upscaled picture: enlarged, and colour where nothing was visible; in bands as in one piece."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from runtime_helpers import facts, fake_upscaler

from zoomrt.runtime.pictures.images import Picture, upscale_picture
from zoomrt.runtime.tiles import alpha as module
from zoomrt.runtime.tiles.alpha import fill_hidden, resize_alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_is_enlarged_by_bicubic_interpolation(rng: np.random.Generator, dtype: type) -> None:
    top = np.iinfo(dtype).max
    alpha = rng.integers(0, top, (12, 17), dtype, endpoint=True)
    upscaler, _ = fake_upscaler(facts())
    result = upscale_picture(upscaler, Picture(rng.integers(0, top, (12, 17, 3), dtype), alpha))
    expected = Image.fromarray(alpha.astype(np.float32)).resize((68, 48), Image.Resampling.BICUBIC)
    assert result.alpha.dtype == dtype
    assert np.abs(result.alpha - np.clip(np.asarray(expected), 0, top)).max() <= 0.51


def test_hidden_colour_does_not_bleed(rng: np.random.Generator) -> None:
    pixels = np.full((21, 34, 3), (200, 100, 50), np.uint8)
    alpha = np.zeros((21, 34), np.uint8)
    alpha[5:15, 8:20] = rng.integers(1, 256, (10, 12))
    pixels[alpha == 0] = (0, 255, 0)
    upscaler, session = fake_upscaler(facts())
    result = upscale_picture(upscaler, Picture(pixels, alpha))
    assert session.runs
    assert (result.pixels == (200, 100, 50)).all(), "one visible colour, so that one only"


def test_fill_hidden_keeps_what_is_visible_and_takes_near_colours(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (33, 20, 3), np.uint8)
    alpha = (rng.random((33, 20)) < 0.2).astype(np.uint8)
    filled = fill_hidden(pixels, alpha)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[alpha > 0], pixels[alpha > 0])
    halves = np.zeros((16, 16), np.uint8)
    halves[:, :8], halves[:, 8:] = 40, 180
    seen = np.zeros((16, 16), np.uint8)
    seen[::4, ::4] = 1
    assert np.array_equal(fill_hidden(np.where(seen, halves, 255).astype(np.uint8), seen), halves)
    for shown in (0, 255):
        assert fill_hidden(pixels, np.full((33, 20), shown, np.uint8)) is pixels


def slow_fill(colours: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """For each hidden pixel the mean of the visible ones in the smallest block of 2, 4, 8 ... that has any; float64."""
    filled = colours.astype(np.float64)
    for y, x in zip(*np.nonzero(seen == 0), strict=True):
        side = 2
        while True:
            rows, columns = (slice(at // side * side, at // side * side + side) for at in (y, x))
            if seen[rows, columns].any():
                filled[y, x] = colours[rows, columns][seen[rows, columns] > 0].mean(axis=0)
                break
            side *= 2
    return filled


@pytest.mark.parametrize(
    ("shape", "share"), [((83, 50, 3), 0.02), ((83, 50), 0.002), ((1, 300, 3), 0.02), ((64, 64, 3), 0.5)]
)
def test_hidden_colour_is_that_of_the_smallest_block_with_any_in_bands_too(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], share: float
) -> None:
    monkeypatch.setattr(module, "_BAND_PIXELS", 1)
    pixels = rng.integers(0, 65536, shape, np.uint16)
    seen = (rng.random(shape[:2]) < share).astype(np.uint16)
    seen[-1, -1] = 1
    assert np.abs(fill_hidden(pixels, seen) - slow_fill(pixels, seen)).max() <= 0.51, "rounded, from float32"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(48, 68), (31, 90), (5, 4), (12, 17)])
def test_bands_of_alpha_join_without_a_seam(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dtype: type, size: tuple[int, int]
) -> None:
    plane = rng.integers(0, np.iinfo(dtype).max, (12, 17), dtype, endpoint=True)
    whole = resize_alpha(plane, size)
    monkeypatch.setattr(module, "_BAND_PIXELS", 1)
    assert np.abs(resize_alpha(plane, size).astype(int) - whole).max() <= 1, (
        "the same weights, computed from another edge"
    )
