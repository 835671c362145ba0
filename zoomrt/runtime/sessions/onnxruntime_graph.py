"""One ONNX graph with named inputs and outputs in ONNX Runtime on the CPU: a part of a multi-step bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import BundleError
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.sessions.onnxruntime import ERRORS, open_graph, session_options

__all__ = ["OnnxRuntimeGraph"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeGraph:
    """See `multi_step_session.Graph`.

    threads : of one operator; None means `core_count()`. keep : whether memory stays for the next call.

    Raises EngineMismatch, BundleError, MissingDependency and OutOfMemory as `OnnxRuntimeSession` does.
    """

    def __init__(self, path: Path, threads: int | None = None, *, keep: bool = True) -> None:
        options = session_options(threads=threads, arena=keep)
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
