"""Whole frames on the device against the tile-by-tile path: fake CUDA, and the kernels as slow NumPy functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_cuda import FakeCuda, at, fake_trt
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import facts, fake_upscaler
from test_cuda_sessions import device_on, engine_bundle

from zoomrt.bundle import Bundle
from zoomrt.errors import BundleError, EngineMismatch, OutOfMemory, RuntimeFault
from zoomrt.kernel_file import KernelFile
from zoomrt.runtime.backends import add_kernels
from zoomrt.runtime.cuda_kernel import CudaKernel, evaluate
from zoomrt.runtime.frame_path import axis_table
from zoomrt.runtime.tensorrt_session import tensorrt_session
from zoomrt.runtime.tiles import plan, reflect_indices
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
BLEND = {
    "tiles": "*{}",
    "row_places": "*i32",
    "row_weights": "*fp32",
    "column_places": "*i32",
    "column_weights": "*fp32",
    "frame": "*u8",
    "sums": "*fp32",
    **dict.fromkeys(("first_row", "last_row", "height", "width", "tile_columns", "tile_rows_held"), "i32"),
    **dict.fromkeys(("tile_stride", "channel_stride", "tile_row_stride", "row_stride", "column_stride"), "i32"),
    "frame_channel_stride": "i32",
    "gain": "fp32",
    "black": "fp32",
}
COLOUR = {
    "colour_source_rgb": {
        "frame": "*u8",
        "sums": "*fp32",
        **dict.fromkeys(("height", "width", "row_stride", "column_stride", "channel_stride"), "i32"),
        "gain": "fp32",
    },
    "colour_table": {
        "source": "*fp32",
        "result": "*fp32",
        "table": "*u8",
        **dict.fromkeys(("source_programs", "result_programs", "source_pixels", "result_pixels"), "i32"),
    },
    "colour_apply": {
        "frame": "*u8",
        "table": "*u8",
        **dict.fromkeys(("height", "width", "row_stride", "column_stride", "channel_stride"), "i32"),
    },
}
COLOUR_GRIDS = {"colour_table": ("3", "1", "1")}
FRAME_GRID = ("cdiv(width, COLUMNS)", "cdiv(height, ROWS)", "1")


def records(kind: str) -> dict[str, KernelFile]:
    """As `zoomrt.kernels` writes them for SM89."""
    common: dict[str, Any] = {"warps": 4, "shared_bytes": 0, "registers": 32, "spilled_bytes": 0}
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return {
        f"tile_gather_rgb_{kind}:sm89": KernelFile(
            kernel="tile_gather",
            file="gather.cubin",
            entry="gather",
            arguments=tuple((name, text.format(kind)) for name, text in GATHER.items()),
            aligned=("out",),
            constants=constants,
            grid=("cdiv(tile_width, COLUMNS)", "cdiv(tile_height, ROWS)", "tiles"),
            extents=("tiles",),
            **common,
        ),
        f"tile_blend_{kind}_sums:sm89": KernelFile(
            kernel="tile_blend",
            file="blend.cubin",
            entry="blend",
            arguments=tuple((name, text.format(kind)) for name, text in BLEND.items()),
            constants=constants,
            grid=("cdiv(width, COLUMNS)", "cdiv(last_row - first_row, ROWS)", "1"),
            **common,
        ),
    } | {
        f"{name}:sm89": KernelFile(
            kernel="colour_match",
            file=f"{name}.cubin",
            entry=name,
            arguments=tuple(arguments.items()),
            constants=constants,
            grid=COLOUR_GRIDS.get(name, FRAME_GRID),
            **common,
        )
        for name, arguments in COLOUR.items()
    }


def strided(a: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The frame that a kernel is told to read."""
    shape, strides = (a["height"], a["width"], 3), (a["row_stride"], a["column_stride"], a["channel_stride"])
    span = sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) + 1
    return np.ndarray(shape, np.uint8, at(a["frame"], (span,), "u1"), strides=strides)


def colour_source(grid: tuple[int, int, int], *values: Any) -> None:
    a = dict(zip(COLOUR["colour_source_rgb"], values, strict=True))
    frame = strided(a).astype(np.float64) * a["gain"]
    sums = at(a["sums"], (grid[0] * grid[1], 7), "f4")
    sums[...] = 0
    sums[-1, :3], sums[-1, 3:6] = frame.sum((0, 1)), np.square(frame).sum((0, 1))


def colour_table(grid: tuple[int, int, int], *values: Any) -> None:
    """mean_std by hand: a gain and a bias per channel."""
    a = dict(zip(COLOUR["colour_table"], values, strict=True))
    assert grid == (3, 1, 1)
    facts_of = []
    for side in ("source", "result"):
        count = a[f"{side}_pixels"]
        sums = at(a[side], (a[f"{side}_programs"], 7), "f4").astype(np.float64).sum(0)
        mean = sums[:3] / count / 255
        facts_of.append((mean, np.maximum(sums[3:6] / 255**2 - count * mean**2, 0) / max(1, count - 1)))
    (wanted, wide), (mean, narrow) = facts_of
    gain = np.sqrt((wide + 1e-5) / (narrow + 1e-5))
    codes = np.arange(256) * gain[:, None] + 255 * (wanted - gain * mean)[:, None]
    at(a["table"], (3, 256), "u1")[...] = np.rint(codes.clip(0, 255))


def colour_apply(_grid: tuple[int, int, int], *values: Any) -> None:
    a = dict(zip(COLOUR["colour_apply"], values, strict=True))
    frame, table = at(a["frame"], (a["height"], a["width"], 3), "u1"), at(a["table"], (3, 256), "u1")
    assert (a["row_stride"], a["column_stride"], a["channel_stride"]) == frame.strides
    for channel in range(3):
        frame[..., channel] = table[channel][frame[..., channel]]


def gather(dtype: str) -> Callable[..., None]:
    def run(grid: tuple[int, int, int], *values: Any) -> None:
        a = dict(zip(GATHER, values, strict=True))
        assert grid == (-(-a["tile_width"] // COLUMNS), -(-a["tile_height"] // ROWS), grid[2])
        frame = strided(a)
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
        sums = at(a["sums"], (grid[0] * grid[1], 7), "f4")
        sums[...] = 0
        sums[0, :3], sums[0, 3:6] = codes.sum((0, 1)), np.square(codes).sum((0, 1))
        sums[-1, 6] = (~np.isfinite(value)).sum()

    return run


def gpu_upscaler(folder: Path, kind: str = "fp32", **changes: Any) -> tuple[Upscaler, FakeCuda, Any]:
    tile = facts(dtype=TYPES[kind], **changes)
    bundle, shapes = engine_bundle(folder, tile)
    for name in ("gather", "blend", *COLOUR):
        (folder / f"{name}.cubin").write_bytes(b"code")
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, kernels=records(kind)))
    cuda = FakeCuda()
    cuda.held = []  # type: ignore[attr-defined]
    cuda.kernels = {"gather": gather(tile.dtype), "blend": blend(tile.dtype, cuda.held)}  # type: ignore[attr-defined]
    cuda.kernels |= {
        "colour_source_rgb": colour_source,
        "colour_table": colour_table,
        "colour_apply": colour_apply,
    }
    cuda.counts = {"gather": len(GATHER), "blend": len(BLEND)} | {name: len(names) for name, names in COLOUR.items()}
    device = device_on(cuda)
    trt = fake_trt(cuda, shapes, tile.dtype)
    session = tensorrt_session(bundle, device, trt)
    add_kernels(session, bundle, device)
    return Upscaler(bundle.manifest, session), cuda, trt


@settings(max_examples=25)
@given(
    height=st.integers(1, 110),
    width=st.integers(1, 110),
    batches=st.sampled_from([(1,), (1, 2), (1, 3)]),
    kind=st.sampled_from(["fp16", "fp32"]),
    values=st.sampled_from([(-1.0, 1.0), (0.0, 1.0)]),
    colour=st.sampled_from(["none", "mean_std", "wavelet"]),
)
def test_a_frame_of_bytes_is_that_of_the_tile_path(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    batches: tuple[int, ...],
    kind: str,
    values: tuple[float, float],
    colour: str,
) -> None:
    """To one code: sums for the colours are rounded in another order."""
    folder = tmp_path_factory.mktemp("frame") / "b"
    upscaler, cuda, _ = gpu_upscaler(folder, kind, batches=batches, value_range=values, colour=colour)
    frame = np.random.default_rng().integers(0, 256, (height, width, 3), np.uint8)
    plain, _ = fake_upscaler(upscaler.manifest.tile)
    done: list[tuple[int, int]] = []
    with upscaler:
        result = upscaler.upscale(frame, on_tile=lambda *progress: done.append(progress))
        before = len(cuda.calls)
        cuda.crossed.clear()
        assert np.array_equal(upscaler(frame), result)
        in_frame = cuda.names()[before:]
    worst = np.abs(result.astype(int) - plain(frame)).max()
    assert worst <= (0 if colour == "none" else 1)
    assert len(cuda.crossed) == 2, "bytes in, bytes out"
    assert cuda.crossed[0] == frame.nbytes
    assert not any("allocate" in name or "create" in name for name in in_frame)
    tiles = plan(height, width, upscaler.manifest.tile)
    assert set(cuda.held) == {min(2, len(tiles.rows.spans))}  # type: ignore[attr-defined]
    assert done == [(len(tiles), len(tiles))]
    assert not cuda.live


def test_mean_std_colours_are_matched_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that darkens shows that the table was applied, and once."""
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b", colour="mean_std")
    good = cuda.kernels["gather"]

    def darkened(grid: Any, *values: Any) -> None:
        good(grid, *values)
        a = dict(zip(GATHER, values, strict=True))
        at(a["out"], (grid[2], 3, a["tile_height"], a["tile_width"]), "f4")[...] *= 0.5

    cuda.kernels["gather"] = darkened
    for name in ("moments_of_frame", "apply_affine"):
        monkeypatch.setattr(f"zoomrt.runtime.upscaler.{name}", None)  # the CPU has no part in it
    frame = np.random.default_rng().integers(0, 256, (60, 70, 3), np.uint8)
    with upscaler:
        found = upscaler(frame)
    assert np.abs(found.astype(int) - frame.repeat(4, 0).repeat(4, 1)).max() <= 2, (
        "half the contrast is one code in two"
    )
    assert cuda.names().count(".launch") > 3
    assert not cuda.live


def test_colours_without_their_kernels_are_matched_on_the_cpu(tmp_path: Path) -> None:
    tile = facts(colour="mean_std")
    bundle, shapes = engine_bundle(tmp_path / "b", tile)
    for name in ("gather", "blend"):
        (tmp_path / "b" / f"{name}.cubin").write_bytes(b"code")
    some = {key: one for key, one in records("fp32").items() if one.kernel != "colour_match"}
    bundle = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, kernels=some))
    cuda = FakeCuda()
    cuda.kernels = {"gather": gather("float32"), "blend": blend("float32", [])}
    cuda.counts = {"gather": len(GATHER), "blend": len(BLEND)}
    device = device_on(cuda)
    session = tensorrt_session(bundle, device, fake_trt(cuda, shapes, "float32"))
    with pytest.warns(UserWarning, match="'colour_source_rgb' for this GPU.*matched on the CPU instead"):
        add_kernels(session, bundle, device)
    plain, _ = fake_upscaler(tile)
    frame = np.random.default_rng().integers(0, 256, (40, 70, 3), np.uint8)
    with Upscaler(bundle.manifest, session) as upscaler:
        assert np.abs(upscaler(frame).astype(int) - plain(frame)).max() <= 1
        assert ".launch" in cuda.names()


def test_engines_are_prepared_once_for_frames_of_every_size(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b", batches=(1, 2))
    rng = np.random.default_rng()
    with upscaler:
        before = [cuda.names().count("GraphBuilder.begin_building")]
        for height, width in ((90, 90), (50, 120), (33, 20), (120, 70), (90, 90)):
            frame = rng.integers(0, 256, (height, width, 3), np.uint8)
            assert np.array_equal(upscaler(frame), frame.repeat(4, 0).repeat(4, 1))
            before.append(cuda.names().count("GraphBuilder.begin_building"))
    assert before[-1] == before[0] + 2, "one for each batch size"
    assert not cuda.live


def test_frames_that_the_kernels_do_not_read_go_tile_by_tile(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    with upscaler:
        for frame in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.uint16)):
            cuda.calls.clear()
            upscaler(frame)
            assert ".launch" not in cuda.names()


def test_values_that_are_not_finite_end_the_frame_and_not_the_next(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame = np.random.default_rng().integers(0, 256, (50, 50, 3), np.uint8)
    good = cuda.kernels["gather"]

    def poisoned(grid: Any, *values: Any) -> None:
        good(grid, *values)
        at(dict(zip(GATHER, values, strict=True))["out"], (1,), "f4")[0] = np.nan

    with upscaler:
        cuda.kernels["gather"] = poisoned
        with pytest.raises(RuntimeFault, match=r"on this frame: got \d+ values NaN"):
            upscaler(frame)
        cuda.kernels["gather"] = good
        assert np.array_equal(upscaler(frame), frame.repeat(4, 0).repeat(4, 1))


def test_no_room_for_whole_frames_goes_on_tile_by_tile(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    cuda.limit = cuda.device_bytes + 1000
    frame = np.random.default_rng().integers(0, 256, (90, 90, 3), np.uint8)
    with upscaler:
        with pytest.warns(UserWarning, match="tiles go through the CPU instead"):
            result = upscaler(frame)
        assert np.array_equal(result, frame.repeat(4, 0).repeat(4, 1))
        assert np.array_equal(upscaler(frame), result), "and no second warning"


def test_a_kernel_that_is_missing_for_this_gpu_names_the_fallback(tmp_path: Path) -> None:
    tile = facts()
    bundle, shapes = engine_bundle(tmp_path / "b", tile)
    cuda = FakeCuda()
    device = device_on(cuda)
    session = tensorrt_session(bundle, device, fake_trt(cuda, shapes, "float32"))
    message = r"no kernel 'tile_gather_rgb_fp32' for this GPU: got none, need SM89. Tiles are cut .* on the CPU instead"
    with pytest.warns(UserWarning, match=message) as said:
        add_kernels(session, bundle, device)
    assert len(said) == len(session.stats.notes) == 1
    with Upscaler(bundle.manifest, session) as upscaler, warnings.catch_warnings():
        upscaler(np.zeros((40, 40, 3), np.uint8))


def test_a_kernel_that_does_not_load_is_an_error(tmp_path: Path) -> None:
    cuda = FakeCuda()
    record = records("fp32")["tile_gather_rgb_fp32:sm89"]
    (tmp_path / "gather.cubin").write_bytes(b"code")
    with pytest.raises(BundleError, match="a binary with 2 arguments, need 15"):
        CudaKernel(device_on(cuda), tmp_path, record)
    cuda.fail["ObjectCode.from_cubin"] = RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image")
    with pytest.raises(EngineMismatch, match=r"gather\.cubin.*code for this GPU"):
        CudaKernel(device_on(cuda), tmp_path, record)
    cuda.fail = {}
    cuda.counts = {"gather": len(GATHER)}
    kernel = CudaKernel(device_on(cuda), tmp_path, record)
    with pytest.raises(TypeError, match="misses frame"):
        kernel.bind(tiles=1)
    values = dict.fromkeys(GATHER, 8) | {"tiles": 1}
    with pytest.raises(RuntimeFault, match=r"this out: got 8, need a multiple of 16"):
        kernel.bind(**values)
    cuda.fail["launch"] = RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
    with pytest.raises(OutOfMemory, match="launch kernel tile_gather"):
        kernel.bind(**values | {"out": 16})(device_on(cuda).stream("compute"))


@given(st.integers(0, 99), st.integers(1, 9), st.integers(0, 9))
def test_grid_expressions(a: int, b: int, c: int) -> None:
    names = {"a": a, "b": b, "c": c}
    assert evaluate("cdiv(a, b) * (c + 2) - a // b", names) == -(-a // b) * (c + 2) - a // b


@pytest.mark.parametrize(
    "text", ["__import__('os')", "a.b", "d", "a ** 2", "cdiv(a)", "a if a else b", "1.5", "a +", "a // 0", "min(a, b)"]
)
def test_other_expressions_are_refused(text: str) -> None:
    with pytest.raises(BundleError, match="grid"):
        evaluate(text, {"a": 1, "b": 2})


@given(st.integers(1, 150), st.integers(0, 3))
def test_an_axis_table_says_what_the_plan_says(size: int, context: int) -> None:
    axis = plan(size, size, facts(context=context)).rows
    places, weights = axis_table(axis)
    expected = np.stack([axis.weights(index) for index in range(len(axis.spans))])
    found = np.zeros_like(expected)
    pixels = np.arange(size * axis.scale)
    found[places[0], pixels] += weights
    seam = places[2] >= 0
    found[places[0][seam] - 1, pixels[seam]] += 1 - weights[seam]
    np.testing.assert_array_equal(found, expected)
    for index, span in enumerate(axis.spans):
        at_last = pixels[places[0] == index]
        np.testing.assert_array_equal(places[1][at_last], at_last - span.origin * axis.scale)
        at_before = pixels[seam & (places[0] == index + 1)]
        np.testing.assert_array_equal(places[2][at_before], at_before - span.origin * axis.scale)


def test_the_argument_lists_are_those_of_the_kernels() -> None:
    pytest.importorskip("triton")
    gathering = pytest.importorskip("zoomrt.kernels.tile_gather")
    blending = pytest.importorskip("zoomrt.kernels.tile_blend")
    colouring = pytest.importorskip("zoomrt.kernels.colour_match")
    for found in colouring.configurations():
        if found.name in COLOUR:
            record = records("fp32")[f"{found.name}:sm89"]
            assert tuple(found.signature.items()) == record.arguments
            assert found.grid == record.grid
    assert {*COLOUR} <= {found.name for found in colouring.configurations()}
    for kind in TYPES:
        for name, wanted in (
            (f"tile_gather_rgb_{kind}", gathering.configurations()),
            (f"tile_blend_{kind}_sums", blending.configurations()),
        ):
            (found,) = [one for one in wanted if one.name == name]
            record = records(kind)[f"{name}:sm89"]
            assert dict(found.signature) == dict(record.arguments)
            assert (found.grid, found.extents) == (record.grid, record.extents)
            assert {"ROWS", "COLUMNS"} <= set(found.constants)
