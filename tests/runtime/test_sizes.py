"""Results of any size: which one is asked for, how often the network runs, and the pixels, against the whole picture
untiled in float64."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_steps import REFERENCES, lanczos
from numpy.typing import NDArray
from runtime_helpers import facts, fake_upscaler, write_bundle

from zoomrt.errors import InputError, UsageError
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.one_pass import working_bytes
from zoomrt.runtime.sizes import ResultSize, result_of_each_pass
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import load

MAX_SIDE = 65535  # of a JPEG: ITU-T T.81, 16 bits
MAX_RESULT_SIDE = 4 * MAX_SIDE

LUMA = [0.299, 0.587, 0.114]


@pytest.mark.parametrize(
    ("asked", "picture", "expected"),
    [
        (ResultSize(scale=Fraction(2)), (640, 480), (1280, 960)),
        (ResultSize(scale=Fraction("6.5")), (101, 33), (657, 215)),  # 656.5 and 214.5 round up
        (ResultSize(scale=Fraction(1, 1000)), (640, 480), (1, 1)),
        (ResultSize(longest=4096), (4032, 3024), (4096, 3072)),
        (ResultSize(longest=4096), (3024, 4032), (3072, 4096)),
        (ResultSize(longest=100), (16000, 3), (100, 1)),
        (ResultSize(longest=1), (7, 7), (1, 1)),
        (ResultSize(size=(3840, 2160)), (1280, 720), (3840, 2160)),
        (ResultSize(size=(3840, 2160)), (1366, 768), (3840, 2160)),  # 16 to 9, as panels of that size count
        (ResultSize(size=(3840, 2160)), (1920, 1081), (3840, 2160)),
        (ResultSize(size=(100, 75)), (4032, 3024), (100, 75)),
        (ResultSize(size=(2, 2)), (3, 2), (2, 2)),
    ],
)
def test_what_is_asked_for(asked: ResultSize, picture: tuple[int, int], expected: tuple[int, int]) -> None:
    assert asked.of(*picture) == expected


@pytest.mark.parametrize(
    ("asked", "picture", "words"),
    [
        (
            ResultSize(size=(3840, 2160)),
            (4032, 3024),
            r"3840x2160 without stretching it: got 4032x3024.*--longest 3840",
        ),
        (ResultSize(size=(3840, 2160)), (1920, 1083), "stretching"),
        (ResultSize(size=(2160, 3840)), (1280, 720), "stretching"),
        (ResultSize(scale=Fraction(1000)), (640, 480), "got 640000x480000 pixels, need at most"),
        (ResultSize(longest=MAX_RESULT_SIDE), (640, 480), "million in all"),
    ],
)
def test_what_is_refused_of_a_picture(asked: ResultSize, picture: tuple[int, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        asked.of(*picture)


@pytest.mark.parametrize(
    ("frame", "scale", "size", "expected"),
    [
        ((30, 40), 4, None, [(120, 160)]),
        ((30, 40), 4, (160, 120), [(120, 160)]),
        ((30, 40), 4, (80, 60), [(60, 80)]),
        ((30, 40), 4, (4, 3), [(3, 4)]),
        ((30, 40), 4, (161, 121), [(121, 161)]),  # a pixel of rounding is no reason to run again
        ((30, 40), 4, (162, 120), [(120, 160), (120, 162)]),
        ((30, 40), 4, (260, 195), [(120, 160), (195, 260)]),
        ((30, 40), 2, (641, 480), [(60, 80), (120, 160), (240, 320), (480, 641)]),
        ((1, 1), 4, (1000, 1000), [(4, 4), (16, 16), (64, 64), (256, 256), (1000, 1000)]),
        ((30, 40), 1, (40, 30), [(30, 40)]),
        ((30, 40), 1, (20, 15), [(15, 20)]),
    ],
)
def test_how_often_the_network_runs(
    frame: tuple[int, int], scale: int, size: Any, expected: list[tuple[int, int]]
) -> None:
    assert result_of_each_pass(frame, scale, size) == expected


@pytest.mark.parametrize(
    "size", [(0, 5), (5, -1), (5,), (5, 5, 5), 5, "5x5", (1.5, 2), (float("nan"), 2), (float("inf"), 2), ("5", "5"), [],
             (True, 0), {5, 6}],
)  # fmt: skip
def test_sizes_that_are_none(size: Any) -> None:
    upscaler, session = fake_upscaler(facts())
    with pytest.raises(UsageError, match=r"cannot upscale to this size.*\(width, height\)"):
        upscaler.upscale(np.zeros((8, 8, 3), np.uint8), size=size)
    assert session.runs == 0


@pytest.mark.parametrize(
    ("size", "words"),
    [((10**400, 1), "pixels, need at most"), ((MAX_RESULT_SIDE, MAX_RESULT_SIDE), "million in all")],
)
def test_sizes_that_are_too_large(size: tuple[int, int], words: str) -> None:
    upscaler, session = fake_upscaler(facts())
    with pytest.raises(InputError, match=words):
        upscaler.upscale(np.zeros((8, 8, 3), np.uint8), size=size)
    assert session.runs == 0


def test_sizes_that_cannot_be_reached() -> None:
    with pytest.raises(InputError, match=r"got 80x60 from 40x30 pixels, need no more.*the model's scale is 1"):
        result_of_each_pass((30, 40), 1, (80, 60))
    with pytest.raises(InputError, match=rf"once more to reach 100000x2.*at most {MAX_SIDE} pixels a side"):
        result_of_each_pass((1, 20000), 4, (100_000, 2))


class Pointwise:
    """A network of which each output pixel is known: it repeats pixels and stretches values, some beyond [0, 1]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.gain, self.shift = 1.1, rng.uniform(-0.06, 0.06, 3)

    def __call__(self, _: int, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Between -1 and 1, the session's range."""
        return (tiles * self.gain + 2 * self.shift[:, None, None]).astype(np.float32)

    def answer(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """The whole picture at x4, (H, W, C) with white 1; luma of a grey one."""
        large = (source.repeat(4, 0).repeat(4, 1) - 0.5) * self.gain + 0.5 + self.shift
        return large if source.shape[2] == 3 else (large @ LUMA)[:, :, None]


def random_frame(rng: np.random.Generator, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    values = rng.random(shape)
    return values.astype(dtype) if dtype is np.float32 else np.rint(values * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [(np.uint8, (41, 50, 3)), (np.uint16, (50, 37)), (np.uint16, (35, 37, 3)), (np.float32, (41, 33))],
)
@pytest.mark.parametrize("scale", [0.7, 2, 3.3, 6.5])
@pytest.mark.parametrize("colour", ["none", "osediff", "hypir", "adcsr"])
def test_any_size_against_the_untiled_picture(
    rng: np.random.Generator, dtype: type, shape: tuple[int, ...], scale: float, colour: str
) -> None:
    """Resampled, then the colour step at the result's size, then cut and rounded once; above x4 in two passes, the
    frame between them finished too, of 16 bits or floats."""
    white = 1 if dtype is np.float32 else np.iinfo(dtype).max
    frame, network = random_frame(rng, dtype, shape), Pointwise(rng)
    height, width = (max(round(side * scale), 1) for side in shape[:2])
    upscaler, session = fake_upscaler(facts(colour=colour), after=network)
    done: list[tuple[int, int]] = []
    found = upscaler.upscale(frame, size=(width, height), on_tile=lambda *progress: done.append(progress))
    assert (found.dtype, found.shape) == (frame.dtype, (height, width, *shape[2:]))

    source = (frame / white).reshape(*shape[:2], -1).astype(np.float64)
    tiles = len(plan(*shape[:2], upscaler.manifest.tile))
    if scale > 4:
        tiles += len(plan(4 * shape[0], 4 * shape[1], upscaler.manifest.tile))
        between = REFERENCES[colour](network.answer(source), source)
        source = between if dtype is np.float32 else np.rint(between * 65535) / 65535
    expected = REFERENCES[colour](lanczos(network.answer(source), (height, width)), source)
    rounding = 0.0 if dtype is np.float32 else (0.5 + (0.02 if dtype is np.uint8 else 0)) / white
    error = np.abs(found.reshape(expected.shape) / white - expected).max()
    assert error <= rounding + (2e-5 if scale <= 4 else 6e-5)
    assert done == [(number + 1, tiles) for number in range(tiles)]
    assert session.runs == tiles


@pytest.mark.parametrize("size", [(130, 90), (403, 288)])
def test_a_network_that_looks_around_gives_the_untiled_picture(
    tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    """Through ONNX Runtime, one pass and two: a tile shows in no pixel by more than 1e-4."""
    frame = rng.uniform(0.1, 0.9, (72, 100, 3)).astype(np.float32)
    once, twice = facts(height=72, width=100), facts(height=288, width=400)
    with load(write_bundle(tmp_path / "tiled", facts(batches=(1, 4)), 7), threads=1) as tiled:
        found = tiled.upscale(frame, size=size)
    with load(write_bundle(tmp_path / "once", once, 7), threads=1) as untiled:
        picture = untiled(frame)
    if size[0] > 400:
        with load(write_bundle(tmp_path / "twice", twice, 7), threads=1) as untiled:
            picture = untiled(picture)
    expected = np.clip(lanczos(picture.astype(np.float64), size[::-1]), 0, 1)
    assert ((picture > 0) & (picture < 1)).mean() > 0.99, "hardly anything is cut before it is resampled"
    assert np.quantile(np.abs(found - expected), 0.99) <= 1e-4
    assert np.abs(found - expected).max() <= 2e-2, "where it is"


def test_a_camera_frame_at_another_size(rng: np.random.Generator) -> None:
    array = rng.integers(0, 256, (40, 60, 3), np.uint8)
    upscaler, _ = fake_upscaler(facts())
    expected = upscaler.upscale(array, size=(90, 60))
    assert np.array_equal(upscaler.upscale(CameraFrame((array,)), size=(90, 60)), expected)
    nv12 = CameraFrame((array[:, :, 0], array[::2, ::2, :2].copy()), "nv12")
    for size in ((90, 60), (500, 333)):
        large = upscaler.upscale(nv12, size=size)
        assert (large.dtype, large.shape) == (np.uint8, (size[1], size[0], 3))


@pytest.mark.parametrize("colour", ["none", "osediff"])
@pytest.mark.parametrize("size", [(420, 300), (1800, 1286)])
def test_the_memory_that_passes_take_is_known(rng: np.random.Generator, colour: str, size: tuple[int, int]) -> None:
    """Beside the frame, its result and what tiles and strips take."""
    frame = rng.integers(0, 256, (150, 210, 3), np.uint8)
    upscaler, _ = fake_upscaler(facts(height=64, width=64, overlap=16, context=4, colour=colour))
    results = result_of_each_pass((150, 210), 4, size)
    told = working_bytes(upscaler.manifest.tile, results, 3, deep=False)
    tracemalloc.start()
    try:
        out = upscaler.upscale(frame, size=size)
        taken = tracemalloc.get_traced_memory()[1] - out.nbytes
    finally:
        tracemalloc.stop()
    high, wide = (4 * side for side in (results[-2] if len(results) > 1 else (150, 210)))
    strip, tile = 32 * wide * 12, 256 * 256 * 12  # rows of a seam, and of a tile; floats of three channels
    rows = (256 * size[1] // high + 10) * size[0] * 12  # of the result, that one row of tiles has a part in
    print(f"told {told / 1e6:.1f} MB, taken {taken / 1e6:.1f} MB")
    assert told <= taken <= told + strip + 2 * rows + 8 * tile
