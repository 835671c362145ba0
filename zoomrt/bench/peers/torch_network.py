"""torch, eager or compiled: the network that the bundle was built from, in FP32 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoomrt.bench.peers import Job, Opened, session_of
from zoomrt.bundle import Bundle
from zoomrt.errors import UsageError
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import FAMILIES
from zoomrt.models.families import check as check_options
from zoomrt.models.networks.blocks.multi_step import MultiStepNetwork
from zoomrt.models.options import Values


class TorchGraph:
    """A module as a graph of the runtime, see `runtime.sessions.multi_step.Graph`."""

    def __init__(
        self, run: Callable[..., Any], inputs: Mapping[str, tuple[int, ...]], outputs: tuple[str, ...]
    ) -> None:
        self._run, self.outputs, self.inputs = run, outputs, inputs

    def __call__(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            given = (torch.from_numpy(np.ascontiguousarray(values[name], np.float32)) for name in self.inputs)
            results = self._run(*given)
        found = results if isinstance(results, tuple) else (results,)
        return {name: one.numpy() for name, one in zip(self.outputs, found, strict=True)}

    def close(self) -> None:
        """Nothing of its own to let go."""


def graphs_of(network: nn.Module, *, compiled: bool) -> dict[str, TorchGraph]:
    """By the names that the bundle's graphs have."""

    def runner(part: nn.Module) -> Callable[..., Any]:
        return torch.compile(part) if compiled else part

    if not isinstance(network, MultiStepNetwork):
        return {"1": TorchGraph(runner(network), {"image": ()}, ("upscaled_image",))}
    known = {"timestep_embedding": (1, network.features), "hidden_state": (1, network.memory)}
    return {
        name: TorchGraph(runner(part), {one: known.get(one, ()) for one in part.inputs}, part.outputs)
        for name, part in network.components().items()
    }


@contextmanager
def opened(job: Job, *, compiled: bool = False) -> Iterator[Opened]:
    """Raises UsageError and what loading raises."""
    torch.set_num_threads(job.threads)
    job.graphs()  # which says so where peers cannot run the bundle
    graphs = graphs_of(job.network(), compiled=compiled)
    detail = f"torch {torch.__version__} {'compiled' if compiled else 'eager'}, FP32"
    try:
        with session_of(job.bundle, dict(graphs)) as session:
            yield Opened(session, detail)
    finally:
        if compiled:  # what was compiled is held elsewhere
            torch.compiler.reset()


def network_of(bundle: Bundle, weights: Path | None, options: Values) -> nn.Module:
    """See `Job.network`."""
    manifest = bundle.manifest
    what = "cannot run the network in torch"
    if manifest.family not in FAMILIES.names():
        seen, needed = f"family {manifest.family!r}", "a family of trt-build --list"
        raise UsageError(what, seen=seen, needed=needed, remedy="Build the bundle with this version.")
    family = FAMILIES.named(manifest.family)
    file = weights or family.embedded_weights
    if file is None:
        remedy = "Pass --weights, and --base and so on as for trt-build."
        raise UsageError(what, seen="no weights", needed=f"those of {manifest.family}", remedy=remedy)
    checkpoint = load_checkpoint(file)
    wanted = manifest.weights.sha256
    if checkpoint.sha256 != wanted:
        raise UsageError(
            what,
            seen=f"weights {file.name} with sha256 {checkpoint.sha256[:12]}",
            needed=f"those that the bundle was built from, {wanted[:12] or 'which it does not tell'}",
            remedy="Pass that file with --weights.",
        )
    check_options(family, options)
    return family.network(checkpoint, options).eval()
