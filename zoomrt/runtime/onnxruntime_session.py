"""Engines that run in ONNX Runtime on the CPU: the embedded default and the parity reference.

One InferenceSession per batch size, each bound once to input and output buffers that live as long as the session.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Bundle
from zoomrt.errors import BundleError, MissingDependency
from zoomrt.runtime.runner_errors import RunnerErrors
from zoomrt.runtime.session import Session

__all__ = ["ERRORS", "OnnxRuntimeSession", "core_count", "session_options"]

_TOO_OLD = ("opset", "ir version", "no op registered", "not a registered", "could not find an implementation")
ERRORS = RunnerErrors("ONNX Runtime", "onnxruntime", _TOO_OLD)
_SILENT = 4  # ONNX Runtime's log level "fatal": what goes wrong is an exception of ours, not a line on stderr


class _Engine(NamedTuple):
    """One graph of static shape with its buffers."""

    session: Any
    binding: Any
    input: NDArray[Any]
    output: NDArray[Any]


def core_count() -> int:
    """Physical cores that this process may run on, at least 1: hyper-threads of one core count once."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # no affinity outside Linux
        return os.cpu_count() or 1
    try:
        topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        return len({Path(topology.format(cpu)).read_text() for cpu in allowed})
    except OSError:  # a sandbox without /sys
        return len(allowed)


def session_options(precision: str, threads: int | None = None) -> Any:
    """The `onnxruntime.SessionOptions` under which a bundle of that precision runs; for profiling under the same."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else core_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = _SILENT
    if precision not in ("fp32", "fp16"):  # 8-bit codes stay what they are in the graph
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


class OnnxRuntimeSession(Session):
    """The graphs of a bundle, loaded.

    threads : threads inside one operator; None means `core_count()`. Operators run one after another.

    Raises EngineMismatch when this ONNX Runtime is too old for the graphs, BundleError when they are damaged or are
    not what the manifest says, MissingDependency without ONNX Runtime, OutOfMemory.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle.manifest.tile)
        try:
            import onnxruntime
        except ImportError as cause:
            needed, remedy = "onnxruntime 1.23 or newer", "pip install 'onnxruntime>=1.23'"
            raise MissingDependency(
                "cannot import ONNX Runtime", seen=cause, needed=needed, remedy=f"Run: {remedy}"
            ) from cause
        options = session_options(bundle.manifest.precision, threads)
        self._engines = {n: self._load(onnxruntime, options, bundle, n) for n in self.batches}

    def _load(self, onnxruntime: Any, options: Any, bundle: Bundle, batch: int) -> _Engine:
        name = bundle.manifest.graphs.get(str(batch))
        if name is None:
            seen, needed = sorted(bundle.manifest.graphs), f"a graph for batch {batch}"
            remedy = "Build the bundle again with trt-build."
            raise BundleError("manifest field graphs is incomplete", seen=seen, needed=needed, remedy=remedy)
        try:
            session = onnxruntime.InferenceSession(str(bundle.file(name)), options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            built_with = bundle.manifest.versions.get("onnxruntime")
            raise ERRORS.of_load(bundle.file(name), cause, onnxruntime.__version__, built_with) from cause
        tile = self.tile
        dtype = np.dtype(tile.dtype)
        arrays = (
            np.empty((batch, tile.channels, tile.height, tile.width), dtype),
            np.empty((batch, 3, tile.height * tile.scale, tile.width * tile.scale), dtype),
        )
        nodes = (session.get_inputs(), session.get_outputs())
        for side, declared, array in zip(("input", "output"), nodes, arrays, strict=True):
            found = ", ".join(f"{node.type} {tuple(node.shape)}" for node in declared)
            expected = f"tensor({'float' if dtype == np.float32 else 'float16'}) {array.shape}"
            if found != expected:
                what = f"the {side} of graph {str(bundle.file(name))!r} does not match the manifest"
                raise BundleError(what, seen=found, needed=expected, remedy="Build the bundle again with trt-build.")
        binding = session.io_binding()
        for bind, (node,), array in zip((binding.bind_input, binding.bind_output), nodes, arrays, strict=True):
            bind(node.name, "cpu", 0, dtype.type, array.shape, array.ctypes.data)
        return _Engine(session, binding, *arrays)

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        engine = self._engines[len(batch)]
        np.copyto(engine.input, batch, casting="same_kind")
        try:
            engine.session.run_with_iobinding(engine.binding)
        except Exception as cause:
            raise ERRORS.of_run(cause) from cause
        return engine.output

    def _release(self) -> None:
        self._engines = {}
