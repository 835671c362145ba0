"""A camera's frame to the engine's input tiles on the GPU: bytes are read once, nothing else crosses.

All tiles of a launch come from one frame, 8-bit RGB, BGR or NV12; tiles reach beyond the frame's edges as
`zoomrt/runtime/tiles/plan.py` mirrors them, and values are computed in the order of
`zoomrt/runtime/tiles/pixels.py` and `zoomrt/runtime/frames/pixel_formats.py`, without fused multiply-adds, so that FP32
tiles are the CPU's bit for bit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from zoomrt.errors import unknown_name
from zoomrt.kernels.checks import TYPES, require, require_tensors
from zoomrt.kernels.configuration import Configuration, cdiv
from zoomrt.kernels.cost import Cost

Format = Literal["rgb", "bgr", "nv12"]
FORMATS = ("rgb", "bgr", "nv12")
KR_KB = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
"""Weights of red and blue in luma: BT.601-7 2.5.1, BT.709-6 3.2, BT.2020-2 table 4."""
SITINGS = {"left": (0.5, 0.0), "center": (0.5, 0.5), "top-left": (0.0, 0.0)}
"""Where the first chroma sample lies, (down, right), in luma pixels from the middle of the first one."""
ROWS, COLUMNS = 4, 128
YUV = ("black", "luma_gain", "chroma_middle", "chroma_gain", "red", "blue", "green_red", "green_blue", "down", "right")


@triton.jit
def _mirrored(place, size):
    """Positions on an axis, mirrored about its first and last pixel as often as needed; one pixel is repeated."""
    period = tl.maximum(2 * (size - 1), 1)
    phase = (place % period + period) % period
    return tl.minimum(phase, period - phase)


@triton.jit
def _between(place, offset, size):
    """Chroma sample before, sample after, and weight of the latter."""
    position = (place.to(tl.float32) - offset) * 0.5
    before = tl.floor(position)
    low = before.to(tl.int32)
    return tl.minimum(tl.maximum(low, 0), size - 1), tl.minimum(tl.maximum(low + 1, 0), size - 1), position - before


@triton.jit
def _chroma(plane, above, below, low, before, after, across, row_stride, column_stride):
    """One colour difference: linear between rows, then between columns."""
    top_left = tl.load(plane + above * row_stride + before * column_stride).to(tl.float32)
    top_right = tl.load(plane + above * row_stride + after * column_stride).to(tl.float32)
    begin = (tl.load(plane + below * row_stride + before * column_stride).to(tl.float32) - top_left) * low + top_left
    end = (tl.load(plane + below * row_stride + after * column_stride).to(tl.float32) - top_right) * low + top_right
    return (end - begin) * across + begin


@triton.jit
def _pixels(
    frame, chroma, y, x, height, width, row_stride, column_stride, channel_stride,
    chroma_row_stride, chroma_column_stride, chroma_channel_stride,
    black, luma_gain, chroma_middle, chroma_gain, red, blue, green_red, green_blue, down, right, FORMAT: tl.constexpr,
):  # fmt: skip
    """Red, green and blue in FP32 at rows y (rows, 1) and columns x (1, columns): codes for RGB, [0, 1] for NV12."""
    place = frame + y.to(tl.int64) * row_stride + x * column_stride
    if FORMAT == "nv12":
        luma = (tl.load(place).to(tl.float32) - black) * luma_gain
        above, below, low = _between(y, down, height // 2)
        before, after, across = _between(x, right, width // 2)
        above, below = above.to(tl.int64), below.to(tl.int64)
        u = _chroma(chroma, above, below, low, before, after, across, chroma_row_stride, chroma_column_stride)
        v = _chroma(
            chroma + chroma_channel_stride, above, below, low, before, after, across, chroma_row_stride,
            chroma_column_stride,
        )  # fmt: skip
        u = (u - chroma_middle) * chroma_gain
        v = (v - chroma_middle) * chroma_gain
        r = tl.minimum(tl.maximum(luma + red * v, 0.0), 1.0)
        g = tl.minimum(tl.maximum(luma + (green_red * v + green_blue * u), 0.0), 1.0)
        b = tl.minimum(tl.maximum(luma + blue * u, 0.0), 1.0)
    else:
        first = tl.load(place).to(tl.float32)
        g = tl.load(place + channel_stride).to(tl.float32)
        last = tl.load(place + 2 * channel_stride).to(tl.float32)
        if FORMAT == "rgb":
            r, b = first, last
        else:
            r, b = last, first
    return r, g, b


@triton.jit
def gather_kernel(
    frame, chroma, origins, out, height, width, row_stride, column_stride, channel_stride,
    chroma_row_stride, chroma_column_stride, chroma_channel_stride, tile_height, tile_width,
    out_tile, out_channel, out_row, gain, low_value,
    black, luma_gain, chroma_middle, chroma_gain, red, blue, green_red, green_blue, down, right,
    FORMAT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """origins : (tiles, 2) int32, row and column of each tile's first pixel. gain, low_value : from what `_pixels`
    gives to the engine's values."""
    tile = tl.program_id(2)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    y = _mirrored(tl.load(origins + 2 * tile) + rows, height)
    x = _mirrored(tl.load(origins + 2 * tile + 1) + columns, width)
    r, g, b = _pixels(
        frame, chroma, y, x, height, width, row_stride, column_stride, channel_stride,
        chroma_row_stride, chroma_column_stride, chroma_channel_stride,
        black, luma_gain, chroma_middle, chroma_gain, red, blue, green_red, green_blue, down, right, FORMAT,
    )  # fmt: skip
    there = (rows < tile_height) & (columns < tile_width)
    target = out + tile.to(tl.int64) * out_tile + rows * out_row + columns
    kind = out.dtype.element_ty
    tl.store(target, (r * gain + low_value).to(kind), mask=there)
    tl.store(target + out_channel, (g * gain + low_value).to(kind), mask=there)
    tl.store(target + 2 * out_channel, (b * gain + low_value).to(kind), mask=there)


def yuv_numbers(matrix: str, full_range: bool, siting: str) -> dict[str, float]:
    """The ten numbers of YUV that the kernels take, rounded to FP32 as the CPU rounds them. Raises UsageError."""
    if matrix not in KR_KB:
        raise unknown_name("matrix", matrix, KR_KB)
    if siting not in SITINGS:
        raise unknown_name("siting", siting, SITINGS)
    weight_red, weight_blue = KR_KB[matrix]
    weight_green = 1 - weight_red - weight_blue
    black, luma, chroma = (0, 255, 255) if full_range else (16, 219, 224)
    numbers = {
        "black": black, "luma_gain": 1 / luma, "chroma_middle": 128, "chroma_gain": 1 / chroma,
        "red": 2 * (1 - weight_red), "blue": 2 * (1 - weight_blue),
        "green_red": -2 * (1 - weight_red) * weight_red / weight_green,
        "green_blue": -2 * (1 - weight_blue) * weight_blue / weight_green,
        "down": SITINGS[siting][0], "right": SITINGS[siting][1],
    }  # fmt: skip
    return {name: float(np.float32(value)) for name, value in numbers.items()}


def frame_arguments(
    what: str, frame: Tensor, chroma: Tensor | None, format: str, matrix: str, full_range: bool, siting: str
) -> dict[str, object]:
    """The arguments of `_pixels` for a frame, checked. Raises InputError and UsageError."""
    if format not in FORMATS:
        raise unknown_name("pixel format", format, FORMATS)
    if format == "nv12":
        shape = tuple(frame.shape)
        half = (shape[0] // 2, shape[1] // 2, 2) if len(shape) == 2 else ()
        holds = bool(half) and shape[0] % 2 == shape[1] % 2 == 0 and chroma is not None and tuple(chroma.shape) == half
        seen = f"luma {shape}, chroma {None if chroma is None else tuple(chroma.shape)}"
        require(holds and frame.numel() > 0, what, seen, "luma (H, W) and chroma (H/2, W/2, 2), even sides",
                "Check the planes.")  # fmt: skip
    else:
        holds = frame.ndim == 3 and frame.shape[2] in (3, 4) and frame.numel() > 0 and chroma is None
        require(holds, what, f"frame {tuple(frame.shape)}", "(H, W, 3) or (H, W, 4) and no chroma", "Reshape it.")
    planes = [frame] if chroma is None else [frame, chroma]
    require(all(plane.dtype == torch.uint8 for plane in planes), what, " and ".join(str(p.dtype) for p in planes),
            "8-bit planes", "Convert it to uint8.")  # fmt: skip
    small = all(
        (n - 1) * s < 2**31 for plane in planes for n, s in zip(plane.shape[1:], plane.stride()[1:], strict=True)
    )
    require(small, what, "rows of over 2^31 bytes", "less", "Copy the frame with .contiguous().")
    strides = (*frame.stride(), 0)[:3]
    chroma_strides = (0, 0, 0) if chroma is None else chroma.stride()
    names = ("row_stride", "column_stride", "channel_stride")
    return {
        "frame": frame, "chroma": chroma, "height": frame.shape[0], "width": frame.shape[1],
        **dict(zip(names, strides, strict=True)),
        **dict(zip((f"chroma_{name}" for name in names), chroma_strides, strict=True)),
        **yuv_numbers(matrix, full_range, siting),
    }  # fmt: skip


def rgb_of(
    frame: Tensor, chroma: Tensor | None = None, format: str = "rgb", matrix: str = "bt709",
    full_range: bool = False, siting: str = "left",
) -> Tensor:  # fmt: skip
    """A whole frame as (3, H, W) float64 in [0, 1], by plain torch: the reference of the pixel formats."""
    if chroma is None:
        return frame[..., :3].permute(2, 0, 1).flip([0] if format == "bgr" else []).double() / 255
    numbers = yuv_numbers(matrix, full_range, siting)
    planes = chroma.double().permute(2, 0, 1)
    for axis, size, offset in ((1, frame.shape[0], numbers["down"]), (2, frame.shape[1], numbers["right"])):
        position = (torch.arange(size) - offset) / 2
        before = position.floor().long()
        last = planes.shape[axis] - 1
        left, right = (planes.index_select(axis, part.clamp(0, last)) for part in (before, before + 1))
        weight = (position - before).double().reshape([-1 if a == axis else 1 for a in range(3)])
        planes = torch.lerp(left, right, weight)
    u, v = (planes - numbers["chroma_middle"]) * numbers["chroma_gain"]
    luma = (frame.double() - numbers["black"]) * numbers["luma_gain"]
    green = luma + numbers["green_red"] * v + numbers["green_blue"] * u
    return torch.stack([luma + numbers["red"] * v, green, luma + numbers["blue"] * u]).clamp(0, 1)


def reference(
    origins: Tensor, tile: tuple[int, int], value_range: tuple[float, float], frame: Tensor, *planes: object
) -> Tensor:
    """What `tile_gather` computes, in float64: (tiles, 3, height, width). planes : the other arguments of `rgb_of`."""
    rgb = rgb_of(frame, *planes)  # type: ignore[arg-type]
    tiles = []
    for y, x in origins.tolist():
        rows, columns = (
            torch.from_numpy(np.pad(np.arange(size), (max(0, -first), max(0, first + length - size)), "reflect"))[
                max(0, first) :
            ][:length]
            for first, length, size in ((y, tile[0], rgb.shape[1]), (x, tile[1], rgb.shape[2]))
        )
        tiles.append(rgb[:, rows][:, :, columns])
    low, high = value_range
    return torch.stack(tiles) * (high - low) + low


def tile_gather(
    frame: Tensor,
    origins: Tensor,
    out: Tensor,
    value_range: tuple[float, float] = (0.0, 1.0),
    *,
    chroma: Tensor | None = None,
    format: Format = "rgb",
    matrix: str = "bt709",
    full_range: bool = False,
    siting: str = "left",
) -> Tensor:
    """Cut a frame into tiles in the engine's values.

    frame : (H, W, 3) or (H, W, 4) uint8 for rgb and bgr, a fourth channel is not read; luma (H, W) for nv12. Any
        strides. chroma : (H/2, W/2, 2) uint8, U first, nv12 only.
    origins : (tiles, 2) int32, frame row and column of each tile's first pixel, negative or beyond allowed: mirrored.
    out : (tiles, channels, height, width) FP16 or FP32 with contiguous rows; channels 0 to 2 are written.
    value_range : the engine's black and white.
    matrix, full_range, siting : how nv12 is meant, see `zoomrt.runtime.frames.pixel_formats`.

    Returns `out`. Raises InputError, UsageError.
    """
    what = "cannot gather tiles"
    require_tensors(what, gather_kernel, frame, chroma, origins, out)
    arguments = frame_arguments(what, frame, chroma, format, matrix, full_range, siting)
    holds = out.ndim == 4 and out.shape[1] >= 3 and out.dtype in (torch.float16, torch.float32) and out.stride(3) == 1
    require(holds, what, f"out {out.dtype} {tuple(out.shape)}, strides {out.stride()}",
            "(tiles, 3 or more, height, width) FP16 or FP32, contiguous rows", "Allocate it so.")  # fmt: skip
    fits = origins.dtype == torch.int32 and tuple(origins.shape) == (len(out), 2) and origins.is_contiguous()
    require(fits, what, f"origins {origins.dtype} {tuple(origins.shape)}", f"contiguous int32 ({len(out)}, 2)",
            "Use torch.tensor(..., dtype=torch.int32).")  # fmt: skip
    low, high = value_range
    peak = 1 if format == "nv12" else 255
    configuration(format, TYPES[out.dtype]).launch(
        **arguments, origins=origins, out=out, tiles=len(out), tile_height=out.shape[2], tile_width=out.shape[3],
        out_tile=out.stride(0), out_channel=out.stride(1), out_row=out.stride(2),
        gain=float(np.float32((high - low) / peak)), low_value=float(np.float32(low)),
    )  # fmt: skip
    return out


def configuration(format: str, dtype: str) -> Configuration:
    """dtype : Triton's name of the tiles' type."""
    nv12 = format == "nv12"
    pointers = {"frame": "*u8", "chroma": "*u8", "origins": "*i32", "out": f"*{dtype}"}
    numbers = ("height", "width", "row_stride", "column_stride", "channel_stride")
    halves = ("chroma_row_stride", "chroma_column_stride", "chroma_channel_stride")
    absent: dict[str, object] = {"channel_stride": 0} if nv12 else {"chroma": None, **dict.fromkeys((*halves, *YUV), 0)}
    integers = (*numbers, *halves, "tile_height", "tile_width", "out_tile", "out_channel", "out_row")
    kinds = pointers | dict.fromkeys(integers, "i32") | dict.fromkeys(("gain", "low_value", *YUV), "fp32")
    return Configuration(
        kernel="tile_gather",
        name=f"tile_gather_{format}_{dtype}",
        function=gather_kernel,
        signature={name: kind for name, kind in kinds.items() if name not in absent},
        constants=absent | {"FORMAT": format, "ROWS": ROWS, "COLUMNS": COLUMNS},
        grid=("cdiv(tile_width, COLUMNS)", "cdiv(tile_height, ROWS)", "tiles"),
        extents=("tiles",),
        aligned=("out",),
        fused_multiply_add=False,
    )


def configurations() -> list[Configuration]:
    """Every pixel format into FP16 and FP32 tiles."""
    return [configuration(format, dtype) for format in FORMATS for dtype in ("fp16", "fp32")]


def cost(tiles: int, tile_height: int, tile_width: int, format: str = "rgb", value_bytes: int = 2) -> Cost:
    """The bytes of the pixels that tiles read, overlaps counted again, and the tiles; per pixel 6 operations, 45 for
    NV12."""
    pixels = tiles * tile_height * tile_width
    read = cdiv(3 * pixels, 2) if format == "nv12" else 3 * pixels
    return Cost(bytes=read + 3 * pixels * value_bytes, operations=pixels * (45 if format == "nv12" else 6))
