"""Camera formats: against swscale (through PyAV) within one code, against the standards' formulas in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from camera_frames import SITINGS
from numpy.typing import NDArray

from zoomrt.errors import InputError, UsageError
from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame, PixelFormat, empty_like, plane_shapes
from zoomrt.runtime.frames.yuv import chroma_planes, read_window, rows_to_write, write_rows, write_view

H, W = 48, 64
MATRICES, RANGES = ("bt601", "bt709", "bt2020"), (False, True)
RGB = ("rgb", "bgr", "rgb48")
YUV = {
    "nv12": "nv12",
    "nv21": "nv21",
    "i420": "yuv420p",
    "i422": "yuv422p",
    "i444": "yuv444p",
    "p010": "p010le",
    "i010": "yuv420p10le",
    "i210": "yuv422p10le",
    "i410": "yuv444p10le",
}
FLAGS = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


def test_type_checkers_know_the_same_names() -> None:
    assert get_args(PixelFormat) == tuple(LAYOUTS)


def stored(format: str, planes: Iterable[NDArray[Any]]) -> list[NDArray[Any]]:
    """Codes of luma and chroma as the format has them in memory."""
    layout = LAYOUTS[format]
    return [(np.asarray(plane, np.int64) << layout.shift).astype(layout.dtype) for plane in planes]


def random_planes(format: str, full_range: bool, rng: np.random.Generator) -> list[NDArray[Any]]:
    """Random codes within the range: beyond it swscale's integers overflow and turn white into black."""
    unit = 1 << (LAYOUTS[format].bits - 8)
    bounds = (
        ((0, 256 * unit), (0, 256 * unit)) if full_range else ((16 * unit, 235 * unit + 1), (16 * unit, 240 * unit + 1))
    )
    shapes = plane_shapes(format, H, W)
    return stored(format, [rng.integers(*bounds[bool(index)], shape) for index, shape in enumerate(shapes)])


def chart_planes(format: str, full_range: bool) -> list[NDArray[Any]]:
    """Ramps of luma over bars of chroma with hard edges."""
    unit = 1 << (LAYOUTS[format].bits - 8)
    low, high, side = (0, 255, 240) if full_range else (16, 235, 224)
    luma = np.broadcast_to(np.linspace(low * unit, high * unit, W).round(), (H, W))
    rows, columns = plane_shapes(format, H, W)[1][:2]
    middle = 128 + np.where(np.arange(columns) // 5 % 2, -side // 2, side // 2)
    blue = np.broadcast_to(middle * unit, (rows, columns))
    middle = 128 + np.where(np.arange(rows) // 3 % 2, -side // 2, side // 2)
    red = np.broadcast_to((middle * unit)[:, None], (rows, columns))
    if LAYOUTS[format].chroma == "planes":
        return stored(format, [luma, blue, red])
    return stored(format, [luma, np.stack([red, blue] if format == "nv21" else [blue, red], axis=2)])


def swscale(frame: Any, to: str, options: str) -> Any:
    import av.filter

    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 30))
    chain = [
        source,
        graph.add("scale", f"flags={FLAGS}:{options}"),
        graph.add("format", f"pix_fmts={to}"),
        graph.add("buffersink"),
    ]
    for one, other in itertools.pairwise(chain):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    return graph.pull()


def av_frame(format: str, planes: list[NDArray[Any]]) -> Any:
    import av

    frame = av.VideoFrame(W, H, YUV[format])
    for target, plane in zip(frame.planes, planes, strict=True):
        rows = np.ascontiguousarray(plane).reshape(len(plane), -1).view(np.uint8)
        buffer = np.zeros((target.height, target.line_size), np.uint8)
        buffer[:, : rows.shape[1]] = rows
        target.update(buffer.tobytes())
    return frame


@pytest.mark.parametrize("full_range", RANGES)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    ("format", "siting"), [*itertools.product(("i420", "p010"), SITINGS), *((format, "left") for format in YUV)]
)
def test_both_ways_are_swscales(
    format: Any, matrix: Any, full_range: bool, siting: Any, rng: np.random.Generator
) -> None:
    pytest.importorskip("av")
    import av

    steps = LAYOUTS[format].step
    down, across = (round(256 * place) if step == 2 else 0 for place, step in zip(SITINGS[siting], steps, strict=True))
    name = "pc" if full_range else "tv"
    for planes in (random_planes(format, full_range, rng), chart_planes(format, full_range)):
        frame = CameraFrame(tuple(planes), format, matrix, full_range, siting)
        ours = np.rint(read_window(frame, slice(0, H), slice(0, W)) * 255).transpose(1, 2, 0)
        options = f"in_color_matrix={matrix}:in_range={name}:out_range=pc:in_h_chr_pos={across}:in_v_chr_pos={down}"
        theirs = swscale(av_frame(format, planes), "rgb24", options).to_ndarray(format="rgb24")
        assert np.abs(ours - theirs).max() <= 1

    ramp = np.linspace(0, 255, W).astype(np.uint8)
    chart = np.stack([np.tile(ramp, (H, 1)), np.tile(ramp[::-1], (H, 1)), np.full((H, W), 90, np.uint8)], axis=2)
    for rgb in (rng.integers(0, 256, (H, W, 3), dtype=np.uint8), chart):
        options = f"out_color_matrix={matrix}:out_range={name}:in_range=pc:out_h_chr_pos={across}:out_v_chr_pos={down}"
        expected = swscale(av.VideoFrame.from_ndarray(rgb, format="rgb24"), YUV[format], options)
        written = empty_like(frame, (H, W))
        write_view(rgb.transpose(2, 0, 1).astype(np.float32) / 255, written)
        for mine, plane in zip(written.planes, expected.planes, strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            width = int(np.prod(mine.shape[1:])) * mine.itemsize
            codes = np.ascontiguousarray(rows[:, :width]).view(mine.dtype).reshape(mine.shape).astype(int)
            assert np.abs(codes - mine.astype(int)).max() <= 1 << LAYOUTS[format].shift


@pytest.mark.parametrize(
    ("matrix", "kr", "kb"), [("bt601", 0.299, 0.114), ("bt709", 0.2126, 0.0722), ("bt2020", 0.2627, 0.0593)]
)
@pytest.mark.parametrize("full_range", RANGES)
def test_flat_colours_are_the_standards_formula(
    matrix: Any, kr: float, kb: float, full_range: bool, rng: np.random.Generator
) -> None:
    """From the definition: Y = Kr R + (1 - Kr - Kb) G + Kb B, Cb = (B - Y) / (2 - 2 Kb), Cr = (R - Y) / (2 - 2 Kr)."""
    for _ in range(20):
        red, green, blue = rng.random(3)
        y = kr * red + (1 - kr - kb) * green + kb * blue
        cb, cr = (blue - y) / (2 - 2 * kb), (red - y) / (2 - 2 * kr)
        levels = (
            (255 * y, 255 * cb + 128, 255 * cr + 128) if full_range else (16 + 219 * y, 224 * cb + 128, 224 * cr + 128)
        )
        view = np.broadcast_to(np.array([red, green, blue], np.float32)[:, None, None], (3, 4, 6))
        frame = empty_like(CameraFrame((np.zeros((2, 2, 3), np.uint8),), "rgb", matrix, full_range), (4, 6), "i420")
        write_view(np.ascontiguousarray(view), frame)
        for plane, level in zip(frame.planes, levels, strict=True):
            assert np.abs(plane - min(level, 255)).max() <= 0.5 + 1e-3
        back = read_window(frame, slice(0, 4), slice(0, 6))
        assert np.abs(back - view).max() <= 2 / 219 + 1e-6


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("format", LAYOUTS)
def test_rows_written_apart_are_those_of_the_whole(format: Any, siting: Any, rng: np.random.Generator) -> None:
    height, width = H - int(rng.integers(2)), W - int(rng.integers(2))
    view = rng.random((3, height, width), np.float32)
    like = CameraFrame((np.zeros((2, 2, 3), np.uint8),), siting=siting)
    whole, apart = empty_like(like, (height, width), format), empty_like(like, (height, width), format)
    write_view(view, whole)
    cuts = [0, *2 * np.sort(rng.choice(np.arange(1, H // 2), 3, replace=False)), height]
    for start, stop in itertools.pairwise(cuts):
        rows = slice(int(start), int(stop))
        write_rows(view[:, rows_to_write(rows, apart)], apart, rows)
    for one, other in zip(whole.planes, apart.planes, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("siting", SITINGS)
@pytest.mark.parametrize("format", YUV)
def test_written_chroma_is_the_triangle_of_its_neighbours(format: Any, siting: Any, rng: np.random.Generator) -> None:
    """In float64, sample by sample, at odd and even sizes, the ends repeated."""
    layout = LAYOUTS[format]
    height, width = (int(side) for side in rng.integers(1, 12, 2))
    view = rng.random((3, height, width), np.float32)
    written = empty_like(CameraFrame((np.zeros((1, 1, 3), np.uint8),), siting=siting), (height, width), format)
    write_view(view, written)
    red, green, blue = view.astype(np.float64)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    planes = chroma_planes(written)
    for plane, full in zip(planes, ((blue - luma) / 1.8556, (red - luma) / 1.5748), strict=True):
        for row, column in np.ndindex(plane.shape):
            total = 0.0
            weights = [
                {at: 0.5 - abs(at - 2 * place - offset) / 4 for at in range(2 * place - 2, 2 * place + 4)}
                if step == 2
                else {place: 1.0}
                for place, step, offset in zip((row, column), layout.step, SITINGS[siting], strict=True)
            ]
            for y, x in itertools.product(*weights):
                value = full[min(max(y, 0), height - 1), min(max(x, 0), width - 1)]
                total += max(weights[0][y], 0.0) * max(weights[1][x], 0.0) * value
            code = (128 + 224 * total) * (1 << (layout.bits - 8))
            assert abs(int(plane[row, column]) / (1 << layout.shift) - code) <= 0.5 + 2e-3


@pytest.mark.parametrize("format", LAYOUTS)
def test_a_window_is_the_part_of_the_whole(format: Any, rng: np.random.Generator) -> None:
    planes = random_planes(format, True, rng)
    for siting in SITINGS:
        frame = CameraFrame(tuple(planes), format, siting=siting)  # type: ignore[arg-type]
        whole = read_window(frame, slice(0, H), slice(0, W))
        part = read_window(frame, slice(7, 30), slice(11, 12))
        np.testing.assert_array_equal(part, whole[:, 7:30, 11:12])


@pytest.mark.parametrize("format", LAYOUTS)
def test_strides_and_padding_do_not_matter_and_nothing_is_copied(format: Any, rng: np.random.Generator) -> None:
    planes = random_planes(format, True, rng)
    stride = planes[0].reshape(H, -1).view(np.uint8).shape[1] + 64
    memory = bytearray(stride * H * 3)
    offsets, start = [], 32
    for index, plane in enumerate(planes):
        narrow = index and LAYOUTS[format].chroma == "planes"
        pitch = stride // LAYOUTS[format].step[1] if narrow else stride
        rows = np.ascontiguousarray(plane).reshape(len(plane), -1).view(np.uint8)
        for number, row in enumerate(rows):
            memory[start + number * pitch : start + number * pitch + row.size] = row.tobytes()
        offsets.append(start)
        start += pitch * len(plane) + 16
    frame = CameraFrame.from_buffer(memory, W, H, format, stride=stride, offsets=offsets)
    window = slice(0, H), slice(0, W)
    np.testing.assert_array_equal(read_window(frame, *window), read_window(CameraFrame(tuple(planes), format), *window))
    shared = np.frombuffer(memory, np.uint8)
    assert all(np.shares_memory(shared, plane) for plane in frame.planes)
    tight = np.concatenate([np.ascontiguousarray(plane).reshape(-1).view(np.uint8) for plane in planes])
    packed = CameraFrame.from_buffer(tight, W, H, format)
    assert all(np.array_equal(one, other) for one, other in zip(packed.planes, planes, strict=True))
    assert all(np.shares_memory(tight, plane) for plane in packed.planes)


def test_arrays_are_taken_as_they_are(rng: np.random.Generator) -> None:
    luma, chroma = rng.integers(0, 256, (H, W), dtype=np.uint8), rng.integers(0, 256, (H // 2, W), dtype=np.uint8)
    frame = CameraFrame((luma, chroma), "nv12")
    assert frame.planes[0] is luma
    assert np.shares_memory(frame.planes[1], chroma)
    assert np.array_equal(frame.planes[1][:, :, 1], chroma[:, 1::2])
    flipped = CameraFrame((luma[::-1], chroma[::-1]), "nv12")  # negative strides
    assert np.array_equal(
        read_window(flipped, slice(0, H), slice(0, W)),
        read_window(CameraFrame((luma[::-1].copy(), chroma[::-1].copy()), "nv12"), slice(0, H), slice(0, W)),
    )


def test_nv21_is_nv12_with_the_other_chroma_first_and_bgr_is_rgb_backwards(rng: np.random.Generator) -> None:
    luma, chroma = random_planes("nv12", False, rng)
    window = slice(0, H), slice(0, W)
    one = read_window(CameraFrame((luma, chroma), "nv12"), *window)
    assert np.array_equal(one, read_window(CameraFrame((luma, chroma[:, :, ::-1]), "nv21"), *window))
    assert np.array_equal(one, read_window(CameraFrame((luma, chroma[:, :, 0], chroma[:, :, 1]), "i420"), *window))
    rgb = rng.integers(0, 256, (H, W, 3), dtype=np.uint8)
    assert np.array_equal(
        read_window(CameraFrame((rgb,)), *window), read_window(CameraFrame((rgb[:, :, ::-1],), "bgr"), *window)
    )
    for format, pixels in (("rgb", rgb), ("bgr", rgb), ("rgb48", rng.integers(0, 65536, (H, W, 3), dtype=np.uint16))):
        frame = CameraFrame((pixels,), format)  # type: ignore[arg-type]
        written = empty_like(frame, (H, W))
        write_view(read_window(frame, *window), written)
        assert np.array_equal(written.planes[0], pixels)


@pytest.mark.parametrize(
    ("planes", "format", "match"),
    [
        ([np.zeros((4, 4), np.uint8)], "rgb", r"\(H, W, 3\)"),
        ([np.zeros((4, 4, 3), np.float32)], "rgb", "float32"),
        ([np.zeros((4, 5), np.uint8), np.zeros((2, 2, 2), np.uint8)], "nv12", "H/2, W/2"),
        ([np.zeros((4, 4), np.uint8)] * 3, "i422", r"\(H, W/2\)"),
        ([np.zeros((4, 4), np.uint8)] * 3, "i410", "uint16"),
        ([np.zeros((4, 4, 3), np.uint8)], "rgb48", "uint16"),
        ([np.zeros((4, 4), np.uint8)], "nv12", "H/2"),
        ([np.zeros((4, 4), np.uint8)] * 2, "i420", "i420"),
        ([np.zeros((4, 4), np.uint8), np.zeros((2, 2, 2), np.uint8)], "p010", "uint16"),
        ([], "nv12", "no planes"),
    ],
)
def test_planes_that_do_not_fit(planes: Any, format: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        CameraFrame(tuple(planes), format)


def test_bad_names_sizes_and_buffers() -> None:
    rgb = np.zeros((4, 4, 3), np.uint8)
    for arguments in ({"format": "nv13"}, {"matrix": "bt708"}, {"siting": "middle"}):
        with pytest.raises(UsageError, match="one of"):
            CameraFrame((rgb,), **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="inside the buffer"):
        CameraFrame.from_buffer(bytes(100), 16, 16, "nv12")
    with pytest.raises(InputError, match="inside the buffer"):
        CameraFrame.from_buffer(bytes(1000), 16, 16, "nv12", stride=8)
    for aspect in (0, -1, 65, float("nan"), float("inf"), 10**400, "1"):
        with pytest.raises(InputError, match="1/64 to 64"):
            CameraFrame((rgb,), pixel_aspect=aspect)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "format", "options", "match"),
    [
        (33, 31, "nv12", {"stride": 16}, "inside the buffer"),
        (-32, 32, "nv12", {}, "whole sides"),
        pytest.param(10**5000, 32, "rgb", {}, "whole sides", id="5000 digits"),
        (32, 32, "nv12", {"stride": 10**400}, "whole numbers"),
        (32, 32, "nv12", {"offsets": (0, 10**5000)}, "whole numbers"),
        (32, 0, "rgb", {}, "whole sides"),
        (-5, -5, "rgb", {}, "whole sides"),
        (32.0, 32, "nv12", {}, "sides"),
        (None, 32, "rgb", {}, "sides"),
        (32, 32, "i420", {"offsets": (0, 1024)}, "3 offsets"),
        (32, 32, "nv12", {"offsets": ()}, "2 offsets"),
        (32, 32, "nv12", {"offsets": (0, 1024.0)}, "2 offsets"),
        (32, 32, "nv12", {"stride": "32"}, "whole numbers"),
        (32, 32, "nv12", {"stride": 0}, "inside the buffer"),
        (32, 32, "nv12", {"stride": -32}, "inside the buffer"),
        (32, 32, "nv12", {"offsets": (-1, 1024)}, "inside the buffer"),
    ],
)
def test_buffers_that_make_no_sense(width: Any, height: Any, format: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        CameraFrame.from_buffer(bytearray(9999), width, height, format, **options)


def test_a_buffer_that_would_be_copied_is_refused() -> None:
    """What is written to the frame would not be in the buffer."""
    wide = np.zeros((6, 16), np.uint8)
    with pytest.raises(InputError, match="contiguous"):
        CameraFrame.from_buffer(wide[:, :8], 8, 4, "nv12")
    with pytest.raises(InputError, match="contiguous"):
        CameraFrame.from_buffer(memoryview(bytearray(96))[::2], 8, 4, "nv12")
    CameraFrame.from_buffer(wide, 8, 4, "nv12").planes[0][...] = 7
    assert wide.sum() == 7 * 8 * 4
