"""The peers: other ways to run the same network, each an optional package behind one small adapter.

An adapter opens graphs (or parts of a torch network); `session_of` makes an engine of them, so that a peer goes through
the very runtime that the bundle's own engine goes through. A new peer is one file here and one row in PEERS.
Light: the command line reads the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoomrt.bundle import Bundle
from zoomrt.models.options import Values

if TYPE_CHECKING:
    from torch import nn

    from zoomrt.runtime.session import Session
    from zoomrt.runtime.sessions.common.multi_step import Graph


@dataclass(frozen=True)
class Job:
    """What a peer runs.

    weights, options : the network's files and options, as for trt-build; the package's own weights if None.
    baseline : weights of Real-ESRGAN; random ones if None.
    """

    bundle: Bundle
    threads: int
    weights: Path | None = None
    options: Values = field(default_factory=dict)
    baseline: Path | None = None

    def network(self) -> nn.Module:
        """The bundle's network in torch FP32, loaded anew, so that loading is part of what a peer costs.

        Raises UsageError where its weights are not at hand or are not those that the bundle was built from, and what
        loading raises.
        """
        from zoomrt.bench.peers.torch_network import network_of

        return network_of(self.bundle, self.weights, self.options)

    def graphs(self) -> dict[str, Path]:
        """Batch 1, or part -> file."""
        manifest = self.bundle.manifest
        parts = list(manifest.graphs) if manifest.sampling is not None else ["1"]
        return {part: self.bundle.graph(part) for part in parts}


@dataclass(frozen=True)
class Opened:
    """A peer at work. detail : what runs, in words. gmac : of one tile, where it is another network than the bundle's.
    psnr_missing : why its pixels are not compared."""

    session: Session
    detail: str
    gmac: float | None = None
    psnr_missing: str = ""
    arithmetic: str = field(default="fp32")


Peer = Callable[[Job], Any]
"""A context manager that yields `Opened`. Raises MissingDependency, or whatever the peer raises."""


def session_of(bundle: Bundle, graphs: dict[str, Graph]) -> Session:
    """graphs : by the keys of `Job.graphs`; closed with the session where there are several."""
    from zoomrt.bench.workload import RunSession
    from zoomrt.runtime.sessions.common.multi_step import MultiStepSession

    tile, sampling = bundle.manifest.tile, bundle.manifest.sampling
    if sampling is not None:
        return MultiStepSession(tile, sampling, graphs)
    graph = graphs["1"]
    (name,) = graph.inputs
    return RunSession(tile, lambda batch: next(iter(graph({name: batch}).values())))


@contextmanager
def _lazily(module: str, job: Job, **options: object) -> Iterator[Opened]:
    with import_module(f"{__name__}.{module}").opened(job, **options) as found:
        yield found


PEERS: dict[str, Peer] = {
    "torch": partial(_lazily, "torch_network"),
    "compile": partial(_lazily, "torch_network", compiled=True),
    "onnxruntime": partial(_lazily, "onnxruntime_default"),
    "openvino": partial(_lazily, "openvino_default"),
    "onnxruntime-cuda": partial(_lazily, "onnxruntime_default", provider="CUDAExecutionProvider"),
    "tensorrt": partial(_lazily, "onnxruntime_default", provider="TensorrtExecutionProvider"),
    "real-esrgan": partial(_lazily, "real_esrgan"),
}
