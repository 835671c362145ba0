"""Graphs in ONNX Runtime on an NVIDIA GPU: bound to our device buffers, run on our stream.

Written against ONNX Runtime 1.31 and checked against its Python signatures; NOT RUN on a GPU so far. Needs the package
onnxruntime-gpu, which excludes onnxruntime in one environment. ONNX Runtime's own CUDA graphs stay off: it keeps them
per thread, so that a frame from another thread would capture again, and may synchronise after each replay.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from zoomrt.bundle import Bundle
from zoomrt.errors import BundleError, EngineMismatch, MissingDependency
from zoomrt.runtime.backends import Backend
from zoomrt.runtime.gpu.cuda_device import CudaDevice
from zoomrt.runtime.gpu.cuda_errors import cuda_faults, fault_of
from zoomrt.runtime.gpu.device import Buffer, Launch, Stream
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.gpu.loading import open_on_gpu
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.sessions.common.onnxruntime_graph import bare_options

_PROVIDER = "CUDAExecutionProvider"
_REBUILD = "Build the bundle again with trt-build."
_WITHOUT_CUDA = ("fallback to cpu ep has been explicitly disabled", "wasn't able to be loaded")
"""How ONNX Runtime tells, while loading a graph, that some or all of it would not run on the GPU."""


def onnxruntime_cuda_session(bundle: Bundle, device: CudaDevice, runtime: Any = None) -> DeviceSession:
    """The graphs of a bundle. runtime : the module `onnxruntime`; None imports it.

    Raises MissingDependency without onnxruntime-gpu, EngineMismatch without a GPU or without CUDA's libraries,
    BundleError, OutOfMemory, RuntimeFault.
    """
    runtime = runtime or import_onnxruntime()
    if _PROVIDER not in runtime.get_available_providers():
        seen, needed = f"onnxruntime {runtime.__version__} without {_PROVIDER}", "onnxruntime-gpu"
        remedy = "Run: pip uninstall onnxruntime; pip install onnxruntime-gpu"
        raise MissingDependency("cannot run graphs on the GPU", seen=seen, needed=needed, remedy=remedy)
    if hasattr(runtime, "preload_dlls"):  # finds CUDA's libraries where pip puts them; prints what it does not find
        with contextlib.redirect_stdout(io.StringIO()):
            runtime.preload_dlls()

    def load(batch: int, stream: Stream) -> OnnxRuntimeCudaEngine:
        path = str(bundle.graph(str(batch)))
        return OnnxRuntimeCudaEngine(runtime, path, bundle.manifest.tile.dtype, device, stream)

    return DeviceSession(bundle.manifest.tile, device, load)


class OnnxRuntimeCudaEngine:
    """See `device.Engine`."""

    def __init__(self, runtime: Any, path: str, dtype: str, device: CudaDevice, stream: Stream) -> None:
        self._runtime, self._dtype, self._number, self._stream = runtime, np.dtype(dtype).type, device.number, stream
        options = bare_options(runtime=runtime)
        # an operator that CUDA lacks must fail here, not run on the CPU without a word
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = {
            "device_id": str(device.number),
            "user_compute_stream": str(stream.handle),
            "enable_cuda_graph": "0",
            "use_tf32": "0",
        }
        what, providers = f"cannot load graph {path!r} on the GPU", [(_PROVIDER, provider)]
        try:
            self._session = runtime.InferenceSession(path, options, providers=providers, enable_fallback=0)
        except Exception as cause:
            if any(words in str(cause).lower() for words in _WITHOUT_CUDA):
                raise _without_cuda(what, cause) from cause
            raise fault_of(what, cause) from cause
        if _PROVIDER not in (found := self._session.get_providers()):
            raise _without_cuda(what, f"only {', '.join(found)}")
        self._ends = [self._session.get_inputs(), self._session.get_outputs()]
        if [len(end) for end in self._ends] != [1, 1]:
            seen, needed = f"{len(self._ends[0])} inputs, {len(self._ends[1])} outputs", "one of each"
            raise BundleError(f"graph {path!r} does not fit", seen=seen, needed=needed, remedy=_REBUILD)

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        (given,), (wanted,) = self._ends
        for node, buffer in ((given, source), (wanted, target)):
            if tuple(node.shape) != buffer.shape:
                what = f"tensor {node.name!r} of the graph does not match the manifest"
                raise BundleError(what, seen=tuple(node.shape), needed=buffer.shape, remedy=_REBUILD)
        binding = self._session.io_binding()
        binding.bind_input(given.name, "cuda", self._number, self._dtype, source.shape, source.address)
        binding.bind_output(wanted.name, "cuda", self._number, self._dtype, target.shape, target.address)
        options = self._runtime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def launch(_stream: Stream) -> None:
            """The stream is the one of the session."""
            with cuda_faults("ONNX Runtime failed on a batch"):
                self._session.run_with_iobinding(binding, options)

        launch(self._stream)  # allocates what it needs
        self._stream.sync()
        return launch

    def close(self) -> None:
        self._session = None


def _without_cuda(what: str, seen: object) -> EngineMismatch:
    needed = "CUDA's libraries, cuDNN, and a graph whose operators ONNX Runtime has for CUDA"
    remedy = "Run: pip install 'onnxruntime-gpu[cuda,cudnn]'; if they are there, build the bundle with --target cpu."
    return EngineMismatch(what, seen=" ".join(str(seen).split())[:200], needed=needed, remedy=remedy)


def _check() -> str:
    there = _PROVIDER in import_onnxruntime().get_available_providers()
    return "with CUDA" if there else "without CUDA: that is the package onnxruntime-gpu, in its place"


BACKEND = Backend(
    name="onnxruntime_cuda",
    title="ONNX Runtime on CUDA",
    device="cuda",
    module="onnxruntime",
    package="onnxruntime",
    open=lambda bundle, _threads: open_on_gpu(bundle, onnxruntime_cuda_session),
    kinds=("fp32", "fp16"),
    group_norm={"fp32": "instance", "fp16": "instance"},
    check=_check,
)
