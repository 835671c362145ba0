"""Whole frames through real ONNX Runtime sessions: any size and type, tiled like untiled, many threads, no seams."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_helpers import facts, fake_upscaler, photograph, seam_ratio, write_bundle

import zoomrt
from zoomrt.bundle import TileFacts
from zoomrt.errors import BundleError, EngineMismatch, InputError, OutOfMemory, RuntimeFault, UsageError
from zoomrt.runtime.tiles import pixels as pixels_module
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.upscaler import Upscaler, engine_of, load


@pytest.fixture(scope="module")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network looks 2 pixels far, less than the context of 4; tiles in batches of 1 and 4."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "conv", facts(batches=(1, 4)), 7)


@settings(max_examples=60)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([np.uint8, np.uint16, np.float32]),
    st.booleans(),
    st.sampled_from([(1,), (1, 2, 5)]),
    st.integers(0, 2**32),
)
def test_an_enlarging_engine_gives_the_enlarged_frame_at_any_size(
    height: int, width: int, dtype: type, grey: bool, batches: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    upscaler, _ = fake_upscaler(facts(height=24, width=32, batches=batches, value_range=(-1.5, 2.0)))
    values = rng.random((height, width) if grey else (height, width, 3))
    frame = values.astype(dtype) if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)
    result = upscaler.upscale(frame)
    assert result.dtype == dtype
    expected = frame.repeat(4, 0).repeat(4, 1)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6 if dtype is np.float32 else 0)


@pytest.mark.parametrize("size", [(150, 131), (33, 32), (40, 33)])
def test_tiled_equals_untiled_when_the_context_covers_the_network(
    convolution: Path, tmp_path: Path, rng: np.random.Generator, size: tuple[int, int]
) -> None:
    height, width = size
    whole = facts(height=height, width=width)
    frame = rng.uniform(0.1, 0.9, (height, width, 3)).astype(np.float32)
    with load(convolution, threads=1) as tiled, load(write_bundle(tmp_path / "w", whole, 7), threads=1) as untiled:
        assert len(plan(height, width, tiled.manifest.tile)) > 1
        assert len(plan(height, width, whole)) == 1
        expected = untiled(frame)
        assert ((expected > 0) & (expected < 1)).mean() > 0.9, "little is clipped"
        assert np.abs(tiled(frame) - expected).max() <= 1e-4


def test_seams_do_not_show(convolution: Path, tmp_path: Path) -> None:
    frame, whole = photograph(150, 200), facts(height=150, width=200)
    # The network has a 4-pixel grid of its own, on which the borders lie: the untiled picture is the measure.
    with load(convolution, threads=1) as tiled, load(write_bundle(tmp_path / "w", whole, 7), threads=1) as untiled:
        tiles = plan(150, 200, tiled.manifest.tile)
        assert seam_ratio(tiled(frame), tiles) == pytest.approx(seam_ratio(untiled(frame), tiles), rel=0.01)


def test_the_seam_metric_sees_steps_at_tile_borders() -> None:
    from PIL import Image

    tiles = plan(150, 200, facts())
    enlarged = np.asarray(
        Image.fromarray(photograph(150, 200)).resize((800, 600), Image.Resampling.BICUBIC), np.float32
    )
    stepped = enlarged.copy()
    for row, span in enumerate(tiles.rows.spans):
        stepped[span.start : span.done] += 4 * (row % 2)
    assert seam_ratio(stepped, tiles) > 1.05 * seam_ratio(enlarged, tiles)


def test_the_seam_metric_is_one_without_seams(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (800, 800, 3), np.uint8)
    assert seam_ratio(noise, plan(200, 200, facts())) == pytest.approx(1, abs=0.03)


def test_grey_is_three_equal_channels_in_and_luma_out(convolution: Path, rng: np.random.Generator) -> None:
    grey = rng.uniform(0.2, 0.8, (45, 60)).astype(np.float32)
    with load(convolution, threads=1) as upscaler:
        result = upscaler(grey)
        colour = unclipped(upscaler, np.dstack([grey] * 3))
    expected = np.clip(colour @ np.array([0.299, 0.587, 0.114]), 0, 1)
    assert np.abs(result - expected).max() <= 1e-5


def unclipped(upscaler: Upscaler, frame: np.ndarray) -> np.ndarray:
    """What the engine answers for one frame of one batch each, in [0, 1] units but not clipped, by a plain loop."""
    from zoomrt.runtime.tiles.blend import Blender

    tile, low, high = upscaler.manifest.tile, *upscaler.manifest.tile.value_range
    tiles = plan(*frame.shape[:2], tile)
    blender = Blender(tiles)
    out = np.empty((frame.shape[0] * tile.scale, frame.shape[1] * tile.scale, 3))
    for index in range(len(tiles)):
        row, column = tiles.position(index)
        part = frame[tiles.rows.indices(row)][:, tiles.columns.indices(column)]
        batch = (part.transpose(2, 0, 1)[None] * (high - low) + low).astype(np.float32)
        rows, columns, block = blender.add(index, engine_of(upscaler).session.run(batch)[0])
        out[rows, columns] = block.transpose(1, 2, 0)
    return (out - low) / (high - low)


def test_strides_and_read_only_frames_do_not_matter(convolution: Path, rng: np.random.Generator) -> None:
    big = rng.integers(0, 256, (100, 130, 3), np.uint8)
    view = big[::2, ::-3]
    view.flags.writeable = False
    with load(convolution, threads=1) as upscaler:
        assert np.array_equal(upscaler(view), upscaler(np.ascontiguousarray(view)))
        planes = np.ascontiguousarray(big.transpose(2, 0, 1)).transpose(1, 2, 0)
        assert np.array_equal(upscaler(planes), upscaler(big))


def test_the_frame_is_not_written_to(convolution: Path, rng: np.random.Generator) -> None:
    frame = rng.random((40, 50, 3), np.float32)
    before = frame.copy()
    with load(convolution, threads=1) as upscaler:
        upscaler(frame)
    assert np.array_equal(frame, before)


def test_eight_threads_give_the_serial_pixels(convolution: Path, rng: np.random.Generator) -> None:
    frames = [rng.integers(0, 256, (rng.integers(20, 90), rng.integers(20, 90), 3), np.uint8) for _ in range(16)]
    with load(convolution, threads=1) as upscaler, concurrent.futures.ThreadPoolExecutor(8) as pool:
        serial = [upscaler(frame) for frame in frames]
        threaded = list(pool.map(upscaler, frames))
    assert all(np.array_equal(a, b) for a, b in zip(serial, threaded, strict=True))


@pytest.mark.parametrize("batches", [(1,), (1, 4), (1, 2, 3)])
def test_progress_counts_every_tile(batches: tuple[int, ...]) -> None:
    upscaler, session = fake_upscaler(facts(batches=batches))
    seen: list[tuple[int, int]] = []
    upscaler.upscale(np.zeros((90, 70, 3), np.uint8), on_tile=lambda done, total: seen.append((done, total)))
    total = len(plan(90, 70, upscaler.manifest.tile))
    assert seen == [(i + 1, total) for i in range(total)]
    full, rest = divmod(total, batches[-1])
    assert session.runs == full + {0: 0, 1: 1, 2: 1 if 2 in batches else 2, 3: 3}[rest]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ([[1, 2], [3, 4]], "got list, need a numpy array"),
        (np.zeros((4, 4, 4), np.uint8), r"shape \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((4, 4, 3)), "got float64"),
        (np.zeros((4, 4, 3), np.int16), "got int16"),
        (np.zeros((4, 4, 3), bool), "got bool"),
        (np.zeros((4, 4), ">u2"), "got >u2"),
        (np.zeros((0, 4, 3), np.uint8), "got 4x0 pixels"),
        (np.zeros((4, 0), np.float32), "got 0x4 pixels"),
        (np.broadcast_to(np.uint8(0), (1, 65536)), "got 65536x1 pixels"),
        (np.broadcast_to(np.uint8(0), (16400, 16400, 3)), "got 16400x16400 pixels"),
        (np.full((4, 4), np.nan, np.float32), "got NaN"),
        (np.full((4, 4), np.inf, np.float32), "values from inf to inf"),
        (np.full((4, 4), 255, np.float32), "values from 255 to 255"),
        (np.full((4, 4), -0.5, np.float32), "values from -0.5"),
    ],
)
def test_a_frame_that_does_not_fit_is_one_clear_line(frame: np.ndarray, words: str) -> None:
    upscaler, session = fake_upscaler(facts())
    with pytest.raises(InputError, match=words) as caught:
        upscaler(frame)
    assert session.runs == 0
    assert "\n" not in str(caught.value)


def test_a_result_that_does_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    upscaler, _ = fake_upscaler(facts())
    frame = np.zeros((1000, 1000, 3), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(pixels_module.np, "empty", full)
        with pytest.raises(OutOfMemory, match="need 48 MB for the output frame"):
            pixels_module.empty((4000, 4000, 3), np.dtype(np.uint8))
    assert upscaler(frame[:2, :2]).shape == (8, 8, 3)


def test_load_is_public_and_tells_what_it_loaded(convolution: Path) -> None:
    with zoomrt.load(str(convolution), threads=1, verify=False) as upscaler:
        assert isinstance(upscaler, zoomrt.Upscaler)
        assert (upscaler.scale, upscaler.manifest.family, upscaler.closed) == (4, "test", False)
    assert upscaler.closed


@pytest.mark.parametrize("backend", ["tensorrt_rtx", "tensorrt", "onnxruntime_cuda", "abacus"])
def test_an_engine_for_another_machine_says_how_to_get_one_for_this(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    path = write_bundle(tmp_path / "b", facts(), {1: b"engine"}, backend=backend)
    seen = "backend 'abacus'" if backend == "abacus" else "no NVIDIA driver"
    with pytest.raises(EngineMismatch, match=f"got {seen}.*[Bb]uild it with --target cpu to run it here"):
        load(path)


def test_a_bundle_that_needs_several_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineMismatch, match="got 4 steps"):
        load(write_bundle(tmp_path / "b", facts(), 7, steps=4))


def test_facts_that_make_no_sense_are_refused_before_loading(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"tile\.context"):
        load(write_bundle(tmp_path / "b", facts(context=6), {1: b""}))


@pytest.mark.parametrize("threads", [0, -2])
def test_no_threads_is_a_usage_error(convolution: Path, threads: int) -> None:
    with pytest.raises(UsageError, match="need 1 to"):
        load(convolution, threads=threads)


def test_a_damaged_bundle_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nothing there"):
        load(tmp_path / "none")
    path = write_bundle(tmp_path / "b", facts(), 7)
    graph = path / "graph_1.onnx"
    damaged = bytearray(graph.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph.write_bytes(damaged)
    with pytest.raises(BundleError, match="sha256"):
        load(path)


def test_a_tile_that_is_not_finite_is_named_and_never_black() -> None:
    def spoil(run: int, output: np.ndarray) -> np.ndarray:
        if run == 2:
            output[2, 1, 100, 100] = np.nan
        return output

    upscaler, _ = fake_upscaler(facts(batches=(1, 4)), after=spoil)
    with pytest.raises(RuntimeFault, match=r"tile 7 of 9 \(32x32 input pixels at x=0, y=40\)"):
        upscaler(np.zeros((72, 72, 3), np.uint8))


def test_value_range_and_type_of_the_graph_are_honoured(tmp_path: Path, rng: np.random.Generator) -> None:
    """The same network behind another range or half precision gives nearly the same picture."""
    frame = rng.integers(0, 256, (50, 40, 3), np.uint8)
    half: TileFacts = facts(dtype="float16")
    with load(write_bundle(tmp_path / "f", facts(), 7), threads=1) as upscaler:
        expected = upscaler(frame).astype(int)
    with load(write_bundle(tmp_path / "h", half, 7), threads=1) as upscaler:
        assert np.abs(upscaler(frame).astype(int) - expected).max() <= 2
