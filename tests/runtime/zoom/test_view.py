"""Views: against the upscaled frame resampled by Pillow, registration, continuity over a sweep of the zoom."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from colour_steps import wavelet
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from runtime_helpers import facts, photograph

from zoomrt.bundle import TileFacts
from zoomrt.runtime.zoom.crop import crop_of, network_share
from zoomrt.runtime.zoom.tile_cache import Codes, codes_of
from zoomrt.runtime.zoom.view import View, view_of

Planes = NDArray[np.float32]


def planes_of(picture: NDArray[np.uint8]) -> Planes:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32) / np.float32(255)


def enlarged(tile: Planes, scale: int) -> Planes:
    """A stand-in for a network: Lanczos by Pillow, the edge mirrored as the network's padding is not; float."""
    size = (tile.shape[2] * scale, tile.shape[1] * scale)
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.LANCZOS)) for plane in tile])


def tiles_of(view: View, window: Planes, tile: TileFacts) -> dict[int, Codes]:
    low, high = tile.value_range
    return {
        index: codes_of(enlarged(view.tile_input(window, index), tile.scale) * (high - low) + low, tile)
        for index in view.needed
    }


def rendered(frame: Planes, output: tuple[int, int], zoom: float, centre: Any = (0.5, 0.5), **changes: Any) -> Planes:
    tile = facts(**changes)
    view = view_of((frame.shape[1], frame.shape[2]), output, tile, zoom, centre)
    window = frame[:, view.window[0], view.window[1]]
    return view.compose(window, tiles_of(view, window, tile))


def plain(
    frame: Planes,
    output: tuple[int, int],
    zoom: float,
    centre: Any,
    kernel: Any = Image.Resampling.BICUBIC,
    scale: int = 1,
) -> Planes:
    """The crop of a (possibly enlarged) frame by Pillow."""
    crop = crop_of((frame.shape[1] // scale, frame.shape[2] // scale), output, zoom, centre)
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    scaled = tuple(min(value * scale, side) for value, side in zip(box, frame.shape[:0:-1] * 2, strict=True))
    size = (output[1], output[0])
    return np.stack([np.asarray(Image.fromarray(plane).resize(size, kernel, box=scaled)) for plane in frame])


@settings(max_examples=25)
@given(
    height=st.integers(5, 120),
    width=st.integers(5, 120),
    zoom=st.floats(1, 16),
    x=st.floats(0, 1),
    y=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_view_is_the_upscaled_frame_resampled(
    height: int, width: int, zoom: float, x: float, y: float, seed: int
) -> None:
    """With tiles cut from one enlarged picture, tiling, blend and residual resample together change nothing.

    The reference resamples the whole enlarged frame with Pillow, which knows no tiles.
    """
    frame = np.random.default_rng(seed).random((3, height, width), np.float32)
    tile, output = facts(), (70, 90)
    view = view_of((height, width), output, tile, zoom, (x, y))
    large = np.repeat(np.repeat(frame, 4, axis=1), 4, axis=2)
    window = frame[:, view.window[0], view.window[1]]
    tiles = {
        index: codes_of(np.repeat(np.repeat(view.tile_input(window, index), 4, axis=1), 4, axis=2) * 2 - 1, tile)
        for index in view.needed
    }
    without = plain(frame, output, zoom, (x, y))
    share = network_share(output[0] / view.crop.height)
    lanczos = plain(large, output, zoom, (x, y), Image.Resampling.LANCZOS, 4)
    expected = np.clip(share * lanczos + (1 - share) * without, 0, 1)
    np.testing.assert_allclose(view.compose(window, tiles), expected, atol=3e-4)


def test_no_tile_is_wanted_where_the_frame_is_as_fine_as_the_output() -> None:
    view = view_of((200, 300), (200, 300), facts(), 1.0, (0.5, 0.5))
    assert view.needed == ()
    frame = planes_of(photograph(200, 300))
    np.testing.assert_allclose(view.compose(frame, {}), frame, atol=1e-5)  # the picture itself


@pytest.mark.parametrize("count", [0, 1, 3])
def test_missing_tiles_are_bicubic_and_the_others_stay(count: int) -> None:
    frame, output = planes_of(photograph(100, 100)), (96, 96)
    tile = facts()
    view = view_of((100, 100), output, tile, 2.0, (0.5, 0.5))
    window = frame[:, view.window[0], view.window[1]]
    tiles = tiles_of(view, window, tile)
    assert len(tiles) > count
    black = {index: np.zeros_like(tiles[index]) for index in view.needed[:count]}
    partly = view.compose(window, black)
    bicubic = np.clip(plain(frame, output, 2.0, (0.5, 0.5)), 0, 1)
    cover = 1 - view.compose(np.ones_like(window), black)[0]
    # the cover swings 0.2 % beyond 0 and 1 at the ends of a ramp (Lanczos), which the clipped view cannot show
    np.testing.assert_allclose(partly, bicubic * (1 - cover), atol=5e-3)
    assert (cover.max() > 0.99) == (count > 0)
    everything = view.compose(window, tiles)
    nearly = view.compose(window, {index: tiles[index] for index in view.needed[:-1]})
    far = 1 - view.compose(np.ones_like(window), {view.needed[-1]: np.zeros_like(tiles[view.needed[-1]])})[0] == 0
    np.testing.assert_allclose(nearly[:, far], everything[:, far], atol=5e-3)


@pytest.mark.parametrize("colour", ["none", "osediff"])
def test_strips_are_the_whole(colour: Any, rng: np.random.Generator) -> None:
    """Any rows, and those that the session takes; with a colour step all of them at once."""
    frame, output, tile = planes_of(photograph(100, 100)), (150, 96), facts(colour=colour)
    view = view_of((100, 100), output, tile, 1.7, (0.5, 0.5))
    window = frame[:, view.window[0], view.window[1]]
    tiles = tiles_of(view, window, tile)
    some = {index: tiles[index] for index in view.needed[:2]}
    assert [part.start for part in view.strips] == ([0, 64, 128] if colour == "none" else [0])
    assert [part.stop for part in view.strips] == ([64, 128, 150] if colour == "none" else [150])
    if colour == "none":
        start, stop = np.sort(rng.choice(151, 2, replace=False))
        for shown in ({}, some, tiles):
            whole = view.compose(window, shown)
            for rows in (*view.strips, slice(start, stop)):
                np.testing.assert_allclose(view.compose(window, shown, rows), whole[:, rows], atol=1e-6)


def shift_between(one: Planes, other: Planes) -> NDArray[np.float64]:
    """(down, right) shift in pixels that best maps `one` on `other`: Lucas and Kanade's least squares, one step."""
    a, b = one.mean(axis=0).astype(np.float64), other.mean(axis=0).astype(np.float64)
    gradient = np.stack([g[4:-4, 4:-4].ravel() for g in np.gradient((a + b) / 2)])
    difference = (a - b)[4:-4, 4:-4].ravel()
    return np.linalg.solve(gradient @ gradient.T, gradient @ difference)


def test_the_shift_is_measured(rng: np.random.Generator) -> None:
    """The measure itself, on shifts that are known."""
    frame = planes_of(photograph(120, 120))
    for wanted in rng.uniform(-0.4, 0.4, (4, 2)):
        size = (200, 200)
        one = plain(frame, size, 3, (0.5, 0.5))
        moved = plain(frame, size, 3, (0.5 + wanted[1] / 600, 0.5 + wanted[0] / 600))
        np.testing.assert_allclose(shift_between(one, moved), -wanted, atol=0.05)


@pytest.mark.parametrize("zoom", [1.2, 1.7, 2.63, 4, 5.5, 9.1, 16])
def test_registration_with_a_plain_resample(zoom: float, rng: np.random.Generator) -> None:
    """0.1 output pixel is the issue's bound; a shift of one network pixel at zoom 16 would be 4."""
    coarse = rng.random((16, 16)).astype(np.float32)  # smooth: kernels agree, so that only a shift is left
    frame = np.stack([np.asarray(Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC))] * 3).clip(0, 1)
    centre = tuple(rng.random(2))
    view = rendered(frame, (150, 150), zoom, centre)
    assert np.abs(shift_between(plain(frame, (150, 150), zoom, centre), view)).max() <= 0.1


def chart(side: int) -> Planes:
    """A zone plate with hard bars and noise: every frequency and direction, and edges."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    rings = 0.5 + 0.5 * np.cos(0.3 * np.pi * side * (x * x + y * y) * 2)
    bars = (np.floor(x * side / 7) + np.floor(y * side / 5)) % 2
    picture = np.stack([rings, np.where(y > 0, bars, rings), 0.5 * rings + 0.5 * bars])
    return picture.astype(np.float32)


def sharp(tile: Planes, scale: int) -> Planes:
    """A stand-in that sharpens hard, differently in every tile, so that seams and missing tiles would show."""
    large = enlarged(tile, scale)
    return np.clip(large + 0.5 * (large - enlarged(tile[:, ::2, ::2], 2 * scale)), 0, 1)


class Chart:
    """Views of the chart at any zoom, through `sharp`; tiles are computed once, as in a session."""

    def __init__(self) -> None:
        self.frame, self.tile = chart(160), facts()
        self.done: dict[int, Codes] = {}

    def view(self, zoom: float) -> View:
        return view_of((160, 160), (96, 96), self.tile, zoom, (0.55, 0.45))

    def pictures(self, zoom: float) -> tuple[Planes, Planes]:
        """With the network and without."""
        view = self.view(zoom)
        window = self.frame[:, view.window[0], view.window[1]]
        for index in view.needed:
            if index not in self.done:
                self.done[index] = codes_of(sharp(view.tile_input(window, index), 4) * 2 - 1, self.tile)
        return view.compose(window, {index: self.done[index] for index in view.needed}), view.compose(window, {})


def test_a_sweep_of_the_zoom_does_not_jump() -> None:
    """1x to 16x in steps of 1 %: no step changes a block more than 2.5 times what it changes in the plain picture.

    The measure is the largest mean change of any 8x8 block, where a tile that pops in would show. The network here
    sharpens its tiles by 50 %, so that its picture may well change more than the plain one.
    """
    views = Chart()
    zooms = 1.01 ** np.arange(int(np.log(16) / np.log(1.01)) + 1)
    pictures = [views.pictures(zoom) for zoom in zooms]
    assert len({len(views.view(zoom).needed) for zoom in zooms}) >= 5  # tiles did come and go
    for before, after in itertools.pairwise(pictures):
        assert block_change(before[0], after[0]) <= 2.5 * max(block_change(before[1], after[1]), 0.01)


def test_a_tile_comes_into_view_without_a_trace() -> None:
    """Where the number of tiles changes, found by bisection: on either side of it the pictures are the same."""
    views, seen = Chart(), 0
    zooms = 1.02 ** np.arange(int(np.log(16) / np.log(1.02)) + 1)
    for low, high in itertools.pairwise(zooms):
        if set(views.view(low).needed) == set(views.view(high).needed):
            continue
        while high - low > 1e-9:
            middle = (low + high) / 2
            same = set(views.view(middle).needed) == set(views.view(low).needed)
            low, high = (middle, high) if same else (low, middle)
        seen += 1
        assert np.abs(views.pictures(low)[0] - views.pictures(high)[0]).max() <= 1e-5
    assert seen >= 4


def block_change(one: Planes, other: Planes) -> float:
    difference = np.abs(one - other).mean(axis=0)
    return float(difference.reshape(12, 8, 12, 8).mean(axis=(1, 3)).max())


@pytest.mark.parametrize("colour", ["osediff", "adcsr", "hypir", "osediff_wavelet"])
def test_colours_follow_the_frame(colour: str) -> None:
    """A network that tints its tiles: the view's mean is that of the plain view again."""
    frame, output, tile = planes_of(photograph(100, 100)), (96, 96), facts(colour=colour)
    view = view_of((100, 100), output, tile, 3.0, (0.5, 0.5))
    window = frame[:, view.window[0], view.window[1]]
    tint = np.array([0.8, 1.0, 0.6], np.float32)[:, None, None]
    tinted = {
        index: codes_of(enlarged(view.tile_input(window, index), 4) * tint * 2 - 1, tile) for index in view.needed
    }
    plain_view = view.compose(window, {})
    raw = view_of((100, 100), output, facts(), 3.0, (0.5, 0.5)).compose(window, tinted)
    corrected = view.compose(window, tinted)
    error = np.abs(corrected.mean(axis=(1, 2)) - plain_view.mean(axis=(1, 2))).max()
    assert error <= 0.01 < np.abs(raw.mean(axis=(1, 2)) - plain_view.mean(axis=(1, 2))).max()
    part = {index: tinted[index] for index in view.needed[:1]}
    assert np.isfinite(view.compose(window, part)).all()


def test_a_step_that_cuts_last_sees_what_lies_beyond_white(rng: np.random.Generator) -> None:
    """HYPIR's: 16-bit tiles keep values outside [0, 1], and the view is cut after the wavelet."""
    frame, output, tile = rng.random((3, 60, 60)).astype(np.float32), (96, 96), facts(colour="hypir")
    view = view_of((60, 60), output, tile, 4.0, (0.5, 0.5))
    window = frame[:, view.window[0], view.window[1]]
    inputs = {index: view.tile_input(window, index).repeat(4, 1).repeat(4, 2) for index in view.needed}
    tiles = {index: codes_of((pixels * 2 - 1) * np.float32(1.4), tile) for index, pixels in inputs.items()}
    large = (frame.repeat(4, 1).repeat(4, 2) - 0.5) * np.float32(1.4) + 0.5
    answer = plain(large, output, 4.0, (0.5, 0.5), Image.Resampling.LANCZOS, 4)
    reference = np.clip(plain(frame, output, 4.0, (0.5, 0.5)), 0, 1)
    assert network_share(output[0] / view.crop.height) == 1
    assert ((answer < 0) | (answer > 1)).mean() > 0.02
    expected = wavelet(*(each.transpose(1, 2, 0).astype(np.float64) for each in (answer, reference)))
    found = view.compose(window, tiles).transpose(1, 2, 0)
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=5e-4)
