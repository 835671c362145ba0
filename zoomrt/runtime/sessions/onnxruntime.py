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
from zoomrt.errors import BundleError
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.session import Session
from zoomrt.runtime.sessions.runner_errors import RunnerErrors

__all__ = ["ERRORS", "OnnxRuntimeSession", "bare_options", "core_count", "open_graph", "session_options"]

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


def bare_options(threads: int) -> Any:
    """`onnxruntime.SessionOptions` as ONNX Runtime has them by itself, but for its threads and its words."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT
    return options


def session_options(precision: str = "fp32", threads: int | None = None, *, arena: bool = True) -> Any:
    """`onnxruntime.SessionOptions` under which a graph of that precision runs.

    threads : inside one operator; None means `core_count()`. Operators run one after another.
    arena : whether memory stays with the session for its next run.
    """
    options = bare_options(threads if threads is not None else core_count())
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    if precision not in ("fp32", "fp16"):  # 8-bit codes stay what they are in the graph
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def open_graph(graph: Path | bytes, options: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU. Raises what ONNX Runtime raises."""
    source = graph if isinstance(graph, bytes) else str(graph)
    runtime = import_onnxruntime()
    # without a fallback: there is none to a CPU, and ONNX Runtime would print that it tries
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)


class OnnxRuntimeSession(Session):
    """The graphs of a bundle, loaded.

    threads : threads inside one operator; None means `core_count()`. Operators run one after another.

    Raises EngineMismatch when this ONNX Runtime is too old for the graphs, BundleError when they are damaged or are
    not what the manifest says, MissingDependency without ONNX Runtime, OutOfMemory.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle.manifest.tile)
        options = session_options(bundle.manifest.precision, threads)
        self._engines = {n: self._load(options, bundle, n) for n in self.batches}

    def _load(self, options: Any, bundle: Bundle, batch: int) -> _Engine:
        path = bundle.graph(str(batch))
        try:
            session = open_graph(path, options)
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            built_with = bundle.manifest.versions.get("onnxruntime")
            raise ERRORS.of_load(path, cause, import_onnxruntime().__version__, built_with) from cause
        dtype, shapes = np.dtype(self.tile.dtype), self.tile.shapes(batch)
        nodes = (session.get_inputs(), session.get_outputs())
        for side, declared, shape in zip(("input", "output"), nodes, shapes, strict=True):
            found = ", ".join(f"{node.type} {tuple(node.shape)}" for node in declared)
            expected = f"tensor({'float' if dtype == np.float32 else 'float16'}) {shape}"
            if found != expected:
                what = f"the {side} of graph {str(path)!r} does not match the manifest"
                raise BundleError(what, seen=found, needed=expected, remedy="Build the bundle again with trt-build.")
        arrays = [np.empty(shape, dtype) for shape in shapes]
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
