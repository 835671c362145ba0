"""A colour step on the GPU, `adain` with values cut first and the input as it is (`bundle.ColourFacts`): three small
kernels around one table of 256 codes per channel.

`source_kernel` sums the input frame, `tile_blend` has summed the blended one; `table_kernel` makes from both the affine
map of `runtime/tiles/moments.py`, in float64, as a table of codes, which `apply_kernel` looks up in place. All in FP64
where the CPU has FP64; sums differ from the CPU's in their last bits, so a code can differ where the map lands within
1e-4 of a half. Other steps are not here: they stay on the CPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoomrt.kernels.checks import require, require_tensors
from zoomrt.kernels.configuration import Configuration, cdiv
from zoomrt.kernels.cost import Cost
from zoomrt.kernels.tile_blend import SUMS
from zoomrt.kernels.tile_gather import FORMATS, YUV, _pixels, frame_arguments

EPSILON = 1e-5
"""Added to the variance of values in [0, 1] (OSEDiff's value)."""
ROWS, COLUMNS = 4, 256
PROGRAMS = 1024


@triton.jit
def source_kernel(
    frame, chroma, sums, height, width, row_stride, column_stride, channel_stride,
    chroma_row_stride, chroma_column_stride, chroma_channel_stride, gain,
    black, luma_gain, chroma_middle, chroma_gain, red, blue, green_red, green_blue, down, right,
    FORMAT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of codes and of their squares, (programs, 7). gain : from what `_pixels` gives to codes of 255."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    r, g, b = _pixels(
        frame, chroma, tl.minimum(rows, height - 1), tl.minimum(columns, width - 1), height, width,
        row_stride, column_stride, channel_stride, chroma_row_stride, chroma_column_stride, chroma_channel_stride,
        black, luma_gain, chroma_middle, chroma_gain, red, blue, green_red, green_blue, down, right, FORMAT,
    )  # fmt: skip
    there = (rows < height) & (columns < width)
    place = sums + (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 7
    for channel in tl.static_range(3):
        if channel == 0:
            code = r
        elif channel == 1:
            code = g
        else:
            code = b
        code = tl.where(there, code * gain, 0.0)
        tl.store(place + channel, tl.sum(tl.sum(code, 1), 0))
        tl.store(place + 3 + channel, tl.sum(tl.sum(code * code, 1), 0))
    tl.store(place + 6, 0.0)


@triton.jit
def _mean_and_variance(sums, channel, programs, pixels, PROGRAMS: tl.constexpr):
    """Of values in [0, 1], the variance unbiased, in FP64."""
    total = tl.zeros([PROGRAMS], tl.float64)
    squares = tl.zeros([PROGRAMS], tl.float64)
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)
        known = program < programs
        place = sums + program.to(tl.int64) * 7 + channel
        total += tl.load(place, mask=known, other=0.0).to(tl.float64)
        squares += tl.load(place + 3, mask=known, other=0.0).to(tl.float64)
    count = tl.full([], 0.0, tl.float64) + pixels  # Triton's JIT makes a 1 a constant, which has no `to`
    mean = tl.sum(total, 0) / count / 255
    centred = tl.sum(squares, 0) / 65025 - count * mean * mean
    return mean, tl.maximum(centred, 0.0) / tl.maximum(count - 1, 1.0)


@triton.jit
def table_kernel(
    source, result, table, source_programs, result_programs, source_pixels, result_pixels,
    EPSILON: tl.constexpr, PROGRAMS: tl.constexpr,
):  # fmt: skip
    """One program a channel; table : (3, 256) uint8."""
    channel = tl.program_id(0)
    wanted, wanted_variance = _mean_and_variance(source, channel, source_programs, source_pixels, PROGRAMS)
    mean, variance = _mean_and_variance(result, channel, result_programs, result_pixels, PROGRAMS)
    gain = tl.sqrt((wanted_variance + EPSILON) / (variance + EPSILON))
    bias = wanted - gain * mean
    code = tl.arange(0, 256)
    value = code.to(tl.float64) * gain + bias * 255
    value = tl.minimum(tl.maximum(value, 0.0), 255.0)
    rounded = (value + 4503599627370496.0) - 4503599627370496.0  # 2^52: to nearest, ties to even
    tl.store(table + channel * 256 + code, rounded.to(tl.int32).to(tl.uint8))


@triton.jit
def apply_kernel(
    frame, table, height, width, row_stride, column_stride, channel_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Every code replaced by the table's, in place."""
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = (rows < height) & (columns < width)
    place = frame + rows.to(tl.int64) * row_stride + columns.to(tl.int64) * column_stride
    for channel in tl.static_range(3):
        code = tl.load(place + channel * channel_stride, mask=there, other=0).to(tl.int32)
        tl.store(place + channel * channel_stride, tl.load(table + channel * 256 + code), mask=there)


def source_sums(
    frame: Tensor, *, chroma: Tensor | None = None, format: str = "rgb", matrix: str = "bt709",
    full_range: bool = False, siting: str = "left",
) -> Tensor:  # fmt: skip
    """Sums of the input's codes, (programs, 7) float32; arguments and errors as for `tile_gather`."""
    what = "cannot sum this frame"
    require_tensors(what, source_kernel, frame, chroma)
    arguments = frame_arguments(what, frame, chroma, format, matrix, full_range, siting)
    programs = cdiv(frame.shape[0], ROWS) * cdiv(frame.shape[1], COLUMNS)
    sums = torch.empty((programs, SUMS), dtype=torch.float32, device=frame.device)
    _source(format).launch(**arguments, sums=sums, gain=255.0 if format == "nv12" else 1.0)
    return sums


def colour_table(source: Tensor, source_pixels: int, result: Tensor, result_pixels: int) -> Tensor:
    """The table that gives the blended frame the input's mean and deviation, (3, 256) uint8.

    source : what `source_sums` left, of so many pixels; result : what `tile_blend` left. Raises InputError.
    """
    what = "cannot match colours"
    require_tensors(what, table_kernel, source, result)
    for name, sums, pixels in (("source", source, source_pixels), ("result", result, result_pixels)):
        fits = sums.ndim == 2 and sums.shape[1] == SUMS and sums.is_contiguous() and sums.dtype == torch.float32
        require(fits and pixels >= 1, what, f"{name} {sums.dtype} {tuple(sums.shape)} of {pixels} pixels",
                f"float32 (programs, {SUMS}) of 1 or more", "Pass the sums as they were left.")  # fmt: skip
    table = torch.empty((3, 256), dtype=torch.uint8, device=source.device)
    _table().launch(
        source=source, result=result, table=table, source_programs=len(source), result_programs=len(result),
        source_pixels=source_pixels, result_pixels=result_pixels,
    )  # fmt: skip
    return table


def apply_table(frame: Tensor, table: Tensor) -> Tensor:
    """Replace a frame's codes by the table's, in place. frame : (H, W, 3 or 4) uint8; table : (3, 256) uint8."""
    what = "cannot apply a colour table"
    require_tensors(what, apply_kernel, frame, table)
    fits = frame.ndim == 3 and frame.shape[2] in (3, 4) and table.is_contiguous() and tuple(table.shape) == (3, 256)
    seen = f"frame {frame.dtype} {tuple(frame.shape)}, table {table.dtype} {tuple(table.shape)}"
    fits = fits and frame.dtype == table.dtype == torch.uint8
    require(fits, what, seen, "uint8 (H, W, 3) and (3, 256)", "Check both.")
    _apply().launch(
        frame=frame, table=table, height=frame.shape[0], width=frame.shape[1],
        row_stride=frame.stride(0), column_stride=frame.stride(1), channel_stride=frame.stride(2),
    )  # fmt: skip
    return frame


def reference(source: Tensor, result: Tensor) -> Tensor:
    """The table by plain torch, in float64. source, result : codes (3, ...) of the input and of the blended frame."""
    moments = [(part.double().flatten(1) / 255).mean(1) for part in (source, result)]
    variances = [
        (part.double().flatten(1) / 255).var(1, correction=1 if part[0].numel() > 1 else 0) for part in (source, result)
    ]
    gain = ((variances[0] + EPSILON) / (variances[1] + EPSILON)).sqrt()
    bias = moments[0] - gain * moments[1]
    values = torch.arange(256, dtype=torch.float64) * gain[:, None] + 255 * bias[:, None]
    return values.clamp(0, 255).round().to(torch.uint8)


def _source(format: str) -> Configuration:
    nv12 = format == "nv12"
    halves = ("chroma_row_stride", "chroma_column_stride", "chroma_channel_stride")
    absent: dict[str, Any] = {"channel_stride": 0} if nv12 else {"chroma": None, **dict.fromkeys((*halves, *YUV), 0)}
    kinds = {"frame": "*u8", "chroma": "*u8", "sums": "*fp32"}
    kinds |= dict.fromkeys(("height", "width", "row_stride", "column_stride", "channel_stride", *halves), "i32")
    kinds |= dict.fromkeys(("gain", *YUV), "fp32")
    return Configuration(
        kernel="colour_match",
        name=f"colour_source_{format}",
        function=source_kernel,
        signature={name: kind for name, kind in kinds.items() if name not in absent},
        constants=absent | {"FORMAT": format, "ROWS": ROWS, "COLUMNS": COLUMNS},
        grid=("cdiv(width, COLUMNS)", "cdiv(height, ROWS)", "1"),
        fused_multiply_add=False,
    )


def _table() -> Configuration:
    numbers = ("source_programs", "result_programs", "source_pixels", "result_pixels")
    return Configuration(
        kernel="colour_match",
        name="colour_table",
        function=table_kernel,
        signature={"source": "*fp32", "result": "*fp32", "table": "*u8"} | dict.fromkeys(numbers, "i32"),
        constants={"EPSILON": EPSILON, "PROGRAMS": PROGRAMS},
        grid=("3", "1", "1"),
        fused_multiply_add=False,
    )


def _apply() -> Configuration:
    numbers = ("height", "width", "row_stride", "column_stride", "channel_stride")
    return Configuration(
        kernel="colour_match",
        name="colour_apply",
        function=apply_kernel,
        signature={"frame": "*u8", "table": "*u8"} | dict.fromkeys(numbers, "i32"),
        constants={"ROWS": ROWS, "COLUMNS": COLUMNS},
        grid=("cdiv(width, COLUMNS)", "cdiv(height, ROWS)", "1"),
    )


def configurations() -> list[Configuration]:
    """Sums of every pixel format, the table, and its application."""
    return [*(_source(format) for format in FORMATS), _table(), _apply()]


def cost(height: int, width: int, scale: int) -> Cost:
    """The input frame, (height, width), read once, the output frame read and written; 5 operations for each of the
    input's values, none to speak of for the output's."""
    pixels = height * width
    return Cost(bytes=3 * pixels + 2 * 3 * pixels * scale**2, operations=15 * pixels)
