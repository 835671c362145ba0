"""The tiles a network is tried on."""

from __future__ import annotations

import random

import numpy as np
import pytest

from zoomrt.export.verify.sample_tiles import extreme_tiles, photograph_tile


@pytest.mark.parametrize("size", [(64, 64), (300, 40), (700, 700)])
def test_photograph_fits_any_tile(size: tuple[int, int]) -> None:
    tile = photograph_tile(*size, (-1.0, 1.0))
    assert tile.shape == (1, 3, *size)
    assert tile.min() >= -1
    assert tile.max() <= 1
    assert tile.std() > 0.2


def test_extremes() -> None:
    tiles = extreme_tiles(24, (-1.0, 1.0), random.getrandbits(32))
    assert {tile.shape for tile in tiles.values()} == {(1, 3, 24, 24)}
    assert {tile.dtype for tile in tiles.values()} == {np.dtype(np.float32)}
    assert (tiles["black"] == -1).all()
    assert (tiles["white"] == 1).all()
    assert np.ptp(tiles["flat"], axis=(2, 3)).max() == 0
    assert np.abs(tiles["flat"]).max() <= 1
    assert 0.5 < tiles["noise"].std() < 0.65  # uniform over a range of 2: 0.577
