"""OpenVINO out of the box: the bundle's graph on the CPU, in the arithmetic that OpenVINO chooses.

On a processor with BF16 it chooses that for FP32 graphs; the PSNR beside the speed shows what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bench.peers import Job, Opened, session_of
from zoomrt.runtime.quiet import import_openvino
from zoomrt.runtime.sessions.common.multi_step import Graph

_ARITHMETICS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


class DefaultGraph:
    """One graph, see `runtime.sessions.multi_step.Graph`."""

    def __init__(self, openvino: Any, path: Path, threads: int) -> None:
        self._model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_NUM_THREADS": threads})
        self._request = self._model.create_infer_request()
        self.hint = _ARITHMETICS.get(
            self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
            "fp32",
        )
        self.inputs = {node.any_name: tuple(node.shape) for node in self._model.inputs}
        self._dtypes = {node.any_name: node.element_type.to_dtype() for node in self._model.inputs}
        self.outputs = tuple(node.any_name for node in self._model.outputs)

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given = {name: np.ascontiguousarray(values[name], dtype) for name, dtype in self._dtypes.items()}
        results = self._request.infer(given, share_inputs=True, share_outputs=True)
        return {name: results[i] for i, name in enumerate(self.outputs)}

    def close(self) -> None:
        self._request = self._model = None


@contextmanager
def opened(job: Job) -> Iterator[Opened]:
    """Raises MissingDependency, and what OpenVINO raises."""
    openvino = import_openvino()
    opened_graphs = {part: DefaultGraph(openvino, path, job.threads) for part, path in job.graphs().items()}
    graphs: dict[str, Graph] = dict(opened_graphs)
    hint = next(iter(opened_graphs.values())).hint
    eight = job.bundle.manifest.precision.startswith("int8")  # its products are INT8, whatever the rest is
    version = openvino.__version__.split("-")[0]
    with session_of(job.bundle, graphs) as session:
        words = f"computes in int8, the rest in {hint}" if eight else f"computes in {hint}"
        yield Opened(session, f"openvino {version} CPU, default options, {words}", arithmetic="int8" if eight else hint)
