"""Camera frames through `Upscaler`: on the CPU against the standards in float64, on a fake GPU against the CPU.

Tolerances: a code is at most half a step from its exact value where it is rounded once; 2e-3 of a step is left for
FP32. Between GPU and CPU, which compute in another order, a value near a half may fall to either side: one code.
"""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from camera_frames import MEANING, camera, exact_rgb
from colour_steps import REFERENCES
from cuda_arrays import OnDevice
from frame_helpers import gpu_upscaler
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtime_helpers import facts, fake_upscaler

from zoomrt.bundle import NO_COLOUR_STEP
from zoomrt.errors import InputError
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.tiles.plan import plan

YUV = ["nv12", "nv21", "i420", "i422", "i444", "p010", "i010", "i210", "i410"]
SIDE = st.integers(1, 100)
EVEN = st.integers(1, 50).map(lambda half: 2 * half)


def enlarged(picture: NDArray[Any]) -> NDArray[Any]:
    return picture.repeat(4, 0).repeat(4, 1)


def times(gain: float) -> Any:
    """An engine that also multiplies: it shows where codes were rounded before it."""
    return lambda _run, output: output * np.float32(gain)


@settings(deadline=None, max_examples=60)
@given(
    format=st.sampled_from([*YUV, "rgb", "bgr"]),
    height=SIDE,
    width=SIDE,
    gap=st.sampled_from([0, 1, 7]),
    meaning=MEANING,
    seed=st.integers(0, 2**32),
)
def test_on_the_cpu_it_is_the_standards_rgb_rounded_once(
    format: str, height: int, width: int, gap: int, meaning: dict[str, Any], seed: int
) -> None:
    frame = camera(np.random.default_rng(seed), format, height, width, gap, **meaning)
    before = [plane.copy() for plane in frame.planes]
    upscaler, _ = fake_upscaler(facts(batches=(1, 3), value_range=(0.0, 1.0)), after=times(4))
    result = upscaler.upscale(frame)
    assert (result.dtype, result.shape) == (np.uint8, (4 * height, 4 * width, 3))
    expected = enlarged(np.clip(exact_rgb(frame) * 4 * 255, 0, 255))
    assert np.abs(result - expected).max() <= 0.5 + 2e-3
    assert all(np.array_equal(one, other) for one, other in zip(before, frame.planes, strict=True))


@pytest.mark.parametrize("format", YUV)
@pytest.mark.parametrize("size", [(2, 2), (40, 70), (90, 34)])
@pytest.mark.parametrize("colour", ["osediff", "adcsr", "hypir"])
def test_colours_are_those_of_its_rgb(
    rng: np.random.Generator, format: str, size: tuple[int, int], colour: str
) -> None:
    frame = camera(rng, format, *size, 3, full_range=bool(rng.integers(2)))
    exact = exact_rgb(frame)
    upscaler, _ = fake_upscaler(facts(colour=colour, value_range=(0.0, 1.0)), after=times(0.5))
    expected = REFERENCES[colour](enlarged(exact / 2), exact) * 255
    # rounded once; while it waits for adain it is rounded to 1/64 of a code, which the gain makes 2.4 times as much
    assert np.abs(upscaler(frame) - expected).max() <= 0.5 + 0.03


@pytest.mark.parametrize("colour", ["none", "osediff", "osediff_wavelet"])
def test_rgb_and_bgr_are_what_their_array_is(tmp_path: Path, rng: np.random.Generator, colour: str) -> None:
    array = rng.integers(0, 256, (41, 75, 3), np.uint8)
    gpu, cuda, _ = gpu_upscaler(tmp_path / "b", colour=colour)
    cpu, _ = fake_upscaler(facts(colour=colour))
    with gpu:
        for upscaler in (cpu, gpu):
            expected = upscaler(array)
            cuda.crossed.clear()
            assert np.array_equal(upscaler(CameraFrame((array,))), expected)
            assert np.array_equal(upscaler(CameraFrame((array[:, :, ::-1],), "bgr")), expected)
        assert len(cuda.crossed) == 4, "bytes in, bytes out"


def test_nothing_as_large_as_the_frame_is_made() -> None:
    """Four times the rows, 4.7 MB more if they were kept in float: under 0.3 MB more beyond the result."""

    def peak_bytes(height: int, colour: str) -> int:
        frame = CameraFrame((np.zeros((height, 512), np.uint8), np.full((height // 2, 512), 128, np.uint8)), "nv12")
        upscaler, _ = fake_upscaler(facts(scale=1, colour=colour, batches=(1,)))
        tracemalloc.start()
        try:
            out = upscaler(frame)
            return tracemalloc.get_traced_memory()[1] - out.nbytes
        finally:
            tracemalloc.stop()

    for colour in ("none", "hypir"):
        low, high = (peak_bytes(height, colour) for height in (256, 1024))
        assert high - low < 300_000, colour


@settings(deadline=None, max_examples=40)
@given(
    format=st.sampled_from(["nv12", "nv21", "i420"]),
    height=EVEN,
    width=EVEN,
    gap=st.sampled_from([0, 1, 7]),
    meaning=MEANING,
    batches=st.sampled_from([(1,), (1, 2), (1, 3)]),
    kind=st.sampled_from(["fp16", "fp32"]),
    values=st.sampled_from([(-1.0, 1.0), (0.0, 1.0)]),
    colour=st.sampled_from(["none", "osediff", "osediff_wavelet"]),
    seed=st.integers(0, 2**32),
)
def test_on_the_gpu_it_is_the_frame_of_the_cpu(
    tmp_path_factory: pytest.TempPathFactory,
    format: str,
    height: int,
    width: int,
    gap: int,
    meaning: dict[str, Any],
    batches: tuple[int, ...],
    kind: str,
    values: tuple[float, float],
    colour: str,
    seed: int,
) -> None:
    """1.5 bytes a pixel go in; the second frame allocates nothing."""
    folder = tmp_path_factory.mktemp("nv12") / "b"
    upscaler, cuda, _ = gpu_upscaler(folder, kind, batches=batches, value_range=values, colour=colour)
    frame = camera(np.random.default_rng(seed), format, height, width, gap, **meaning)
    plain, _ = fake_upscaler(msgspec.structs.replace(upscaler.manifest.tile, colour=NO_COLOUR_STEP))
    expected = np.rint(REFERENCES[colour](plain(frame) / 255, exact_rgb(frame)) * 255)  # of the codes that it stores
    done: list[tuple[int, int]] = []
    with upscaler:
        result = upscaler.upscale(frame, on_tile=lambda *progress: done.append(progress))
        cuda.calls.clear()
        cuda.crossed.clear()
        assert np.array_equal(upscaler(frame), result)
        assert not any("allocate" in name or "create" in name for name in cuda.names())
    wrong = np.abs(result - expected)
    assert wrong.max() <= 1
    # kernels sum what they have not rounded: the mean of N roundings is off by 0.3 / sqrt(N) of a code
    assert wrong.mean() <= 0.02 + (0 if colour == "none" else 1 / np.sqrt(height * width))
    if colour == "none" and kind == "fp32":
        assert np.abs(result - enlarged(exact_rgb(frame) * 255)).max() <= 0.5 + 2e-3
    assert cuda.crossed[0] == height * width * 3 // 2
    assert len(cuda.crossed) == 2
    tiles = len(plan(height, width, upscaler.manifest.tile))
    assert done == [(tiles, tiles)]
    assert not cuda.live


def test_frames_of_one_size_may_change_their_meaning(tmp_path: Path, rng: np.random.Generator) -> None:
    """Numbers are bound when the size is new: another matrix, range or siting, and RGB between them, bind anew."""
    upscaler, _, _ = gpu_upscaler(tmp_path / "b")
    planes = camera(rng, "nv12", 40, 60).planes
    frames: list[Any] = [
        CameraFrame(planes, "nv12", matrix, full_range, siting)
        for matrix, full_range, siting in (
            ("bt709", False, "left"), ("bt601", False, "left"), ("bt601", True, "left"), ("bt601", True, "top-left"),
        )
    ]  # fmt: skip
    frames.insert(2, rng.integers(0, 256, (40, 60, 3), np.uint8))
    with upscaler:
        for frame in [*frames, *frames[::-1]]:
            exact = frame / 255 if isinstance(frame, np.ndarray) else exact_rgb(frame)
            assert np.abs(upscaler(frame) - enlarged(exact * 255)).max() <= 0.5 + 2e-3


@pytest.mark.parametrize("colour", ["none", "osediff"])
def test_a_bundle_without_the_kernels_says_so_once(tmp_path: Path, rng: np.random.Generator, colour: str) -> None:
    """YUV goes tile by tile, colours on the CPU and all; RGB goes as bytes as before."""
    with pytest.warns(
        UserWarning, match="no kernel 'tile_gather_nv12_fp32' for this GPU.*YUV frames are cut .* on the CPU"
    ) as said:
        upscaler, cuda, _ = gpu_upscaler(tmp_path / "b", lacking=("tile_gather_nv12_fp32",), colour=colour)
    assert len(said) == len(upscaler.stats.notes) == 1
    frame, rgb = camera(rng, "nv12", 50, 60, 1), rng.integers(0, 256, (50, 60, 3), np.uint8)
    plain, _ = fake_upscaler(upscaler.manifest.tile)
    with upscaler:
        result = upscaler(frame)
        assert ".launch" not in cuda.names()
        assert np.abs(result.astype(int) - plain(frame)).max() <= 1
        assert np.abs(upscaler(rgb).astype(int) - plain(rgb)).max() <= 1
        assert ".launch" in cuda.names()


def test_ten_bits_go_tile_by_tile(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    frame = camera(rng, "p010", 50, 60, 1)
    with upscaler:
        assert np.abs(upscaler(frame) - enlarged(exact_rgb(frame) * 255)).max() <= 0.5 + 2e-3
        assert ".launch" not in cuda.names()


def test_no_room_for_whole_frames_goes_on_tile_by_tile(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, cuda, _ = gpu_upscaler(tmp_path / "b")
    cuda.limit = cuda.device_bytes + 1000
    frame = camera(rng, "nv12", 90, 90)
    with upscaler, pytest.warns(UserWarning, match="tiles go through the CPU instead"):
        assert np.abs(upscaler(frame) - enlarged(exact_rgb(frame) * 255)).max() <= 0.5 + 2e-3


def test_what_it_is_not_taken_with(tmp_path: Path, rng: np.random.Generator) -> None:
    upscaler, _, _ = gpu_upscaler(tmp_path / "b")
    frame = camera(rng, "nv12", 20, 20)
    large = [np.broadcast_to(np.uint8(0), shape) for shape in ((16400, 16400), (8200, 8200, 2))]
    on_gpu = OnDevice(np.zeros((30, 20), np.uint8))
    with upscaler:
        for extra in ({"out": OnDevice(np.zeros((80, 80, 3), np.uint8))}, {"stream": 4096}):
            with pytest.raises(InputError, match="out or stream with CameraFrame, need a frame on the GPU"):
                upscaler.upscale(frame, **extra)  # type: ignore[call-overload]
        with pytest.raises(InputError, match="got 16400x16400 pixels"):
            upscaler(CameraFrame(tuple(large), "nv12"))
        with pytest.raises(InputError, match="got tuple, need a numpy array or a CameraFrame"):
            upscaler(frame.planes)  # type: ignore[call-overload]
        with pytest.raises(InputError, match=r"need uint8 \(H, W, 3\).*YUV go in as a CameraFrame"):
            upscaler(on_gpu)
