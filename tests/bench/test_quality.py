"""PSNR, SSIM and FLIP of pictures against each other."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest
from skimage import data

from zoomrt.bench.quality import compare_pictures


def photograph() -> np.ndarray:
    return data.astronaut()[100:228, 150:310]


def noisy(rng: np.random.Generator, picture: np.ndarray, deviation: float) -> np.ndarray:
    noise = rng.normal(0, deviation, picture.shape)
    return np.clip(np.rint(picture + noise), 0, 255).astype(np.uint8)


def test_equal_pictures_are_perfect() -> None:
    found = compare_pictures("a", "b", [(photograph(), photograph())])
    assert (found.psnr_db, found.ssim, found.flip) == (200.0, 1.0, 0.0 if found.flip is not None else None)


def test_psnr_is_its_definition_and_every_measure_falls_with_noise(rng: np.random.Generator) -> None:
    picture = photograph()
    spoiled = [noisy(rng, picture, deviation) for deviation in (2, 8, 32)]
    found = [compare_pictures("a", "b", [(one, picture)]) for one in spoiled]
    for one, measured in zip(spoiled, found, strict=True):
        error = np.mean((one.astype(float) - picture) ** 2)
        assert measured.psnr_db == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    assert found[0].ssim > found[1].ssim > found[2].ssim


def test_flip_sees_differences(rng: np.random.Generator) -> None:
    """It grows with noise, is near 1 for black against white, and is the mean over pictures."""
    pytest.importorskip("flip_evaluator")
    picture = photograph()
    spoiled = [compare_pictures("a", "b", [(noisy(rng, picture, deviation), picture)]).flip for deviation in (2, 8, 32)]
    assert 0 < spoiled[0] < spoiled[1] < spoiled[2] < 1  # type: ignore[operator]
    black, white = np.zeros_like(picture), np.full_like(picture, 255)
    assert compare_pictures("a", "b", [(black, white)]).flip == pytest.approx(0.97, abs=0.03)
    both = compare_pictures("a", "b", [(black, white), (white, white)]).flip
    assert both == pytest.approx(compare_pictures("a", "b", [(black, white)]).flip / 2, abs=1e-4)  # type: ignore[operator]


def test_without_its_package_flip_is_null(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "flip_evaluator":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "flip_evaluator", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert compare_pictures("a", "b", [(photograph(), photograph())]).flip is None
