# ruff: noqa: ARG002 - arguments of fakes are there because the real ones are
"""The GPU path without a GPU: fake modules with the real names; and tests that want a real one, marked `gpu`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cuda_helpers import device_on, engine_bundle, plan_of
from fake_cuda import FakeCuda, at, fake_trt
from runtime_helpers import convolution_model, facts, fake_upscaler, write_bundle
from seeds import rng_for

from zoomrt.bundle import TileFacts
from zoomrt.errors import BundleError, EngineMismatch, MissingDependency, OutOfMemory, RuntimeFault, ZoomrtError
from zoomrt.files import CacheWarning, cache_path
from zoomrt.runtime import upscaler as upscaler_module
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.gpu.cuda_device import CudaDevice, require_driver
from zoomrt.runtime.gpu.cuda_errors import fault_of
from zoomrt.runtime.gpu.loading import open_on_gpu
from zoomrt.runtime.sessions.onnxruntime_cuda import onnxruntime_cuda_session
from zoomrt.runtime.sessions.tensorrt import tensorrt_session
from zoomrt.runtime.upscaler import Upscaler, engine_of

FRAME = rng_for("test_cuda_sessions").integers(0, 256, (90, 90, 3), np.uint8)


@pytest.mark.parametrize("rtx", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_frame_through_tensorrt_is_that_of_the_plain_path(tmp_path: Path, rtx: bool, dtype: str) -> None:
    tile = facts(batches=(1, 2, 4), dtype=dtype, colour="osediff")
    bundle, shapes = engine_bundle(tmp_path / "b", tile)
    cuda = FakeCuda()
    session = tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, shapes, dtype, rtx=rtx))
    plain, _ = fake_upscaler(tile)
    before = len(cuda.calls)
    with Upscaler(bundle.manifest, session) as upscaler:
        assert np.array_equal(upscaler(FRAME), plain(FRAME))
        in_frame = set(cuda.names()[before:])
        assert in_frame == {"Buffer.copy_from", "Graph.launch", "Stream.record", "Stream.wait", "Event.sync"}, (
            "no allocation, no stream or device is waited for as a whole, the engine is a graph"
        )
    assert not cuda.live, "everything was given back"


def test_what_cannot_be_captured_is_enqueued(tmp_path: Path) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    trt.capturable = False
    with Upscaler(bundle.manifest, tensorrt_session(bundle, device_on(cuda), trt)) as upscaler:
        assert np.array_equal(upscaler(FRAME), FRAME.repeat(4, 0).repeat(4, 1))
    assert "Graph.launch" not in cuda.names()


def test_the_runtime_cache_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()

    def run() -> list[str]:
        trt = fake_trt(cuda, shapes, "float32")
        tensorrt_session(bundle, device_on(cuda), trt).close()
        return [name for _, name, _, _ in trt.events]

    assert "serialize" in run()
    (kept,) = cache_path("runtime").iterdir()
    assert "1.7.1.116-13000-Fake_GPU" in kept.name
    assert "serialize" not in run(), "it is used"
    assert not (bundle.path / "runtime-cache").exists(), "nothing is written into a bundle"
    kept.write_bytes(b"from elsewhere")
    assert "serialize" in run(), "one that TensorRT does not take is written anew"
    assert kept.read_bytes() == b"compiled"
    monkeypatch.setenv("ZOOMRT_CACHE", str(kept / "below a file"))
    with pytest.warns(CacheWarning):
        assert "serialize" in run(), "nowhere to write is no error"


@pytest.mark.parametrize(
    ("call", "words", "error", "remedy"),
    [
        ("deserialize_cuda_engine", "magic tag does not match", RuntimeFault, "trt-doctor"),
        ("deserialize_cuda_engine", "compute capability 8.9 expected", EngineMismatch, "--target"),
        ("create_execution_context", "Requested 900 bytes: out of memory", OutOfMemory, "smaller tile"),
        ("execute_async_v3", "cask error", RuntimeFault, "trt-doctor"),
    ],
)
def test_what_tensorrt_says_ends_in_our_tree(
    tmp_path: Path, call: str, words: str, error: type[ZoomrtError], remedy: str
) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    trt.fail[call] = words
    with pytest.raises(error, match=words) as raised:
        tensorrt_session(bundle, device_on(cuda), trt)
    assert remedy in str(raised.value)
    assert not cuda.live
    assert not cuda.capturing


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("CUDA initialization failure with error: 35", "a newer NVIDIA driver"),
        ("CUDA initialization failure with error: 100", "an NVIDIA GPU with its driver"),
    ],
)
def test_tensorrt_that_does_not_start_says_why(tmp_path: Path, words: str, needed: str) -> None:
    """pybind raises a TypeError that tells nothing; the log does."""
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    trt.fail["Runtime"] = words
    with pytest.raises(EngineMismatch, match=f"cannot start TensorRT.*{words}") as raised:
        tensorrt_session(bundle, device_on(cuda), trt)
    assert raised.value.needed == needed


def test_an_error_has_all_that_tensorrt_said_of_that_call_and_nothing_older(tmp_path: Path) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    trt.capturable = False
    with Upscaler(bundle.manifest, tensorrt_session(bundle, device_on(cuda), trt)) as upscaler:
        trt.fail["execute_async_v3"] = "Requested 900 bytes: out of memory\nenqueue failed"
        with pytest.raises(OutOfMemory, match="900 bytes: out of memory; enqueue failed"):
            engine_of(upscaler).session.run(np.zeros((1, 3, 32, 32), np.float32))
        trt.fail["execute_async_v3"] = ""
        with pytest.raises(RuntimeFault, match="says nothing about"):
            engine_of(upscaler).session.run(np.zeros((1, 3, 32, 32), np.float32))


def test_a_capture_that_fails_is_ended() -> None:
    cuda = FakeCuda()
    device = device_on(cuda)

    def launch(_: Any) -> None:
        raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED")

    with pytest.raises(RuntimeFault, match="capture"):
        device.captured(launch, device.stream("compute"))
    assert cuda.names()[-1] == "GraphBuilder.close"
    assert cuda.capturing == 0


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("record", lambda stream, device: stream.record(device.event())),
        ("wait", lambda stream, device: stream.wait(device.event())),
        ("wait", lambda stream, _: stream.follow(4096)),
        ("wait", lambda stream, _: stream.lead(4096)),
    ],
)
def test_failures_between_streams_end_in_our_tree(call: str, act: Callable[[Any, CudaDevice], None]) -> None:
    cuda = FakeCuda()
    device = device_on(cuda)
    stream = device.stream("compute")
    cuda.fail[f"Stream.{call}"] = RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access")
    with pytest.raises(RuntimeFault, match="ILLEGAL_ADDRESS"):
        act(stream, device)


def test_an_invalid_engine_and_one_of_another_shape(tmp_path: Path) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda()
    trt = fake_trt(cuda, shapes, "float32")
    trt.validity = trt.EngineValidity.INVALID
    with pytest.raises(EngineMismatch, match="invalid engine"):
        tensorrt_session(bundle, device_on(cuda), trt)
    wrong = {name: (given, (1, 3, 64, 64)) for name, (given, _) in shapes.items()}
    with pytest.raises(BundleError, match="tensor 'y'"):
        tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, wrong, "float32"))


def test_another_gpu_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    cuda = FakeCuda(capability=(8, 6))
    with pytest.raises(EngineMismatch, match=r"SM86, need SM89.*--target sm86"):
        tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, shapes, "float32"))


@pytest.mark.parametrize(
    ("text", "error", "needed"),
    [
        ("DynamicLibNotFoundError: libcuda.so", EngineMismatch, "an NVIDIA GPU with its driver"),
        ("libcuda.so.1: cannot open shared object file", EngineMismatch, "an NVIDIA GPU with its driver"),
        ("libcudart.so.12: cannot open shared object file", EngineMismatch, "CUDA's own libraries beside the driver"),
        ("DynamicLibNotFoundError: libcudart.so", EngineMismatch, "CUDA's own libraries beside the driver"),
        ("libcudnn.so.9: cannot open shared object file", EngineMismatch, "CUDA's own libraries beside the driver"),
        ("CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected", EngineMismatch, "an NVIDIA GPU with its driver"),
        ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", EngineMismatch, "a newer NVIDIA driver"),
        ("cudaErrorInsufficientDriver", EngineMismatch, "a newer NVIDIA driver"),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU", EngineMismatch, "code for this GPU"),
        ("CUDA_ERROR_OUT_OF_MEMORY", OutOfMemory, "room in the GPU's memory"),
        ("CUDA_ERROR_INVALID_CONTEXT", RuntimeFault, "the GPU's primary CUDA context"),
        ("CUDA_ERROR_ILLEGAL_ADDRESS", RuntimeFault, "a GPU that finishes its work"),
        ("CUDA_ERROR_UNKNOWN", RuntimeFault, "success"),
    ],
)
def test_cuda_failures_are_one_line_each(text: str, error: type[ZoomrtError], needed: str) -> None:
    for cause in (text, RuntimeError(text)):
        found = fault_of("cannot do this", cause)
        assert type(found) is error
        assert found.needed == needed
        assert "\n" not in str(found)
        assert found.remedy.endswith(".")
    assert isinstance(fault_of("cannot do this", MemoryError()), OutOfMemory)


def test_no_driver_no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda _name: None)
    with pytest.raises(EngineMismatch, match="no NVIDIA driver"):
        require_driver("cannot run this")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: name)
    require_driver("cannot run this")
    monkeypatch.setitem(__import__("sys").modules, "cuda.core", None)
    with pytest.raises(MissingDependency, match="cuda-core with cuda-bindings"):
        CudaDevice()
    cuda = FakeCuda()
    cuda.fail["Device"] = RuntimeError("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: display driver is older")
    with pytest.raises(EngineMismatch, match="newer NVIDIA driver"):
        device_on(cuda)


def test_a_foreign_context_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    cuda = FakeCuda()
    cuda.current = 1234
    with pytest.raises(RuntimeFault, match=r"primary CUDA context.*retain_primary_context"):
        device_on(cuda)
    assert cuda.current == 1234
    cuda.current = 0
    bundle, shapes = engine_bundle(tmp_path / "b", facts())
    session = tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, shapes, "float32"))
    with Upscaler(bundle.manifest, session) as upscaler:
        cuda.current = 1234
        with pytest.raises(RuntimeFault, match="primary CUDA context"):
            upscaler(FRAME)
        cuda.current = 0  # a thread that has none yet
        assert np.array_equal(upscaler(FRAME), FRAME.repeat(4, 0).repeat(4, 1))
        assert cuda.current == cuda.primary


def test_no_room_for_the_large_batch_gives_it_up_while_loading(tmp_path: Path) -> None:
    tile = facts(batches=(1, 4))
    bundle, shapes = engine_bundle(tmp_path / "b", tile)
    cuda = FakeCuda()
    one_slot = 4 * (3 * 32 * 32 + 3 * 128 * 128)
    cuda.limit = 2 * one_slot * 2
    with pytest.warns(UserWarning, match="batch of 4"):
        session = tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, shapes, "float32"))
    assert session.batches == (1,)
    with Upscaler(bundle.manifest, session) as upscaler:
        assert np.array_equal(upscaler(FRAME), FRAME.repeat(4, 0).repeat(4, 1))
    cuda.limit = one_slot
    with pytest.raises(OutOfMemory, match=r"GPU.*--tile 16"):
        tensorrt_session(bundle, device_on(cuda), fake_trt(cuda, shapes, "float32"))
    assert not cuda.live


class FakeOrt:
    """`onnxruntime` with CUDA, as far as the session uses it."""

    __version__ = "1.31.1"

    def __init__(self, shapes: tuple[Any, Any], providers: tuple[str, ...] = ("CUDAExecutionProvider",)) -> None:
        self.asked: list[Any] = []
        self.loaded = [*providers, "CPUExecutionProvider"]
        self.broken: Exception | None = None
        """What the provider fails with."""
        fake, self.providers = self, providers

        class SessionOptions:
            def add_session_config_entry(self, key: str, value: str) -> None:
                fake.asked.append((key, value))

        class RunOptions:
            def __init__(self) -> None:
                self.entries: dict[str, str] = {}

            def add_run_config_entry(self, key: str, value: str) -> None:
                self.entries[key] = value

        class Binding:
            def bind_input(
                self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
            ) -> None:
                self.source = at(buffer_ptr, shape, np.dtype(element_type).str)

            def bind_output(
                self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
            ) -> None:
                self.target = at(buffer_ptr, shape, np.dtype(element_type).str)

        class InferenceSession:
            def __init__(self, path: str, options: Any, providers: list[Any], **named: Any) -> None:
                fake.asked += providers
                self.names = list(fake.loaded)
                if fake.broken is not None:
                    if int(named.get("enable_fallback", 1)) == 0:
                        raise fake.broken
                    print(f"EP Error {fake.broken} when using {providers}")
                    self.names = ["CPUExecutionProvider"]

            def get_providers(self) -> list[str]:
                return self.names

            def get_inputs(self) -> list[Any]:
                return [SimpleNamespace(name="x", shape=list(shapes[0]))]

            def get_outputs(self) -> list[Any]:
                return [SimpleNamespace(name="y", shape=list(shapes[1]))]

            def io_binding(self) -> Binding:
                return Binding()

            def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
                fake.asked.append(run_options.entries)
                iobinding.target[...] = iobinding.source.repeat(4, 2).repeat(4, 3)

        self.SessionOptions, self.RunOptions, self.InferenceSession = SessionOptions, RunOptions, InferenceSession

    def preload_dlls(self) -> None:
        print("Failed to load libcudnn.so.9")
        self.asked.append("preload_dlls")

    def get_available_providers(self) -> list[str]:
        return list(self.providers)


def test_a_frame_through_onnxruntime_on_cuda(tmp_path: Path) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts(), backend="onnxruntime_cuda", target="cuda")
    cuda = FakeCuda()
    runtime = FakeOrt(shapes[plan_of(1)])
    session = onnxruntime_cuda_session(bundle, device_on(cuda), runtime)
    provider = next(one[1] for one in runtime.asked if one[0] == "CUDAExecutionProvider")
    assert int(provider["user_compute_stream"]) == session._pipeline.compute.handle != 0
    assert provider["enable_cuda_graph"] == "0", "it keeps graphs by thread"
    assert ("session.disable_cpu_ep_fallback", "1") in runtime.asked
    with Upscaler(bundle.manifest, session) as upscaler:
        assert np.array_equal(upscaler(FRAME), FRAME.repeat(4, 0).repeat(4, 1))
    runs = [one for one in runtime.asked if isinstance(one, dict)]
    assert not any("gpu_graph_id" in run for run in runs)
    assert {run["disable_synchronize_execution_providers"] for run in runs} == {"1"}
    with pytest.raises(MissingDependency, match="onnxruntime-gpu"):
        onnxruntime_cuda_session(bundle, device_on(cuda), FakeOrt(shapes[plan_of(1)], ("CPUExecutionProvider",)))


def test_a_bundle_as_built_for_cuda_loads_with_its_kernels(
    tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="the extra 'kernels' is not installed")
    from zoomrt.export.build import build
    from zoomrt.export.request import BuildRequest

    request = BuildRequest(weights=tiny_edge_weights, tile=32, overlap=8, target="cuda", precision="fp16")
    manifest = build(request, tmp_path / "b").manifest
    cuda = FakeCuda(capability=(9, 0))
    names = ("tile_gather_rgb_fp16", "tile_gather_nv12_fp16", "tile_blend_fp16_faults")
    taken = [manifest.kernels[f"{name}:sm90"] for name in names]
    cuda.counts = {(tmp_path / "b" / record.file).read_bytes(): len(record.arguments) for record in taken}
    runtime = FakeOrt(((1, 3, 32, 32), (1, 3, 128, 128)))
    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.require_driver", lambda _what: None)
    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.CudaDevice", lambda: device_on(cuda))
    opened = partial(open_on_gpu, load=partial(onnxruntime_cuda_session, runtime=runtime))
    backend = replace(BACKENDS.named("onnxruntime_cuda"), open=lambda bundle, _threads: opened(bundle))
    with BACKENDS.added(backend), upscaler_module.load(tmp_path / "b") as upscaler:
        assert upscaler.stats.notes == [], "the bundle has kernels for SM90, which no engine is built for"
        assert cuda.names().count("ObjectCode.from_cubin") == 3
        grey = FRAME[..., 0]  # which goes tile by tile
        np.testing.assert_array_equal(upscaler(grey), grey.repeat(4, 0).repeat(4, 1))
    assert not cuda.live


@pytest.mark.parametrize(
    ("cause", "error", "remedy"),
    [
        (None, EngineMismatch, "cudnn"),
        ("This session contains graph nodes that are assigned to the default CPU EP, but fallback to CPU EP has been "
         "explicitly disabled by the user.", EngineMismatch, "cudnn"),
        ("CUDA_PATH is set but CUDA wasn't able to be loaded. Please install", EngineMismatch, "cudnn"),
        ("libcublasLt.so.12: cannot open shared object file", EngineMismatch, "cudnn"),
        ("CUDA failure 2: out of memory ; GPU=0", OutOfMemory, "smaller tile"),
    ],
)  # fmt: skip
def test_onnxruntime_without_cuda_is_no_cpu_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], cause: str | None, error: type[ZoomrtError], remedy: str
) -> None:
    bundle, shapes = engine_bundle(tmp_path / "b", facts(), backend="onnxruntime_cuda", target="cuda")
    cuda = FakeCuda()
    runtime = FakeOrt(shapes[plan_of(1)])
    if cause is None:
        runtime.loaded = ["CPUExecutionProvider"]
    else:
        runtime.broken = RuntimeError(cause)
    with pytest.raises(error, match="on the GPU") as raised:
        onnxruntime_cuda_session(bundle, device_on(cuda), runtime)
    assert remedy in raised.value.remedy
    assert (cause or "only CPUExecutionProvider")[:40] in str(raised.value)
    assert capsys.readouterr().out == ""
    assert not cuda.live


def test_load_takes_gpu_bundles_and_measures_their_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tile = facts(batches=(1, 2))
    bundle, shapes = engine_bundle(tmp_path / "b", tile)
    cuda = FakeCuda()
    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.require_driver", lambda _what: None)
    monkeypatch.setattr("zoomrt.runtime.gpu.cuda_device.CudaDevice", lambda: device_on(cuda))
    trt = fake_trt(cuda, shapes, "float32")
    monkeypatch.setattr("zoomrt.runtime.sessions.tensorrt._imported", lambda _name: trt)
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "the bundle has no kernel")
        upscaler = stack.enter_context(upscaler_module.load(bundle.path))
        assert set(upscaler.stats.batch_ms) == {1, 2}
        assert np.array_equal(upscaler(FRAME), FRAME.repeat(4, 0).repeat(4, 1))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:the bundle has no kernel")
def test_onnxruntime_on_a_real_gpu_agrees_with_the_cpu(tmp_path: Path, rng: np.random.Generator) -> None:
    """Both FP32, TF32 off: 2e-3 of a value range of 2 is a quarter of a code."""
    tile = facts(batches=(1, 2))
    frame = rng.random((90, 70, 3), np.float32)
    fields = {"backend": "onnxruntime_cuda", "target": "cuda"}
    with upscaler_module.load(write_bundle(tmp_path / "gpu", tile, 7, **fields)) as gpu:
        found = gpu(frame)
    with upscaler_module.load(write_bundle(tmp_path / "cpu", tile, 7)) as cpu:
        np.testing.assert_allclose(found, cpu(frame), atol=2e-3)


def built_engine(batch: int, tile: TileFacts) -> bytes:
    """The convolution model of the other tests, by TensorRT-RTX, for the GPU that is there."""
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(convolution_model(7, batch, tile.height, tile.width).SerializeToString())
    return bytes(builder.build_serialized_network(network, builder.create_builder_config()))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:the bundle has no kernel")
def test_tensorrt_on_a_real_gpu_agrees_with_the_cpu(tmp_path: Path, rng: np.random.Generator) -> None:
    """FP32, where TensorRT may use TF32 with 10 bits: within 2 % of the value range."""
    tile = facts(batches=(1, 2))
    frame = rng.random((90, 70, 3), np.float32)
    engines = {n: built_engine(n, tile) for n in tile.batches}
    fields = {"backend": "tensorrt_rtx", "target": "rtx", "engines": {str(n): f"graph_{n}.onnx" for n in engines}}
    with upscaler_module.load(write_bundle(tmp_path / "gpu", tile, engines, **fields)) as gpu:
        found = gpu(frame)
        assert np.array_equal(gpu(frame), found), "a graph replays"
    with upscaler_module.load(write_bundle(tmp_path / "cpu", tile, 7)) as cpu:
        np.testing.assert_allclose(found, cpu(frame), atol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_copies_on_a_real_gpu_come_back_as_they_went(slots: int, rng: np.random.Generator) -> None:
    """The engine is a copy on the device; also captured as a graph."""
    from zoomrt.runtime.gpu.scheduler import Pipeline
    from zoomrt.runtime.session import batches_of

    device = CudaDevice()

    class CopyEngine:
        def prepare(self, source: Any, target: Any) -> Any:
            return device.captured(lambda stream: stream.copy(target, source), pipeline.compute)

        def close(self) -> None:
            pass

    pipeline = Pipeline(device, slots)
    pipeline.add(1, CopyEngine(), ((1, 4096), (1, 4096)), "float32")
    data = rng.standard_normal((9, 4096), np.float32)
    for items, land in pipeline.run(batches_of(range(9), (1,)), lambda items, out: np.copyto(out, data[items.start])):
        np.testing.assert_array_equal(land()[0], data[items.start])
    pipeline.close()
