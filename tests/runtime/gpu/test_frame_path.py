"""Whole frames on the device against the tile-by-tile path: fake CUDA, and the kernels as slow NumPy functions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_arrays import OnDevice
from cuda_helpers import device_on, engine_bundle
from fake_cuda import FakeCuda, at, fake_trt
from frame_helpers import GATHER, TYPES, gpu_upscaler, records
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import facts, fake_upscaler

from zoomrt.errors import BundleError, EngineMismatch, InputError, OutOfMemory, RuntimeFault
from zoomrt.runtime import sizes
from zoomrt.runtime.gpu.cuda_kernel import CudaKernel, evaluate
from zoomrt.runtime.gpu.frame_engine import axis_table
from zoomrt.runtime.gpu.loading import add_kernels
from zoomrt.runtime.sessions.tensorrt import tensorrt_session
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler


@settings(max_examples=25)
@given(
    height=st.integers(1, 110),
    width=st.integers(1, 110),
    batches=st.sampled_from([(1,), (1, 2), (1, 3)]),
    kind=st.sampled_from(["fp16", "fp32"]),
    values=st.sampled_from([(-1.0, 1.0), (0.0, 1.0)]),
    colour=st.sampled_from(["none", "osediff", "osediff_wavelet"]),
    seed=st.integers(0, 2**32),
)
def test_a_frame_of_bytes_is_that_of_the_tile_path(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    batches: tuple[int, ...],
    kind: str,
    values: tuple[float, float],
    colour: str,
    seed: int,
) -> None:
    """Colours, on the CPU, to one code: they are matched from stored bytes, not from floats."""
    folder = tmp_path_factory.mktemp("frame") / "b"
    upscaler, cuda, _ = gpu_upscaler(folder, kind, batches=batches, value_range=values, colour=colour)
    frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
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


@pytest.mark.parametrize("colour", ["hypir", "adcsr"])
def test_colours_of_values_that_bytes_do_not_hold_are_not_matched_on_bytes(
    tmp_path: Path, rng: np.random.Generator, colour: str
) -> None:
    """Their steps look at values outside [0, 1], which a frame on the GPU has lost: tiles come to the CPU, and this is
    said once."""
    with pytest.warns(UserWarning, match=r"values that 8 bits do not hold.*cut and blended on the CPU") as said:
        upscaler, cuda, _ = gpu_upscaler(tmp_path / "b", colour=colour)
    assert len(said) == len(upscaler.stats.notes) == 1
    plain, _ = fake_upscaler(upscaler.manifest.tile)
    frame = rng.integers(0, 256, (40, 70, 3), np.uint8)
    with upscaler:
        assert np.array_equal(upscaler(frame), plain(frame))
        assert ".launch" not in cuda.names()
        with pytest.raises(InputError, match="without frame kernels, colour step"):
            upscaler(OnDevice(frame))


@pytest.mark.parametrize("size", [(90, 60), (400, 267)])
def test_another_size_goes_tile_by_tile(tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]) -> None:
    """What a frame on the GPU stores is rounded and cut; a result of another size is made from what is not."""
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    plain, _ = fake_upscaler(upscaler.manifest.tile)
    frame = rng.integers(0, 256, (40, 60, 3), np.uint8)
    with upscaler:
        assert np.array_equal(upscaler.upscale(frame, size=size), plain.upscale(frame, size=size))
        assert ".launch" not in cuda.names()
        with pytest.raises(InputError, match="cannot resample a frame on the GPU"):
            upscaler.upscale(OnDevice(frame), size=size)


def test_engines_are_prepared_once_for_frames_of_every_size(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b", batches=(1, 2))
    with upscaler:
        before = [cuda.names().count("GraphBuilder.begin_building")]
        for height, width in ((90, 90), (50, 120), (33, 20), (120, 70), (90, 90)):
            frame = rng.integers(0, 256, (height, width, 3), np.uint8)
            assert np.array_equal(upscaler(frame), frame.repeat(4, 0).repeat(4, 1))
            before.append(cuda.names().count("GraphBuilder.begin_building"))
    assert before[-1] == before[0] + 2, "one for each batch size"
    assert not cuda.live


def test_frames_that_the_kernels_do_not_read_go_tile_by_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "MAX_DEVICE_PIXELS", 5000)
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    with upscaler:
        for frame in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3), np.uint16), np.zeros((80, 80, 3), np.uint8)):
            cuda.calls.clear()
            upscaler(frame)
            assert ".launch" not in cuda.names()


def test_values_that_are_not_finite_end_the_frame_and_not_the_next(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame = rng.integers(0, 256, (50, 50, 3), np.uint8)
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


def test_no_room_for_whole_frames_goes_on_tile_by_tile(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    cuda.limit = cuda.device_bytes + 1000
    frame = rng.integers(0, 256, (90, 90, 3), np.uint8)
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


def test_a_kernel_that_does_not_load_is_an_error() -> None:
    cuda = FakeCuda()
    record = records("fp32")["tile_gather_rgb_fp32:sm89"]
    with pytest.raises(BundleError, match="a binary with 2 arguments, need 15"):
        CudaKernel(device_on(cuda), record, b"code")
    cuda.fail["ObjectCode.from_cubin"] = RuntimeError("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image")
    with pytest.raises(EngineMismatch, match=r"gather\.cubin.*code for this GPU"):
        CudaKernel(device_on(cuda), record, b"code")
    cuda.fail = {}
    cuda.counts = {"gather": len(GATHER)}
    kernel = CudaKernel(device_on(cuda), record, b"code")
    with pytest.raises(BundleError, match="misses frame"):
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
    for kind in TYPES:
        for name, wanted in (
            (f"tile_gather_rgb_{kind}", gathering.configurations()),
            (f"tile_gather_nv12_{kind}", gathering.configurations()),
            (f"tile_blend_{kind}_faults", blending.configurations()),
        ):
            (found,) = [one for one in wanted if one.name == name]
            record = records(kind)[f"{name}:sm89"]
            assert tuple(found.signature.items()) == record.arguments
            assert (found.grid, found.extents) == (record.grid, record.extents)
            assert {"ROWS", "COLUMNS"} <= set(found.constants)
