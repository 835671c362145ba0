"""Start noise: normal, the same for ever, and the same for every tile that sees a pixel of the frame."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_helpers import FakeSession, facts, manifest
from scipy import stats

from zoomrt.bundle import NoiseFacts
from zoomrt.runtime.tiles.noise import noise_at, noise_map
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler

PERIOD = 512

NOISE = NoiseFacts(channels=3, seed=12345)


def test_standard_normal() -> None:
    """Kolmogorov and Smirnov's distance, and no dependence between channels or neighbours."""
    values = noise_map(NoiseFacts(channels=2, seed=7)).astype(np.float64)
    assert values.shape == (2, PERIOD, PERIOD)
    assert stats.kstest(values.ravel()[:200_000], "norm").pvalue > 1e-4
    pairs = [(values[0], values[1]), (values[0, 1:], values[0, :-1]), (values[0, :, 1:], values[0, :, :-1])]
    for a, b in pairs:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / PERIOD


def test_the_same_for_ever() -> None:
    """Bundles promise equal pixels for equal input: these are Philox's first raw numbers, by the formula, in Python."""
    raw = [int(number) for number in np.random.Philox(12345).random_raw(3 * PERIOD * PERIOD)]
    half = len(raw) // 2
    for i in (0, 1, PERIOD + 5):
        radius, angle = ((raw[i + offset] // 2**11 + 0.5) / 2**53 for offset in (0, half))
        wanted = math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)
        assert noise_map(NOISE)[0, i // PERIOD, i % PERIOD] == pytest.approx(wanted, abs=1e-6)
    np.testing.assert_allclose(noise_map(NOISE)[0, 0, :3], [0.3215034, 0.8988163, -0.8460141], atol=1e-6)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (-40, 7), (PERIOD - 3, -PERIOD - 1), (12345, 16383)])
def test_cut_at_a_place(y: int, x: int) -> None:
    got = noise_at(NOISE, y, x, 5, 9)
    for j in range(5):
        for i in range(9):
            np.testing.assert_array_equal(got[:, j, i], noise_map(NOISE)[:, (y + j) % PERIOD, (x + i) % PERIOD])


class Listening(FakeSession):
    """Keeps every tile's input."""

    def _execute(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.heard = [*getattr(self, "heard", []), *batch.copy()]
        return super()._execute(np.ascontiguousarray(batch[:, :3]))


@pytest.mark.parametrize("size", [(70, 95), (20, 50), (32, 32)])
def test_every_tile_cuts_from_one_map(size: tuple[int, int], rng: np.random.Generator) -> None:
    tile = facts(noise=NOISE, batches=(1, 2))
    session = Listening(tile)
    frame = rng.integers(0, 256, (*size, 3), np.uint8)
    Upscaler(manifest(tile), session).upscale(frame)
    tiles = plan(*size, tile)
    assert len(session.heard) == len(tiles)
    for index, heard in enumerate(session.heard):
        row, column = tiles.position(index)
        y, x = tiles.rows.spans[row].origin, tiles.columns.spans[column].origin
        assert heard.shape == (6, 32, 32)
        np.testing.assert_array_equal(heard[3:], noise_at(NOISE, y, x, 32, 32))
        if y >= 0 and x >= 0:  # the picture is where it was without noise
            wanted = frame[y : y + 32, x : x + 32].transpose(2, 0, 1) / 127.5 - 1
            np.testing.assert_allclose(heard[:3], wanted, atol=1e-6)
