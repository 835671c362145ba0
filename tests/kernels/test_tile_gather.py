"""Tiles gathered by the kernel are the runtime's own, bit for bit in FP32; both are near float64.

Tolerance against float64: values in [-1, 1] are the result of at most eight FP32 operations on values up to 2: 1e-6.
FP16 tiles are the FP32 ones rounded once: equal bit for bit as well.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError, UsageError
from zoomrt.kernels.tile_gather import cost, frame_arguments, reference, tile_gather, yuv_numbers
from zoomrt.runtime.frames.frame_bytes import bytes_of as bytes_of_picture
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.frames.rgb_view import picture_of
from zoomrt.runtime.frames.yuv import read_window
from zoomrt.runtime.tiles import pixels
from zoomrt.runtime.tiles.plan import TilePlan, plan


def facts(tile: tuple[int, int], value_range: tuple[float, float]) -> TileFacts:
    return TileFacts(
        height=tile[0], width=tile[1], overlap=4, context=1, scale=2, batches=(1,), value_range=value_range,
        dtype="float32",
    )  # fmt: skip


def bytes_of(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def origins_of(tiles: TilePlan) -> Tensor:
    found = [(row.origin, column.origin) for row in tiles.rows.spans for column in tiles.columns.spans]
    return torch.tensor(found, dtype=torch.int32)


def by_the_runtime(frame: NDArray[np.uint8] | NDArray[np.float32], tiles: TilePlan, tile: TileFacts) -> Tensor:
    out = np.empty((len(tiles), 3, tile.height, tile.width), np.float32)
    for index in range(len(tiles)):
        pixels.gather(frame, tiles, index, tile, out[index])
    return torch.from_numpy(out)


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.1, 0.7)])
@pytest.mark.parametrize(
    ("size", "tile", "channels", "format"),
    [
        ((21, 33), (9, 12), 3, "rgb"),
        ((5, 30), (9, 12), 4, "bgr"),
        ((2, 1), (11, 9), 3, "rgb"),
        ((9, 7), (9, 7), 4, "rgb"),
    ],
)
def test_equal_to_the_runtime(
    generator: torch.Generator,
    size: tuple[int, int],
    tile: tuple[int, int],
    channels: int,
    format: str,
    value_range: tuple[float, float],
) -> None:
    """Ragged sizes, pictures smaller than a tile (mirrored several times over), and a fourth channel not read."""
    frame, kind = bytes_of(generator, *size, channels), facts(tile, value_range)
    tiles = plan(*size, kind)
    rgb = frame[..., :3] if format == "rgb" else frame[..., :3].flip(2)
    expected = by_the_runtime(rgb.numpy(), tiles, kind)
    for dtype in (torch.float32, torch.float16):
        out = torch.full((len(tiles), 3, *tile), torch.nan, dtype=dtype)
        assert tile_gather(frame, origins_of(tiles), out, value_range, format=format) is out  # type: ignore[arg-type]
        assert torch.equal(out, expected.to(dtype))
    exact = reference(origins_of(tiles), tile, value_range, frame, None, format)
    torch.testing.assert_close(expected.double(), exact, rtol=0, atol=1e-6)


YUV = list(itertools.product(("bt601", "bt709"), (False, True), ("left", "center", "top-left")))


@pytest.mark.parametrize(("matrix", "full_range", "siting"), YUV)
def test_nv12_equal_to_the_runtime(generator: torch.Generator, matrix: str, full_range: bool, siting: str) -> None:
    size, tile = (random.choice((12, 14)), 18), (9, 12)
    luma, chroma = bytes_of(generator, *size), bytes_of(generator, size[0] // 2, size[1] // 2, 2)
    kind = facts(tile, (-1.0, 1.0))
    tiles = plan(*size, kind)
    camera = CameraFrame((luma.numpy(), chroma.numpy()), "nv12", matrix, full_range, siting)  # type: ignore[arg-type]
    rgb = read_window(camera, slice(0, size[0]), slice(0, size[1]))
    expected = by_the_runtime(np.ascontiguousarray(rgb.transpose(1, 2, 0)), tiles, kind)
    out = torch.full((len(tiles), 3, *tile), torch.nan)
    tile_gather(
        luma, origins_of(tiles), out, (-1.0, 1.0),
        chroma=chroma, format="nv12", matrix=matrix, full_range=full_range, siting=siting,
    )  # fmt: skip
    assert torch.equal(out, expected)
    exact = reference(origins_of(tiles), tile, (-1.0, 1.0), luma, chroma, "nv12", matrix, full_range, siting)
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("matrix", "full_range", "siting"),
    [*itertools.product(("bt601", "bt709", "bt2020"), (False, True), ("left", "center", "top-left"))],
)
def test_the_runtime_tells_a_kernel_what_the_launcher_does(
    generator: torch.Generator, matrix: str, full_range: bool, siting: str
) -> None:
    """Where both planes lie in one copy, and the same ten numbers to the last bit."""
    height, width = random.choice((8, 10)), 14
    store = bytes_of(generator, height * width * 3 // 2)
    luma, chroma = store[: height * width].view(height, width), store[height * width :].view(height // 2, width // 2, 2)
    camera = CameraFrame((luma.numpy(), chroma.numpy()), "nv12", matrix, full_range, siting)  # type: ignore[arg-type]
    read = bytes_of_picture(picture_of(camera))
    assert read is not None
    wanted = frame_arguments("test", luma, chroma, "nv12", matrix, full_range, siting)
    wanted |= {"frame": luma.data_ptr(), "chroma": chroma.data_ptr()}
    assert read.arguments(store.data_ptr(), height, width) | {"channel_stride": 0} == wanted

    rgb = bytes_of(generator, height, width, 3)
    read = bytes_of_picture(rgb.numpy())
    assert read is not None
    told = read.arguments(rgb.data_ptr(), height, width)
    wanted = frame_arguments("test", rgb, None, "rgb", matrix, full_range, siting) | {"frame": rgb.data_ptr()}
    assert told == {name: wanted[name] for name in told}
    assert told.keys() >= {"frame", "height", "width", "row_stride", "column_stride", "channel_stride"}


def test_any_strides_and_a_channel_for_noise(generator: torch.Generator) -> None:
    """A window of a padded frame, planes apart, and tiles with more channels than three, which stay as they are."""
    store = bytes_of(generator, 3, 15, 40)
    frame = store.permute(1, 2, 0)[2:13, 3:27:2]
    origins = torch.tensor([[-3, 5], [8, -20]], dtype=torch.int32)
    wide = torch.full((2, 4, 6, 16), 7.0)
    out = wide[..., :9]
    tile_gather(frame, origins, out)
    exact = reference(origins, (6, 9), (0, 1), frame)
    torch.testing.assert_close(out[:, :3].double(), exact, rtol=0, atol=1e-6)
    assert (wide[:, 3] == 7).all()
    assert (wide[..., 9:] == 7).all()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"frame": torch.zeros(4, 4, 2, dtype=torch.uint8)}, InputError, r"\(4, 4, 2\)"),
        ({"frame": torch.zeros(4, 4, 3)}, InputError, "8-bit planes"),
        ({"format": "nv12"}, InputError, "luma"),
        ({"format": "yuyv"}, UsageError, "unknown pixel format"),
        ({"matrix": "bt607"}, UsageError, "Did you mean bt601"),
        ({"siting": "lef"}, UsageError, "Did you mean left"),
        ({"origins": torch.zeros(2, 2)}, InputError, "origins torch.float32"),
        ({"origins": torch.zeros(3, 2, dtype=torch.int32)}, InputError, r"int32 \(2, 2\)"),
        ({"out": torch.zeros(2, 2, 4, 4)}, InputError, "3 or more"),
        ({"out": torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)}, InputError, "bfloat16"),
    ],
)
def test_wrong_arguments_are_told_so(change: dict[str, object], kind: type[Exception], words: str) -> None:
    given = {
        "frame": torch.zeros(4, 4, 3, dtype=torch.uint8),
        "origins": torch.zeros(2, 2, dtype=torch.int32),
        "out": torch.zeros(2, 3, 4, 4),
    }
    with pytest.raises(kind, match=words):
        tile_gather(**given | change)  # type: ignore[arg-type]


def test_limited_range_in_numbers() -> None:
    numbers = yuv_numbers("bt709", False, "left")
    assert numbers["black"] == 16
    assert numbers["red"] == pytest.approx(1.5748, abs=1e-6)  # BT.709-6: 2 (1 - 0.2126)


def test_the_cost_counts_bytes() -> None:
    tiles, frame = torch.empty(2, 3, 6, 8, dtype=torch.float16), torch.empty(2, 6, 8, 3, dtype=torch.uint8)
    assert cost(2, 6, 8).bytes == tiles.nbytes + frame.nbytes
    assert cost(2, 6, 8, "nv12").bytes == tiles.nbytes + frame.nbytes // 2
