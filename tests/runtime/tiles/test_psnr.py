"""PSNR, the one that all reports share."""

from __future__ import annotations

import numpy as np
import pytest

from zoomrt.runtime.sizes import bands
from zoomrt.runtime.tiles.psnr import psnr_db


def test_as_the_literature_has_it(rng: np.random.Generator) -> None:
    wanted, got = rng.integers(0, 256, (2, 9, 7, 3), np.uint8)
    metrics = pytest.importorskip("skimage.metrics")
    assert psnr_db(wanted, got, 255) == pytest.approx(metrics.peak_signal_noise_ratio(wanted, got, data_range=255))
    assert psnr_db(wanted / 255, got / 255, 1) == pytest.approx(psnr_db(wanted, got, 255))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_equal_or_not_finite_is_a_number_too(bad: float) -> None:
    values = np.zeros((2, 2), np.float32)
    assert psnr_db(values, values, 1) == 200
    assert psnr_db(values, values + 1e-15, 1) == 200
    assert psnr_db(values, values + np.float32(bad), 1) == -200
    assert psnr_db(values + np.float32(bad), values + np.float32(bad), 1) == -200


def test_bands_cover_an_axis_once() -> None:
    assert list(bands(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(bands(2, 0)) == [slice(0, 1), slice(1, 2)]
    assert list(bands(0, 3)) == []
