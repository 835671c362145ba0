"""Engines of TensorRT and TensorRT-RTX on the GPU: their Python APIs agree, so the module is a parameter.

Written against tensorrt_rtx 1.7 and TensorRT 10 and 11, checked against the former's methods; NOT RUN on a GPU so far.
One execution context per batch size, one CUDA graph per batch size and slot, captured while loading, on our stream.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from zoomrt.bundle import Bundle, Manifest
from zoomrt.errors import BundleError, EngineMismatch, MissingDependency, ZoomrtError
from zoomrt.files import cache_path, read_cached, write_cached
from zoomrt.runtime.backends import BACKENDS, Backend
from zoomrt.runtime.gpu.cuda_device import CudaDevice
from zoomrt.runtime.gpu.cuda_errors import fault_of
from zoomrt.runtime.gpu.device import Buffer, Launch, Stream
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.gpu.loading import open_on_gpu

_REBUILD = "Build the bundle again with trt-build."


def tensorrt_session(bundle: Bundle, device: CudaDevice, trt: Any = None) -> DeviceSession:
    """The engines of a bundle. trt : the module `tensorrt` or `tensorrt_rtx`; None imports what the manifest names.

    Raises EngineMismatch for another GPU, driver or TensorRT than the engines are for, OutOfMemory, BundleError,
    MissingDependency, RuntimeFault.
    """
    manifest = bundle.manifest
    trt = trt or _imported(BACKENDS.named(manifest.backend))
    check_gpu(manifest, device, str(bundle.path))
    words = _words(trt)
    with _explained(words, "cannot start TensorRT"):
        runtime = trt.Runtime(words)

    def load(batch: int, stream: Stream) -> TensorRtEngine:
        plan = bundle.engine(str(batch))
        name = manifest.engines[str(batch)]
        made_for = f"{manifest.files[name].sha256[:12]}.{trt.__version__}-{device.driver_version}-{device.name}"
        cache = cache_path("runtime", re.sub(r"[^A-Za-z0-9.-]+", "_", made_for))
        return TensorRtEngine(trt, runtime, plan, str(bundle.path / name), cache=cache, device=device, stream=stream)

    return DeviceSession(manifest.tile, device, load)


def check_gpu(manifest: Manifest, device: CudaDevice, bundle: str) -> None:
    """EngineMismatch unless the bundle's target names this GPU's SM, or several."""
    if manifest.target.startswith("sm") and manifest.target != f"sm{device.sm}":
        seen, needed = f"{device.name}, SM{device.sm}", manifest.target.upper()
        remedy = f"Build it with --target sm{device.sm}."
        raise EngineMismatch(f"cannot run bundle {bundle!r} on this GPU", seen=seen, needed=needed, remedy=remedy)


class TensorRtEngine:
    """See `device.Engine`.

    path : of the plan, for messages.
    cache : where what TensorRT-RTX compiles while it loads the engine is kept for the next time.
    """

    def __init__(
        self,
        trt: Any,
        runtime: Any,
        plan: bytes,
        path: str,
        *,
        cache: Path | None,
        device: CudaDevice,
        stream: Stream,
    ) -> None:
        self._words = words = _words(trt)
        self._device, self._stream = device, stream
        self._what = f"cannot load engine {path!r}"
        with _explained(words, self._what):
            if hasattr(runtime, "get_engine_validity"):  # TensorRT-RTX
                validity, diagnostics = runtime.get_engine_validity(plan)
                if validity == trt.EngineValidity.INVALID:
                    needed = "one that it takes"
                    remedy = "Build it again with the --target of this GPU, by the TensorRT-RTX that will run it."
                    seen = f"an invalid engine (diagnostics {diagnostics})"
                    raise EngineMismatch(self._what, seen=seen, needed=needed, remedy=remedy)
            self._engine = _there(runtime.deserialize_cuda_engine(plan))
            self._context = _there(self._context_of(cache))
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        inputs = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            seen, needed = f"{len(inputs)} inputs, {len(outputs)} outputs", "one of each"
            raise BundleError(self._what, seen=seen, needed=needed, remedy=_REBUILD)
        self._ends = (inputs[0], outputs[0])

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        """A first run lets TensorRT finish what it does lazily; then the run is captured where it can be."""
        for name, buffer in zip(self._ends, (source, target), strict=True):
            found = tuple(self._engine.get_tensor_shape(name))
            if found != buffer.shape:
                what = f"tensor {name!r} of the engine does not match the manifest"
                raise BundleError(what, seen=found, needed=buffer.shape, remedy=_REBUILD)

        def launch(stream: Stream) -> None:
            addresses = (source.address, target.address)
            with _explained(self._words, "TensorRT failed on a batch"):
                for name, address in zip(self._ends, addresses, strict=True):
                    _done(self._context.set_tensor_address(name, address))
                _done(self._context.execute_async_v3(stream.handle))

        launch(self._stream)
        self._stream.sync()
        capturable = getattr(self._context, "is_stream_capturable", lambda _handle: True)  # RTX can tell
        return self._device.captured(launch, self._stream) if capturable(self._stream.handle) else launch

    def close(self) -> None:
        self._context = self._engine = None

    def _context_of(self, cache: Path | None) -> Any:
        """A context; TensorRT-RTX compiles its kernels here, unless the cache has them. TensorRT has no such cache."""
        config: Any = self._engine.create_runtime_config() if hasattr(self._engine, "create_runtime_config") else None
        if not hasattr(config, "create_runtime_cache"):
            return self._engine.create_execution_context()
        kept = config.create_runtime_cache()
        content = read_cached(cache)
        known = content is not None and kept.deserialize(content)
        config.set_runtime_cache(kept)
        context = self._engine.create_execution_context(config)
        if context is not None and not known:
            write_cached(cache, bytes(kept.serialize()))
        return context


class _Failed(Exception):
    """TensorRT said None or False."""


def _there(value: Any) -> Any:
    if value is None:
        raise _Failed
    return value


def _done(worked: bool) -> None:
    if not worked:
        raise _Failed


@contextlib.contextmanager
def _explained(words: Any, what: str) -> Iterator[None]:
    """Whatever goes wrong inside comes out as an error of ours, explained by what TensorRT said meanwhile."""
    words.lines.clear()
    try:
        yield
    except ZoomrtError:
        raise
    except _Failed:
        raise fault_of(what, "; ".join(words.lines) or "a failure that TensorRT says nothing about") from None
    except Exception as cause:
        said = [*words.lines, f"{type(cause).__name__} {cause}"]
        raise fault_of(what, "; ".join(said) if words.lines else cause) from cause


@lru_cache
def _words(trt: Any) -> Any:
    """The one logger of a module: TensorRT keeps the first of a process and ignores others."""

    class Words(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.lines.append(text)

    return Words()


def _imported(backend: Backend) -> Any:
    try:
        return importlib.import_module(backend.module)
    except ImportError as cause:
        module, remedy = backend.module, f"Run: pip install '{backend.requirement}'"
        raise MissingDependency(f"cannot import {module}", seen=cause, needed=module, remedy=remedy) from cause


BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    device="cuda",
    module="tensorrt",
    package="tensorrt",
    extra="tensorrt",
    open=lambda bundle, _threads: open_on_gpu(bundle, tensorrt_session),
    kinds=("fp32", "fp16", "int8", "fp8"),
    compiles=True,
    several_graphs=True,
    plugins=True,
    weight_scales_why="the vendor's recipe; fuses them into the convolution",
    group_norm={"fp32": "node", "fp16": "node"},
)
