"""ONNX Runtime out of the box: the bundle's graph with default options, on the CPU or by a provider for GPUs.

Only the number of threads is set, to that of the run. CUDA and TensorRT are ONNX Runtime's execution providers; without
onnxruntime-gpu and a GPU they are not there, and ONNX Runtime would take the CPU without a word, so that is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bench.peers import Job, Opened, session_of
from zoomrt.errors import MissingDependency
from zoomrt.runtime.quiet import import_onnxruntime
from zoomrt.runtime.sessions.common.multi_step import Graph
from zoomrt.runtime.sessions.common.onnxruntime_graph import bare_options

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class DefaultGraph:
    """One graph, see `runtime.sessions.multi_step.Graph`."""

    def __init__(self, path: Path, threads: int, provider: str, optimise: bool) -> None:
        onnxruntime, options = import_onnxruntime(), bare_options(threads)
        if not optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        if provider not in self._session.get_providers():
            raise RuntimeError(f"{provider} cannot start here: no GPU, no driver or no CUDA libraries")
        self.inputs = {node.name: tuple(node.shape) for node in self._session.get_inputs()}
        self._dtypes = {node.name: _DTYPES[node.type] for node in self._session.get_inputs()}
        self.outputs = tuple(node.name for node in self._session.get_outputs())

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._dtypes.items()}
        return dict(zip(self.outputs, self._session.run(None, given), strict=True))

    def close(self) -> None:
        self._session = None


@contextmanager
def opened(job: Job, *, provider: str = "CPUExecutionProvider", optimise: bool = True) -> Iterator[Opened]:
    """optimise : False runs the graph as it is written, as a reference.

    Raises MissingDependency where this ONNX Runtime lacks the provider, and what ONNX Runtime raises."""
    onnxruntime = import_onnxruntime()
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise MissingDependency(
            f"ONNX Runtime has no {provider}",
            seen=", ".join(available),
            needed="an NVIDIA GPU and onnxruntime-gpu",
            remedy="Install onnxruntime-gpu instead of onnxruntime on a machine with a GPU.",
        )
    graphs: dict[str, Graph] = {
        part: DefaultGraph(path, job.threads, provider, optimise) for part, path in job.graphs().items()
    }
    where = provider.removesuffix("ExecutionProvider")
    detail = f"onnxruntime {onnxruntime.__version__} {where}, default options, the bundle's graph"
    with session_of(job.bundle, graphs) as session:
        yield Opened(session, detail)
