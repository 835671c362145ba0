"""The engine's tiles to an 8-bit frame on the GPU: weights, FP32 sums, clamp, round, store, and a count of faults.

Every output pixel is gathered from the one, two or four tiles that cover it, so there is no accumulator in memory, no
atomic, and the same bits each time. Which tile, where in it and with which weight is told by one table per axis
(`axis_table`), made from the runtime's plan. The order of operations is that of `zoomrt/runtime/tiles/blend.py` and
`pixels.store`: without fused multiply-adds the bytes are the CPU's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from zoomrt.kernels.checks import TYPES, require, require_tensors
from zoomrt.kernels.configuration import Configuration, cdiv
from zoomrt.kernels.cost import Cost

ROWS, COLUMNS = 4, 128
LARGE = 3.4e38


class SpanLike(Protocol):
    """What is read of `zoomrt.runtime.tiles.plan.Span`."""

    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
    @property
    def rise(self) -> int: ...
    @property
    def offset(self) -> int: ...


def axis_table(spans: Sequence[SpanLike], ramp: Sequence[float]) -> tuple[Tensor, Tensor]:
    """What the kernel is told of one axis of a plan: `AxisPlan.spans` and `AxisPlan.ramp`.

    Returns places (3, output pixels) int32: the last tile along the axis that covers a pixel, the pixel's place in it
    and, in a seam, its place in the tile before, else -1; and that last tile's weight, (output pixels,) float32.
    """
    size = spans[-1].stop
    places, weights = np.full((3, size), -1, np.int32), np.ones(size, np.float32)
    for index, span in enumerate(spans):
        pixels = np.arange(span.start, span.stop)
        inside = pixels - span.start + span.offset
        seam = slice(span.start, span.start + span.rise)
        places[2, span.start : span.stop] = -1
        if index:
            before = spans[index - 1]
            places[2, seam] = pixels[: span.rise] - before.start + before.offset
        places[0, span.start : span.stop], places[1, span.start : span.stop] = index, inside
        weights[span.start : span.stop] = 1
        weights[seam] = np.asarray(ramp, np.float32)[: span.rise]
    return torch.from_numpy(places), torch.from_numpy(weights)


@triton.jit
def _across(tiles, slot, y, x, x_before, weight, there, tile_stride, row_stride):
    """A row of tiles blended from left to right, at places y and x of the last of them."""
    place = tiles + slot * tile_stride + y * row_stride
    value = tl.load(place + x, mask=there, other=0.0).to(tl.float32)
    seam = there & (x_before >= 0)
    before = tl.load(place - tile_stride + x_before, mask=seam, other=0.0).to(tl.float32)
    return tl.where(x_before >= 0, value * weight + before * (1.0 - weight), value)


@triton.jit
def blend_kernel(
    tiles, row_places, row_weights, column_places, column_weights, frame, faults,
    first_row, last_row, height, width, tile_columns, tile_rows_held, tile_stride, channel_stride, tile_row_stride,
    row_stride, column_stride, frame_channel_stride, gain, black,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LARGEST: tl.constexpr, COUNT: tl.constexpr,
):  # fmt: skip
    """Rows first_row to last_row - 1 of the frame. Tile row r of the plan is held at r % tile_rows_held."""
    rows = first_row + tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    row_known, column_known = rows < last_row, columns < width
    there = row_known & column_known
    tile_row = tl.load(row_places + rows, mask=row_known, other=0)
    y = tl.load(row_places + height + rows, mask=row_known, other=0)
    y_before = tl.load(row_places + 2 * height + rows, mask=row_known, other=-1)
    down = tl.load(row_weights + rows, mask=row_known, other=1.0)
    tile_column = tl.load(column_places + columns, mask=column_known, other=0)
    x = tl.load(column_places + width + columns, mask=column_known, other=0)
    x_before = tl.load(column_places + 2 * width + columns, mask=column_known, other=-1)
    right = tl.load(column_weights + columns, mask=column_known, other=1.0)
    slot = (tile_row % tile_rows_held * tile_columns + tile_column).to(tl.int64)
    above = tl.maximum(tile_row - 1, 0)
    slot_before = (above % tile_rows_held * tile_columns + tile_column).to(tl.int64)
    seam = there & (y_before >= 0)
    target = frame + rows.to(tl.int64) * row_stride + columns.to(tl.int64) * column_stride
    if COUNT:
        counted = tl.zeros([ROWS, COLUMNS], tl.float32)
    for channel in tl.static_range(3):
        part = tiles + channel * channel_stride
        value = _across(part, slot, y, x, x_before, right, there, tile_stride, tile_row_stride)
        before = _across(part, slot_before, y_before, x, x_before, right, seam, tile_stride, tile_row_stride)
        value = tl.where(y_before >= 0, value * down + before * (1.0 - down), value)
        code = value * gain - black
        if COUNT:
            # NaN compares false, infinity is larger
            counted += tl.where(there & ~(tl.abs(value) < LARGEST), 1.0, 0.0)
        code = tl.minimum(tl.maximum(code, 0.0), 255.0)
        # adding 2^23 leaves no bits for a fraction: rounded to nearest, ties to even, as numpy.rint
        rounded = (code + 8388608.0) - 8388608.0
        tl.store(target + channel * frame_channel_stride, rounded.to(tl.int32).to(tl.uint8), mask=there)
    if COUNT:
        tl.store(faults + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.sum(tl.sum(counted, 1), 0))


def programs(rows: int, width: int) -> int:
    """Of a launch over that many rows."""
    return cdiv(rows, ROWS) * cdiv(width, COLUMNS)


def reference(
    tiles: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], value_range: tuple[float, float]
) -> Tensor:
    """What is stored before rounding, (3, height, width) codes in float64: a slow loop over pixels' tables.

    tiles : (tile rows, tile columns, 3, ...). The sum of weighted tiles, written for reading.
    """
    (row_places, row_weights), (column_places, column_weights) = rows, columns
    out = torch.zeros(3, row_places.shape[1], column_places.shape[1], dtype=torch.float64)
    for row, (tile_row, y, y_before) in enumerate(row_places.T.tolist()):
        down = row_weights[row].item()
        for column, (tile_column, x, x_before) in enumerate(column_places.T.tolist()):
            right = column_weights[column].item()
            for r, place_y, weight_y in ((tile_row, y, down), (tile_row - 1, y_before, 1 - down)):
                for c, place_x, weight_x in ((tile_column, x, right), (tile_column - 1, x_before, 1 - right)):
                    if min(place_y, place_x) >= 0:
                        out[:, row, column] += weight_y * weight_x * tiles[r, c, :, place_y, place_x].double()
    low, high = value_range
    return ((out - low) / (high - low) * 255).clamp(0, 255)


def tile_blend(
    tiles: Tensor,
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    frame: Tensor,
    value_range: tuple[float, float] = (0.0, 1.0),
    *,
    faults: Tensor | None = None,
    band: tuple[int, int] | None = None,
) -> Tensor:
    """Blend tiles into a frame.

    tiles : (tile rows held, tile columns, 3, tile height, tile width) FP16, BF16 or FP32 with contiguous rows.
    rows, columns : `axis_table` of the plan's axes, on the GPU.
    frame : (height, width, 3) or with a fourth channel, which is left alone, uint8, any strides; written.
    value_range : the engine's black and white.
    faults : None, or (programs(rows of the band, width),) float32, written: how many values were not finite.
    band : (first, stop) output rows to write, None for all. Tile row r of the plan is looked up at r % rows held, so
        that a frame can be finished from top to bottom while few rows of tiles are held.

    A value that is not finite becomes 0 or 255; look at `faults`. Returns `frame`. Raises InputError.
    """
    what = "cannot blend tiles"
    require_tensors(what, blend_kernel, tiles, *rows, *columns, frame, faults)
    holds = tiles.ndim == 5 and tiles.shape[2] == 3 and tiles.dtype in TYPES and tiles.dtype.is_floating_point
    require(holds and tiles.stride(4) == 1 and tiles.stride(0) == tiles.shape[1] * tiles.stride(1), what,
            f"tiles {tiles.dtype} {tuple(tiles.shape)}, strides {tiles.stride()}",
            "(rows, columns, 3, height, width) floats, contiguous rows, tiles one after another",
            "Allocate the tiles in one piece.")  # fmt: skip
    require(frame.ndim == 3 and frame.shape[2] in (3, 4) and frame.dtype == torch.uint8 and frame.numel() > 0, what,
            f"frame {frame.dtype} {tuple(frame.shape)}", "(H, W, 3) uint8", "Allocate it so.")  # fmt: skip
    height, width = frame.shape[:2]
    for name, (places, weights), size in (("rows", rows, height), ("columns", columns, width)):
        fits = places.dtype == torch.int32 and weights.dtype == torch.float32 and places.is_contiguous()
        fits = fits and tuple(places.shape) == (3, size) and tuple(weights.shape) == (size,)
        require(fits and weights.is_contiguous(), what, f"{name} {tuple(places.shape)}, {tuple(weights.shape)}",
                f"(3, {size}) int32 and ({size},) float32", "Use axis_table.")  # fmt: skip
    first, last = (0, height) if band is None else band
    require(0 <= first < last <= height, what, f"rows {first} to {last}", f"rows inside 0 to {height}", "Check band.")
    if faults is not None:
        shape = (programs(last - first, width),)
        fits = tuple(faults.shape) == shape and faults.dtype == torch.float32 and faults.is_contiguous()
        require(fits, what, f"faults {faults.dtype} {tuple(faults.shape)}", f"float32 {shape}", "Use programs.")
    low, high = value_range
    configuration(TYPES[tiles.dtype], faults is not None).launch(
        tiles=tiles, row_places=rows[0], row_weights=rows[1], column_places=columns[0], column_weights=columns[1],
        frame=frame, faults=faults, first_row=first, last_row=last, height=height, width=width,
        tile_columns=tiles.shape[1], tile_rows_held=tiles.shape[0], tile_stride=tiles.stride(1),
        channel_stride=tiles.stride(2), tile_row_stride=tiles.stride(3), row_stride=frame.stride(0),
        column_stride=frame.stride(1), frame_channel_stride=frame.stride(2),
        gain=float(np.float32(255 / (high - low))), black=float(np.float32(low * 255 / (high - low))),
    )  # fmt: skip
    return frame


def configuration(dtype: str, count: bool) -> Configuration:
    """dtype : Triton's name of the tiles' type; count : whether values that are not finite are counted."""
    pointers = {
        "tiles": f"*{dtype}", "row_places": "*i32", "row_weights": "*fp32", "column_places": "*i32",
        "column_weights": "*fp32", "frame": "*u8",
    } | ({"faults": "*fp32"} if count else {})  # fmt: skip
    numbers = (
        "first_row", "last_row", "height", "width", "tile_columns", "tile_rows_held", "tile_stride", "channel_stride",
        "tile_row_stride", "row_stride", "column_stride", "frame_channel_stride",
    )  # fmt: skip
    absent: dict[str, object] = {} if count else {"faults": None}
    return Configuration(
        kernel="tile_blend",
        name=f"tile_blend_{dtype}" + ("_faults" if count else ""),
        function=blend_kernel,
        signature=pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(("gain", "black"), "fp32"),
        constants=absent | {"ROWS": ROWS, "COLUMNS": COLUMNS, "LARGEST": LARGE, "COUNT": count},
        grid=("cdiv(width, COLUMNS)", "cdiv(last_row - first_row, ROWS)", "1"),
        aligned=("tiles",),
        fused_multiply_add=False,
    )


def configurations() -> list[Configuration]:
    """FP16 and FP32 tiles, with and without a count of faults."""
    return [configuration(dtype, count) for dtype in ("fp16", "fp32") for count in (False, True)]


def cost(height: int, width: int, tiles: int, tile_height: int, tile_width: int, value_bytes: int = 2) -> Cost:
    """Tiles' values once, whole tiles (what is thrown away at their cuts is a few percent), the tables and the frame;
    about 20 operations for each of the frame's values."""
    read = tiles * 3 * tile_height * tile_width * value_bytes + 16 * (height + width)
    return Cost(bytes=read + 3 * height * width, operations=60 * height * width)
