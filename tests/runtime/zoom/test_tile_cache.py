"""The tile cache: exact reuse, bounded memory, and what counts as unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_helpers import facts

from zoomrt.runtime.zoom.tile_cache import TileCache, code_white, codes_of, largest_change

SHAPE = (3, 16, 24)


def source(rng: np.random.Generator) -> np.ndarray:  # type: ignore[type-arg]
    return rng.random(SHAPE, np.float32)


def test_same_place_and_same_pixels_only(rng: np.random.Generator) -> None:
    cache, one, codes = TileCache(1 << 20), source(rng), np.ones((3, 4, 4), np.uint16)
    cache.put(5, one, codes)
    assert cache.get(5, one.copy()) is codes
    assert cache.get(4, one) is None
    other = one.copy()
    other[2, 15, 23] = np.nextafter(other[2, 15, 23], np.float32(2))  # the smallest change there is
    assert cache.get(5, other) is None
    cache.put(5, other, codes)
    assert cache.get(5, one) is None
    cache.clear()
    assert cache.get(5, other) is None
    assert cache.bytes == 0


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60),
    st.integers(0, 6),
    st.frozensets(st.integers(0, 9), max_size=8),
)
def test_memory_is_bounded_and_the_least_used_goes(
    steps: list[tuple[int, bool]], room: int, pinned: frozenset[int]
) -> None:
    """Against a list that does the same by hand."""
    pixels, codes = np.zeros(SHAPE, np.float32), np.zeros((3, 64, 96), np.uint16)
    each = pixels.nbytes + codes.nbytes
    cache, by_hand = TileCache(room * each), []
    cache.pin(pinned)
    for place, put in steps:
        if put:
            cache.put(place, pixels, codes)
            by_hand = [other for other in by_hand if other != place] + [place]
            while len(by_hand) > max(room, len(pinned.intersection(by_hand))):
                by_hand.remove(next(other for other in by_hand if other not in pinned))
        elif cache.get(place, pixels) is not None:
            assert place in by_hand
            by_hand = [other for other in by_hand if other != place] + [place]
        else:
            assert place not in by_hand
        assert cache.bytes == len(by_hand) * each <= max(room, len(pinned)) * each
    cache.pin(())
    assert cache.bytes == min(len(by_hand), room) * each


def test_pinned_tiles_are_kept_whatever_the_limit(rng: np.random.Generator) -> None:
    cache, one = TileCache(1), source(rng)
    cache.pin([0, 1])
    for place in (0, 1, 2):
        cache.put(place, one, np.zeros((3, 4, 4), np.uint16))
    assert [cache.get(place, one) is not None for place in (0, 1, 2)] == [True, True, False]
    cache.pin([1])
    assert [cache.get(place, one) is not None for place in (0, 1)] == [False, True]


def test_largest_change_is_the_slow_loop(rng: np.random.Generator) -> None:
    one, other = rng.random((3, 21, 34), np.float32), rng.random((3, 21, 34), np.float32)
    slow = max(
        np.abs(one[:, y : y + 8, x : x + 8].astype(float) - other[:, y : y + 8, x : x + 8]).mean()
        for y in range(0, 14, 8)
        for x in range(0, 27, 8)
    )
    assert largest_change(one, other) == pytest.approx(slow, rel=1e-5)
    assert largest_change(one[:, :3], one[:, :3] + 0.25) == pytest.approx(0.25, rel=1e-5)


def test_tolerance_takes_noise_and_sees_an_edge_that_moves(rng: np.random.Generator) -> None:
    noise, scene = 2 / 255, np.zeros((3, 64, 64), np.float32)
    scene[:, :, 32:] = 0.5
    cache = TileCache(1 << 20, 3 * noise)
    cache.put(0, scene + rng.normal(0, noise, scene.shape).astype(np.float32), np.zeros((3, 4, 4), np.uint16))
    assert cache.get(0, scene + rng.normal(0, noise, scene.shape).astype(np.float32)) is not None
    assert cache.get(0, np.roll(scene, 1, axis=2)) is None


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("colour", ["none", "osediff", "adcsr", "hypir"])
def test_codes_are_the_rounded_share_of_the_range(
    value_range: tuple[float, float], dtype: str, colour: str, rng: np.random.Generator
) -> None:
    """Cut to it, but where the colour step looks beyond it: then to three times as much."""
    low, high = value_range
    pixels = (low + (high - low) * rng.uniform(-0.1, 1.1, (3, 5, 6))).astype(dtype)
    pixels[0, 0, :2] = low - 3 * (high - low), high + 2 * (high - low)
    beyond = colour in ("adcsr", "hypir")
    white, least, most = (16384, -32768, 32767) if beyond else (65535, 0, 65535)
    expected = np.clip((pixels.astype(np.float64) - low) / (high - low) * white, least, most)
    tile = facts(value_range=value_range, colour=colour)
    codes = codes_of(pixels, tile)
    assert (codes.dtype, code_white(tile)) == (np.int16 if beyond else np.uint16, white)
    assert np.abs(codes - expected).max() <= 0.5 + 0.02  # float32 arithmetic on 16 bits
