"""ONNX Runtime on the CPU: the one place that sets its options, and one graph with named inputs and outputs.

Such a graph is a part of a multi-step bundle; sessions, parity, benchmarks and trt-doctor take the options from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import BundleError
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.resources import core_count
from zoomrt.runtime.sessions.common.runner_errors import RunnerErrors

_TOO_OLD = ("opset", "ir version", "no op registered", "not a registered", "could not find an implementation")
ERRORS = RunnerErrors("ONNX Runtime", "onnxruntime", _TOO_OLD)
_SILENT = 4  # ONNX Runtime's log level "fatal": what goes wrong is an exception of ours, not a line on stderr
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def bare_options(threads: int | None = None, runtime: Any = None) -> Any:
    """`onnxruntime.SessionOptions` as ONNX Runtime has them by itself, but for its words and, if given, its threads.

    runtime : the module `onnxruntime`; None imports it.
    """
    options = (runtime or import_onnxruntime()).SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def session_options(threads: int | None = None, *, arena: bool = True) -> Any:
    """`onnxruntime.SessionOptions` under which graphs run.

    threads : inside one operator; None means `core_count()`. Operators run one after another.
    arena : whether memory stays with the session for its next run.
    """
    options = bare_options(threads if threads is not None else core_count())
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # 8-bit codes stay what they are in the graph
    return options


def open_graph(graph: Path | bytes, options: Any) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU. Raises what ONNX Runtime raises."""
    source = graph if isinstance(graph, bytes) else str(graph)
    runtime = import_onnxruntime()
    # without a fallback: there is none to a CPU, and ONNX Runtime would print that it tries
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)


class OnnxRuntimeGraph:
    """See `multi_step.Graph`.

    threads : of one operator; None means `core_count()`. keep : whether memory stays for the next call.

    Raises EngineMismatch, BundleError, MissingDependency and OutOfMemory as `OnnxRuntimeSession` does.
    """

    def __init__(self, path: Path, threads: int | None = None, *, keep: bool = True) -> None:
        options = session_options(threads, arena=keep)
        try:
            session = open_graph(path, options)
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            raise ERRORS.of_load(path, cause, import_onnxruntime().__version__, None) from cause
        self._session: Any = session
        self.inputs = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self.outputs = tuple(node.name for node in session.get_outputs())
        types = {node.type for node in [*session.get_inputs(), *session.get_outputs()]}
        if not types <= _DTYPES.keys():
            seen, needed = ", ".join(sorted(types)), " or ".join(_DTYPES)
            remedy = "Build the bundle again with trt-build."
            raise BundleError(f"graph {str(path)!r} does not fit", seen=seen, needed=needed, remedy=remedy)
        self._dtypes = {node.name: _DTYPES[node.type] for node in session.get_inputs()}

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Float32 outputs by name."""
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._dtypes.items()}
        try:
            results = self._session.run(None, given)
        except Exception as cause:
            raise ERRORS.of_run(cause) from cause
        return {name: result.astype(np.float32) for name, result in zip(self.outputs, results, strict=True)}

    def close(self) -> None:
        self._session = None
