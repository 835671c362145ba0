"""Another package's backend and precision, as its entry points bring them: the whole of what it takes to add either.

The engine runs a graph node by node in ONNX Runtime without optimisations, so it is slow and true.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from zoomrt.bundle import Bundle
from zoomrt.export.precisions import Precision
from zoomrt.runtime.backends import Backend
from zoomrt.runtime.session import Session


def loaded(graph: Path, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


class ToySession(Session):
    """A session has a batch of tiles done by its engine, and lets go of it."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        super().__init__(bundle.manifest.tile)
        self._engines = {size: loaded(bundle.graph(str(size)), threads) for size in self.tile.batches}

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        engine = self._engines[len(batch)]
        (result,) = engine.run(None, {engine.get_inputs()[0].name: batch.astype(self.tile.dtype)})
        return np.asarray(result)

    def _release(self) -> None:
        self._engines.clear()


BACKEND = Backend(
    name="toy",
    title="Toy Engine",
    device="cpu",
    module="toy_engine",
    package="toy-engine",
    open=ToySession,
    kinds=("fp32", "toy16"),
    check=lambda: "the toy plays",
)

PRECISION = Precision("toy16", "toy16", minimum_psnr_db=38.0, storage="fp16")
