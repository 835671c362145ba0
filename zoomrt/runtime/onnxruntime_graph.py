"""One ONNX graph with named inputs and outputs in ONNX Runtime on the CPU: a part of a multi-step bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import MissingDependency
from zoomrt.runtime.onnxruntime_session import ERRORS, core_count

__all__ = ["OnnxRuntimeGraph"]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeGraph:
    """See `multi_step_session.Graph`.

    threads : of one operator; None means `core_count()`. keep : whether memory stays for the next call.

    Raises EngineMismatch, BundleError, MissingDependency and OutOfMemory as `OnnxRuntimeSession` does.
    """

    def __init__(self, path: Path, threads: int | None = None, *, keep: bool = True) -> None:
        try:
            import onnxruntime
        except ImportError as cause:
            needed, remedy = "onnxruntime 1.23 or newer", "Run: pip install 'onnxruntime>=1.23'"
            raise MissingDependency("cannot import ONNX Runtime", seen=cause, needed=needed, remedy=remedy) from cause
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads if threads is not None else core_count()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is an exception of ours, not a line on stderr
        options.enable_cpu_mem_arena = keep
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as cause:  # ONNX Runtime's exceptions have no common base below Exception
            raise ERRORS.of_load(path, cause, onnxruntime.__version__, None) from cause
        self._session: Any = session
        self.inputs = {node.name: tuple(node.shape) for node in session.get_inputs()}
        self._dtypes = {node.name: _DTYPES[node.type] for node in session.get_inputs()}
        self._outputs = [node.name for node in session.get_outputs()]

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Float32 outputs by name."""
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._dtypes.items()}
        try:
            results = self._session.run(None, given)
        except Exception as cause:
            raise ERRORS.of_run(cause) from cause
        return {name: result.astype(np.float32) for name, result in zip(self._outputs, results, strict=True)}

    def close(self) -> None:
        self._session = None
