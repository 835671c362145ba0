"""The colour steps through an upscaler, against what the authors of each model do (`colour_steps`), in float64.

The stand-in for a network enlarges by repetition, tints and stretches its values, so that 2 to 3 % of them lie outside
[0, 1]: whether the step sees those or what is left of them after a cut are two pictures, tens of codes apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_steps import REFERENCES, STEPS, pillow_bicubic
from numpy.typing import NDArray
from runtime_helpers import facts, fake_upscaler, write_bundle
from skimage import data

from zoomrt.errors import OutOfMemory, UsageError
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import load

TINT = np.array([0.03, 0.0, -0.03])
MODELS = ["osediff", "osediff_wavelet", "hypir", "adcsr"]
LUMA = [0.299, 0.587, 0.114]


class Stretched:
    """A network that enlarges by repetition and stretches values around the middle; `answer` is what it says."""

    def __init__(self, frame: NDArray[Any]) -> None:
        values = frame / white_of(frame.dtype)
        self.source = values.reshape(*frame.shape[:2], -1).astype(np.float64)
        self.gain = 0.5 / np.quantile(np.abs(values - 0.5), 0.975)
        self.answer = (self.source.repeat(4, 0).repeat(4, 1) - 0.5) * self.gain + 0.5 + TINT
        if frame.ndim == 2:
            self.answer = (self.answer @ LUMA)[:, :, None]

    def __call__(self, _: int, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Between the session's values, -1 and 1."""
        return (tiles * self.gain + 2 * TINT[:, None, None]).astype(np.float32)


def white_of(dtype: Any) -> float:
    return 1.0 if np.dtype(dtype).kind == "f" else float(np.iinfo(dtype).max)


def random_frame(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """A slope with noise, and with white and black edges, which make a cubic overshoot."""
    values = rng.random(shape) * 0.5 + np.linspace(0, 0.45, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    values[:, shape[1] // 2 :] = 1 - values[:, shape[1] // 2 :]
    values[rng.random(values.shape) < 0.3] *= 0.3
    return values.astype(np.float32) if dtype is np.float32 else np.rint(values * np.iinfo(dtype).max).astype(dtype)


def rounding_of(dtype: Any) -> float:
    """Rounded once; pictures of 8 bits have waited for `adain` at 1/64 of a code, times a gain below 2."""
    return 0.0 if np.dtype(dtype).kind == "f" else (0.5 + (0.02 if dtype is np.uint8 else 0)) / white_of(dtype)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(31, 30, 3), (70, 61, 3), (55, 70)], ids=["one tile", "tiles", "grey"])
def test_as_the_authors_do_it(rng: np.random.Generator, model: str, dtype: type, shape: tuple[int, ...]) -> None:
    frame = random_frame(rng, dtype, shape)
    network = Stretched(frame)
    outside = np.mean((network.answer < 0) | (network.answer > 1))
    assert 0.015 < outside < 0.045
    upscaler, _ = fake_upscaler(facts(colour=model), after=network)
    assert (len(plan(*shape[:2], upscaler.manifest.tile)) > 1) == (shape[0] > 32)
    found = upscaler(frame) / white_of(dtype)
    expected = REFERENCES[model](network.answer, network.source)
    assert np.abs(found.reshape(expected.shape) - expected).max() <= rounding_of(dtype) + 1e-5


def test_where_values_are_cut_shows(rng: np.random.Generator) -> None:
    """HYPIR and AdcSR cut last, OSEDiff first: the other order is far from what the tests above allow."""
    frame = random_frame(rng, np.float32, (70, 90, 3))
    network = Stretched(frame)
    cut = np.clip(network.answer, 0, 1)
    for model in ("hypir", "adcsr"):
        right, wrong = (REFERENCES[model](answer, network.source) for answer in (network.answer, cut))
        assert np.abs(right - wrong).max() * 255 > 5
    assert np.array_equal(REFERENCES["osediff"](network.answer, network.source),
                          REFERENCES["osediff"](cut, network.source))  # fmt: skip


def test_whose_deviation_shows() -> None:
    """A page of text has 3 % less when it is enlarged."""
    source = data.page()[:100, :150, None] / 255
    assert 1.02 < source.std() / pillow_bicubic(source, (400, 600)).std() < 1.04


def test_the_statistics_of_a_frame_are_global(tmp_path: Path, rng: np.random.Generator) -> None:
    """Through ONNX Runtime: half of the frame is dark, half is bright, and no tile has the mean of the whole."""
    frame = rng.uniform(0.1, 0.4, (100, 90, 3)).astype(np.float32)
    frame[50:] += 0.5
    with load(write_bundle(tmp_path / "none", facts(), 7), threads=1) as upscaler:
        plain = upscaler(frame).astype(np.float64)
    with load(write_bundle(tmp_path / "adain", facts(colour="osediff"), 7), threads=1) as upscaler:
        found = upscaler(frame)
    assert np.abs(found - REFERENCES["osediff"](plain, frame.astype(np.float64))).max() <= 2e-5


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("model", MODELS)
def test_flat_pictures_stay_flat_and_take_the_colour(rng: np.random.Generator, dtype: type, model: str) -> None:
    """AdcSR's authors divide by the deviation as it is, which is 0 here: theirs is a white square."""
    white = white_of(dtype)
    colour = (rng.uniform(0.2, 0.8, 3) * white).astype(dtype)
    frame = np.full((40, 50, 3), colour, dtype)
    upscaler, _ = fake_upscaler(facts(colour=model), after=lambda _, tiles: tiles * np.float32(0.7))
    assert np.abs(upscaler(frame).astype(np.float64) - colour).max() <= (0 if white > 1 else 1e-5)
    single, _ = fake_upscaler(
        facts(colour=model, scale=1, batches=(1,)), after=lambda _, tiles: tiles * np.float32(0.7)
    )
    assert np.abs(single(frame[:1, :1]).astype(np.float64) - colour).max() <= (0 if white > 1 else 1e-5)


@pytest.mark.parametrize(("own", "method"), [("none", "wavelet"), ("hypir", "adain"), ("osediff", "none")])
def test_another_method_when_loading(tmp_path: Path, rng: np.random.Generator, own: str, method: str) -> None:
    """Where values are cut and whose colours they take stays the model's."""
    path = write_bundle(tmp_path / "b", facts(colour=own), 7)
    frame = rng.integers(0, 256, (40, 50, 3), np.uint8)
    with load(path, threads=1, colour=method) as upscaler:
        colour = upscaler.manifest.tile.colour
        found = upscaler(frame)
    assert colour.method == method
    assert (colour.clamp, colour.reference, colour.epsilon) == (
        STEPS[own].clamp, STEPS[own].reference, STEPS[own].epsilon,
    )  # fmt: skip
    with load(write_bundle(tmp_path / "n", facts(), 7), threads=1) as upscaler:
        assert np.array_equal(upscaler(frame), found) == (method == "none")


def test_a_method_that_there_is_not(tmp_path: Path) -> None:
    """Before anything is opened: there is no bundle."""
    with pytest.raises(UsageError, match=r"unknown colour step: got 'adian', need one of adain, none, wavelet.*adain"):
        load(tmp_path / "nothing", colour="adian")


def test_a_picture_that_cannot_wait_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    upscaler, _ = fake_upscaler(facts(colour="adcsr"))
    frame, make = np.zeros((8, 8, 3), np.uint8), np.empty

    def full(shape: Any, dtype: Any = float, *rest: Any, **more: Any) -> NDArray[Any]:
        if np.dtype(dtype) == np.int16:
            raise MemoryError
        return make(shape, dtype, *rest, **more)

    monkeypatch.setattr("zoomrt.runtime.tiles.colour.np.empty", full)
    with pytest.raises(OutOfMemory, match=r"cannot match the colours.*colour step none or wavelet"):
        upscaler(frame)
