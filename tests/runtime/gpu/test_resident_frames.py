"""Frames that are on the GPU already, through `Upscaler`: no copy, who waits for whom, what lives how long.

Fake CUDA, whose device memory is the host's; a frame of the caller's is an array that says it is on a GPU.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_arrays import LikeTorch, OnDevice
from fake_cuda import at
from frame_helpers import COLUMNS, GATHER, ROWS, gpu_upscaler
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import facts, fake_upscaler
from seeds import rng_for

from zoomrt.errors import InputError, OutOfMemory, RuntimeFault
from zoomrt.runtime.frames.interop import DeviceArray, stream_handle
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import engine_of

THEIRS = 4096


def bytes_of(array: DeviceArray) -> Any:
    return at(array.address, array.shape, "u1").copy()


def picture(height: int = 50, width: int = 60) -> Any:
    return rng_for(f"{height} x {width}").integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=15)
@given(
    height=st.integers(1, 110),
    width=st.integers(1, 110),
    gap=st.integers(0, 9),
    kind=st.sampled_from(["fp16", "fp32"]),
    own=st.booleans(),
)
def test_a_frame_on_the_gpu_is_the_frame_of_the_host_path(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, gap: int, kind: str, own: bool
) -> None:
    """Bit for bit, rows apart or not; only the counts cross, and the second frame allocates nothing."""
    upscaler, cuda, _ = gpu_upscaler(tmp_path_factory.mktemp("r") / "b", kind, batches=(1, 2))
    frame = picture(height, width + gap)[:, :width]
    out = np.zeros((4 * height, 4 * width, 3), np.uint8)
    done: list[tuple[int, int]] = []
    spans = plan(height, width, upscaler.manifest.tile).rows.spans
    blocks = sum(-(-(span.done - span.start) // ROWS) for span in spans) * -(-4 * width // COLUMNS)
    with upscaler:
        expected = upscaler.upscale(frame, on_tile=lambda *progress: done.append(progress))
        for turn in range(2):
            cuda.crossed.clear()
            cuda.calls.clear()
            result = upscaler.upscale(
                OnDevice(frame),
                on_tile=lambda *progress: done.append(progress),
                out=OnDevice(out, data=(out.ctypes.data, False)) if own else None,
            )
            assert isinstance(result, DeviceArray)
            assert np.array_equal(bytes_of(result), expected)
            if turn:
                assert not any("allocate" in name or "create" in name for name in cuda.names())
                assert "Stream.sync" not in cuda.names()
                assert cuda.names().count("Event.sync") == 1
                (counts,) = cuda.crossed
                assert counts == 4 * blocks, "a float a block, and no pixels"
        assert (result.address == out.ctypes.data) is own
        assert done[0] == done[1] == done[2]
        assert np.array_equal(upscaler(frame), expected), "and frames of the host again"
    assert not cuda.live


def test_waits_are_in_order(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame, out = picture(), np.zeros((200, 240, 3), np.uint8)
    with upscaler:
        upscaler(OnDevice(frame))
        cuda.calls.clear()
        target = OnDevice(out, data=(out.ctypes.data, False), stream=5000)
        result = upscaler(OnDevice(frame, stream=6000), out=target, stream=SimpleNamespace(cuda_stream=THEIRS))
        ours = stream_handle(result.__cuda_array_interface__["stream"])
        seen = [
            (name, arguments[0].handle) if name == "wait" else name
            for _, name, arguments, _ in cuda.calls
            if name in ("wait", "launch", "copy_from", "sync")
        ]
    first, last = seen.index("launch"), len(seen) - 1 - seen[::-1].index("launch")
    assert seen[:first] == [("wait", THEIRS), ("wait", 6000), ("wait", 5000)], "we wait for them before any work"
    assert seen[last + 1 :] == [("wait", ours), "copy_from", "sync"], "they wait for us; the host for the counts alone"
    assert "wait" not in {one[0] for one in seen[first:last] if isinstance(one, tuple)}


def test_dlpack_without_a_stream_is_ordered_by_its_maker(tmp_path: Path) -> None:
    upscaler, _, _ = gpu_upscaler(tmp_path / "b")
    source = LikeTorch(picture())
    with upscaler:
        result = upscaler(source)
        assert source.asked == [result.__cuda_array_interface__["stream"]]
        assert np.array_equal(bytes_of(result), source.array.repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize("fails", [False, True])
def test_what_the_caller_drops_lives_until_the_work_on_it_is_done(tmp_path: Path, fails: bool) -> None:
    """Where a launch fails half-way too: what was launched before it may still read the frame."""
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frames, good = [OnDevice(picture())], cuda.kernels["blend"]
    watched, alive = weakref.ref(frames[0]), list[bool]()

    def blend(grid: Any, *values: Any) -> None:
        good(grid, *values)
        if fails:
            raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")

    def waited(*_: Any) -> None:
        gc.collect()
        alive.append(watched() is not None)

    with upscaler:
        upscaler(OnDevice(picture()))
        cuda.kernels["blend"] = blend
        device = engine_of(upscaler).session.device  # type: ignore[union-attr]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(device.event().event), "sync", waited)
            patch.setattr(type(device.stream("x").core), "sync", waited)
            with pytest.raises(RuntimeFault) if fails else contextlib.nullcontext():
                upscaler(frames.pop())
        gc.collect()
        assert alive
        assert alive[0], "at the first wait, after which the work is done"
        assert watched() is None, "and no longer than needed"


def test_a_result_in_out_keeps_out_alive(tmp_path: Path) -> None:
    upscaler, _, _ = gpu_upscaler(tmp_path / "b")
    array = np.zeros((200, 240, 3), np.uint8)
    out = OnDevice(array, data=(array.ctypes.data, False))
    alive = weakref.ref(out)
    with upscaler:
        result = upscaler(OnDevice(picture()), out=out)
        upscaler(OnDevice(picture(20, 20)))
        del out
        gc.collect()
        assert alive() is not None
        del result
        gc.collect()
        assert alive() is None


def test_values_that_are_not_finite_end_the_frame_and_not_the_next(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame, good = picture(), cuda.kernels["gather"]

    def poisoned(grid: Any, *values: Any) -> None:
        good(grid, *values)
        at(dict(zip(GATHER, values, strict=True))["out"], (1,), "f4")[0] = np.nan

    with upscaler:
        cuda.kernels["gather"] = poisoned
        with pytest.raises(RuntimeFault, match=r"on this frame: got \d+ values NaN"):
            upscaler(OnDevice(frame))
        cuda.kernels["gather"] = good
        assert np.array_equal(bytes_of(upscaler(OnDevice(frame))), frame.repeat(4, 0).repeat(4, 1))


def test_no_room_is_told_and_given_back(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    with upscaler:
        upscaler(OnDevice(picture(20, 20)))
        cuda.limit = cuda.device_bytes + 1000
        with pytest.raises(OutOfMemory):
            upscaler(OnDevice(picture(90, 90)))
        cuda.limit, frame = None, picture(90, 90)
        assert np.array_equal(bytes_of(upscaler(OnDevice(frame))), frame.repeat(4, 0).repeat(4, 1))
    assert not cuda.live


@pytest.mark.parametrize(
    "frame",
    [np.zeros((9, 9, 3), np.uint16), np.zeros((9, 9), np.uint8), np.zeros((9, 18, 3), np.uint8)[:, ::2],
     np.zeros((9, 9, 3), np.uint8)[::-1], np.zeros((3, 9, 9), np.uint8).transpose(1, 2, 0)],
)  # fmt: skip
def test_frames_that_the_kernels_do_not_read(tmp_path: Path, frame: Any) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    with upscaler:
        with pytest.raises(InputError, match=r"need uint8 \(H, W, 3\).*ascontiguousarray"):
            upscaler(OnDevice(frame))
        assert ".launch" not in cuda.names()


def test_a_frame_with_more_pixels_than_the_kernels_count(tmp_path: Path) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (8200, 8200, 3), (3 * 8200, 3, 1))  # never read
    with upscaler:
        with pytest.raises(InputError, match=r"got 8200x8200 pixels.*on a GPU"):
            upscaler(OnDevice(frame))
        assert ".launch" not in cuda.names()


def test_results_that_cannot_be_written_and_inputs_that_would_go(tmp_path: Path) -> None:
    upscaler, _, _ = gpu_upscaler(tmp_path / "b")
    good = np.zeros((80, 80, 3), np.uint8)
    with upscaler:
        for out, seen in ((OnDevice(good), "read-only"), (OnDevice(good[:40]), "(40, 80, 3)"), (good, "device type 1")):
            with pytest.raises(InputError) as told:
                upscaler(OnDevice(picture(20, 20)), out=out)
            assert seen in str(told.value)
        result = upscaler(OnDevice(picture(20, 20)))
        with pytest.raises(InputError, match=r"the result of an earlier frame.*out="):
            upscaler(result)
        with pytest.raises(InputError, match="default stream 0"):
            upscaler(OnDevice(picture()), stream=0)
        for extra in ({"out": OnDevice(good)}, {"stream": THEIRS}):
            with pytest.raises(InputError, match="need a frame on the GPU"):
                upscaler.upscale(picture(), **extra)  # type: ignore[call-overload]


def test_sessions_that_cannot_keep_it_on_the_gpu_say_so(tmp_path: Path) -> None:
    frame = OnDevice(picture())
    cpu, _ = fake_upscaler(facts())
    wavelet, _, _ = gpu_upscaler(tmp_path / "b", colour="osediff_wavelet")
    osediff, _, _ = gpu_upscaler(tmp_path / "c", colour="osediff")
    for upscaler, seen in (
        (cpu, "without frame kernels"),
        (wavelet, "with frame kernels, colour step 'wavelet'"),
        (osediff, "with frame kernels, colour step 'adain'"),
    ):
        with upscaler, pytest.raises(InputError, match=rf"on the GPU: got \w+ {seen}.*cupy.asnumpy.*colour='none'"):
            upscaler(frame)
