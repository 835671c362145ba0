"""Whole frames on a fake GPU: the kernels as slow NumPy functions, with the argument lists of the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cuda_helpers import device_on, engine_bundle
from fake_cuda import FakeCuda, at, fake_trt
from runtime_helpers import facts

from zoomrt.bundle import unfinished
from zoomrt.bundle.kernel_file import KernelFile
from zoomrt.runtime.gpu.loading import add_kernels
from zoomrt.runtime.sessions.tensorrt import tensorrt_session
from zoomrt.runtime.tiles.plan import reflect_indices
from zoomrt.runtime.upscaler import Upscaler

ROWS, COLUMNS = 4, 128
TYPES = {"fp16": "float16", "fp32": "float32"}
GATHER = {
    "frame": "*u8",
    "origins": "*i32",
    "out": "*{}",
    **dict.fromkeys(("height", "width", "row_stride", "column_stride", "channel_stride", "tile_height"), "i32"),
    **dict.fromkeys(("tile_width", "out_tile", "out_channel", "out_row"), "i32"),
    **dict.fromkeys(("gain", "low_value"), "fp32"),
}
YUV = (
    *("black", "luma_gain", "chroma_middle", "chroma_gain", "red", "blue", "green_red", "green_blue"),
    *("down", "right"),
)
HALVES = ("chroma_row_stride", "chroma_column_stride", "chroma_channel_stride")
GATHER_NV12 = {
    "frame": "*u8",
    "chroma": "*u8",
    "origins": "*i32",
    "out": "*{}",
    **dict.fromkeys(("height", "width", "row_stride", "column_stride", *HALVES, "tile_height", "tile_width"), "i32"),
    **dict.fromkeys(("out_tile", "out_channel", "out_row"), "i32"),
    **dict.fromkeys(("gain", "low_value", *YUV), "fp32"),
}
BLEND = {
    "tiles": "*{}",
    "row_places": "*i32",
    "row_weights": "*fp32",
    "column_places": "*i32",
    "column_weights": "*fp32",
    "frame": "*u8",
    "faults": "*fp32",
    **dict.fromkeys(("first_row", "last_row", "height", "width", "tile_columns", "tile_rows_held"), "i32"),
    **dict.fromkeys(("tile_stride", "channel_stride", "tile_row_stride", "row_stride", "column_stride"), "i32"),
    "frame_channel_stride": "i32",
    "gain": "fp32",
    "black": "fp32",
}


def records(kind: str) -> dict[str, KernelFile]:
    """As `zoomrt.kernels` writes them for SM89."""
    common: dict[str, Any] = {"warps": 4, "shared_bytes": 0, "registers": 32, "spilled_bytes": 0}
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return {
        f"tile_gather_{format}_{kind}:sm89": KernelFile(
            kernel="tile_gather",
            file=f"{entry}.cubin",
            entry=entry,
            arguments=tuple((name, text.format(kind)) for name, text in arguments.items()),
            aligned=("out",),
            constants=constants,
            grid=("cdiv(tile_width, COLUMNS)", "cdiv(tile_height, ROWS)", "tiles"),
            extents=("tiles",),
            **common,
        )
        for format, entry, arguments in (("rgb", "gather", GATHER), ("nv12", "gather_nv12", GATHER_NV12))
    } | {
        f"tile_blend_{kind}_faults:sm89": KernelFile(
            kernel="tile_blend",
            file="blend.cubin",
            entry="blend",
            arguments=tuple((name, text.format(kind)) for name, text in BLEND.items()),
            constants=constants,
            grid=("cdiv(width, COLUMNS)", "cdiv(last_row - first_row, ROWS)", "1"),
            **common,
        ),
    }


def strided(a: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The frame that a kernel is told to read."""
    shape, strides = (a["height"], a["width"], 3), (a["row_stride"], a["column_stride"], a["channel_stride"])
    span = sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) + 1
    return np.ndarray(shape, np.uint8, at(a["frame"], (span,), "u1"), strides=strides)


def from_yuv(a: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The RGB of the NV12 frame that a kernel is told to read, with the numbers that it is told, (H, W, 3) float64."""
    height, width = a["height"], a["width"]
    assert (a["row_stride"], a["column_stride"]) == (width, 1), "without gaps"
    assert [a[name] for name in HALVES] == [width, 2, 1]
    assert a["chroma"] == a["frame"] + height * width, "one copy brings both planes"
    luma = (at(a["frame"], (height, width), "u1").astype(np.float64) - a["black"]) * a["luma_gain"]
    chroma = at(a["chroma"], (height // 2, width // 2, 2), "u1").astype(np.float64)
    for axis, (side, offset) in enumerate(((height, a["down"]), (width, a["right"]))):
        place = np.clip((np.arange(side) - offset) / 2, 0, side // 2 - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if one == axis else 1 for one in range(3)])
        high = np.minimum(low + 1, side // 2 - 1)
        chroma = chroma.take(low, axis) * (1 - share) + chroma.take(high, axis) * share
    u, v = ((chroma - a["chroma_middle"]) * a["chroma_gain"]).transpose(2, 0, 1)
    rgb = [luma + a["red"] * v, luma + a["green_red"] * v + a["green_blue"] * u, luma + a["blue"] * u]
    return np.stack(rgb, axis=2).clip(0, 1)


def gather(
    dtype: str, names: dict[str, str] = GATHER, read: Callable[[dict[str, Any]], Any] = strided
) -> Callable[..., None]:
    def run(grid: tuple[int, int, int], *values: Any) -> None:
        a = dict(zip(names, values, strict=True))
        assert grid == (-(-a["tile_width"] // COLUMNS), -(-a["tile_height"] // ROWS), grid[2])
        frame = read(a)
        origins = at(a["origins"], (grid[2], 2), "i4")
        out = at(a["out"], (grid[2], 3, a["tile_height"], a["tile_width"]), dtype)
        assert [a[name] * out.itemsize for name in ("out_tile", "out_channel", "out_row")] == list(out.strides[:3])
        for tile, (y, x) in zip(out, origins, strict=True):
            rows = reflect_indices(int(y), a["tile_height"], a["height"])
            columns = reflect_indices(int(x), a["tile_width"], a["width"])
            codes = frame[rows][:, columns].transpose(2, 0, 1)
            tile[...] = codes * np.float32(a["gain"]) + np.float32(a["low_value"])

    return run


def blend(dtype: str, held_rows: list[int]) -> Callable[..., None]:
    """For each output pixel, the one, two or four tiles that cover it."""

    def run(grid: tuple[int, int, int], *values: Any) -> None:
        a = dict(zip(BLEND, values, strict=True))
        high, wide, first, last = a["height"], a["width"], a["first_row"], a["last_row"]
        held_rows.append(a["tile_rows_held"])
        side = a["channel_stride"] // a["tile_row_stride"]
        count = a["tile_rows_held"] * a["tile_columns"]
        tiles = at(a["tiles"], (count, 3, side, a["tile_row_stride"]), dtype).astype(np.float32)
        assert a["tile_stride"] == 3 * a["channel_stride"]
        tables = [at(a[f"{axis}_places"], (3, size), "i4") for axis, size in (("row", high), ("column", wide))]
        weights = [at(a[f"{axis}_weights"], (size,), "f4") for axis, size in (("row", high), ("column", wide))]
        (tile_row, y, y_before), (tile_column, x, x_before) = tables[0][:, first:last, None], tables[1][:, None]
        down, right = weights[0][first:last, None], weights[1][None]

        def across(rows: Any, places: Any) -> Any:
            slot = rows % a["tile_rows_held"] * a["tile_columns"] + tile_column
            value = tiles[slot, :, places, x]
            before = tiles[np.maximum(slot - 1, 0), :, places, x_before]
            return np.where(x_before[..., None] >= 0, value * right[..., None] + before * (1 - right)[..., None], value)

        value = across(tile_row, y)
        above = across(np.maximum(tile_row - 1, 0), np.maximum(y_before, 0))
        value = np.where(y_before[..., None] >= 0, value * down[..., None] + above * (1 - down)[..., None], value)
        codes = np.clip(value * np.float32(a["gain"]) - np.float32(a["black"]), 0, 255)
        with np.errstate(invalid="ignore"):
            at(a["frame"], (high, wide, 3), "u1")[first:last] = np.rint(np.nan_to_num(codes))
        assert grid == (-(-wide // COLUMNS), -(-(last - first) // ROWS), 1)
        faults = at(a["faults"], (grid[0] * grid[1],), "f4")
        faults[...] = 0
        faults[-1] = (~np.isfinite(value)).sum()

    return run


def gpu_upscaler(
    folder: Path, kind: str = "fp32", lacking: tuple[str, ...] = (), **changes: Any
) -> tuple[Upscaler, FakeCuda, Any]:
    """lacking : kernels that the bundle has not."""
    tile = facts(dtype=TYPES[kind], **changes)
    bundle, shapes = engine_bundle(folder, tile)
    for name in ("gather", "gather_nv12", "blend"):
        (folder / f"{name}.cubin").write_bytes(b"code")
    some = {key: one for key, one in records(kind).items() if key.partition(":")[0] not in lacking}
    bundle = unfinished(bundle.path, msgspec.structs.replace(bundle.manifest, kernels=some))
    cuda = FakeCuda()
    cuda.held = []  # type: ignore[attr-defined]
    cuda.kernels = {
        "gather": gather(tile.dtype),
        "gather_nv12": gather(tile.dtype, GATHER_NV12, from_yuv),
        "blend": blend(tile.dtype, cuda.held),  # type: ignore[attr-defined]
    }
    cuda.counts = {"gather": len(GATHER), "gather_nv12": len(GATHER_NV12), "blend": len(BLEND)}
    device = device_on(cuda)
    trt = fake_trt(cuda, shapes, tile.dtype)
    session = tensorrt_session(bundle, device, trt)
    add_kernels(session, bundle, device)
    return Upscaler(bundle.manifest, session), cuda, trt
