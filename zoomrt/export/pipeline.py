"""A build from end to end: weights -> network -> graph -> parity -> engine -> bundle, or the same from the cache."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import nn

from zoomrt.bundle import Manifest, TileFacts, open_bundle, writing_bundle
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export import cache
from zoomrt.export.checkpoint import Checkpoint, load_checkpoint
from zoomrt.export.engine import build_engine
from zoomrt.export.families import family_named, family_of
from zoomrt.export.family import Family
from zoomrt.export.graph import export_graph, operator_counts
from zoomrt.export.parity import check_parity
from zoomrt.export.targets import Target, precision_named, target_named

__all__ = ["BuildRequest", "BuildResult", "build"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class BuildRequest:
    """What to build. None means the family's or target's default.

    model : family name; None with weights given lets their keys decide, None without weights is `edge`.
    weights : checkpoint file; None for the weights inside the package.
    tile, overlap : LR pixels.
    batches : tile counts per engine call, ascending from 1; one graph (and engine) each.
    backend : `tensorrt` builds with full TensorRT for the GPU present instead of the target's TensorRT-RTX.
    timeout_s : limit for one engine build, seconds.
    """

    model: str | None = None
    weights: Path | None = None
    precision: str = "fp32"
    target: str = "cpu"
    tile: int | None = None
    overlap: int | None = None
    batches: tuple[int, ...] = (1,)
    backend: str | None = None
    timeout_s: float = 1800.0


@dataclass(frozen=True)
class BuildResult:
    """The bundle's place and manifest; `cached` when it was copied instead of built.

    notes : what went wrong without making the bundle wrong, for the user to read (a cache that cannot be written).
    """

    path: Path
    manifest: Manifest
    cached: bool
    seconds: float
    notes: tuple[str, ...] = ()


def build(
    request: BuildRequest, output: Path, *, use_cache: bool = True, on_progress: Progress | None = None
) -> BuildResult:
    """Build a bundle into `output`, atomically; an older bundle there is replaced only by a whole new one.

    on_progress : called with (stage, fraction done of that stage).

    Raises any ZoomrtError but the runtime's; nothing is left behind then.
    """
    started = time.monotonic()
    report = on_progress or _silent
    target = target_named(request.target)
    precision = precision_named(request.precision, target)
    backend = _backend(request, target)
    report("weights", 0.0)
    family, checkpoint = _family_and_checkpoint(request)
    tile = _tile_facts(request, family, precision)
    versions = _versions(backend)
    key = cache.content_key(
        {
            "model": family.facts.name,
            "weights": checkpoint.sha256,
            "target": target.name,
            "backend": backend,
            "precision": precision,
            "tile": repr(tile),
            "versions": versions,
        }
    )
    if use_cache and (kept := cache.fetch(key)) is not None:
        report("cache", 0.0)
        cache.copy_bundle(kept, output)
        return BuildResult(output, kept.manifest, True, time.monotonic() - started)
    network = family.network(checkpoint)
    with writing_bundle(output) as (scratch, manifests):
        parts = _Parts(network, tile, precision, target, backend, request.timeout_s, int(key[:8], 16), scratch, report)
        for batch in tile.batches:
            parts.add(batch)
        manifests.append(
            Manifest(
                family=family.facts.name,
                target=target.name,
                backend=backend,
                precision=precision,
                tile=tile,
                graphs=parts.graphs,
                engines=parts.engines,
                steps=family.facts.steps,
                seeds={"parity": parts.seed},
                weights=_weight_facts(request, family, checkpoint, network),
                parity=parts.parity,
                engine_report=parts.engine_reports,
                built=parts.built,
                ran=parts.ran,
                warnings=_warnings(backend, precision),
                versions=versions,
                key=key,
            )
        )
        report("write", 0.0)
    bundle = open_bundle(output, verify=False)
    refusal = cache.keep(bundle) if use_cache else None
    notes = (f"not kept in the cache: {refusal}",) if refusal else ()
    return BuildResult(output, bundle.manifest, False, time.monotonic() - started, notes)


def _silent(_stage: str, _fraction: float) -> None:
    """Progress for callers who did not ask for it."""


class _Parts:
    """Graphs and engines of one bundle, one per batch size, with the figures they earned."""

    def __init__(
        self,
        network: nn.Module,
        tile: TileFacts,
        precision: str,
        target: Target,
        backend: str,
        timeout_s: float,
        seed: int,
        scratch: Path,
        report: Progress,
    ) -> None:
        self.network, self.tile, self.precision, self.target, self.backend = network, tile, precision, target, backend
        self.timeout_s, self.seed, self.scratch, self.report = timeout_s, seed, scratch, report
        self.graphs: dict[str, str] = {}
        self.engines: dict[str, str] = {}
        self.parity: dict[str, Any] = {}
        self.engine_reports: dict[str, Any] = {}
        self.built: list[str] = []
        self.ran: list[str] = []

    def add(self, batch: int) -> None:
        name = f"{self.precision}-b{batch}"
        graph = self.scratch / f"{name}.onnx"
        shape = (batch, 3, self.tile.height, self.tile.width)
        self.report("export", 0.0)
        export_graph(self.network, graph, shape=shape, half=self.precision == "fp16", opset=self.target.opset)
        self.graphs[str(batch)] = graph.name
        self.built.append(f"graph {graph.name}")
        self.report("parity", 0.0)
        figures = check_parity(
            self.network,
            graph,
            shape=shape,
            value_range=self.tile.value_range,
            precision=self.precision,
            seed=self.seed,
        )
        self.parity[str(batch)] = {**figures, "operators": operator_counts(graph), "opset": self.target.opset}
        self.ran.append(f"graph {graph.name} in onnxruntime on CPU")
        if self.backend != "onnxruntime":
            engine = self.scratch / f"{name}.engine"
            self.report("engine", 0.0)
            summary = build_engine(
                graph,
                engine,
                backend=self.backend,
                compute_capabilities=self.target.compute_capabilities,
                precision=self.precision,
                timeout_s=self.timeout_s,
                on_progress=lambda stage, fraction: self.report(f"engine: {stage}", fraction),
            )
            self.engines[str(batch)] = engine.name
            self.engine_reports[str(batch)] = summary.to_json()
            self.built.append(f"engine {engine.name}")


def _family_and_checkpoint(request: BuildRequest) -> tuple[Family, Checkpoint]:
    if request.weights is not None:
        family = family_named(request.model) if request.model else None
        checkpoint = load_checkpoint(request.weights)
        return family or family_of(checkpoint), checkpoint
    family = family_named(request.model or "edge")
    if family.facts.embedded_weights is None:
        raise CheckpointError(
            f"model {family.facts.name} has no weights inside the package",
            seen="no --weights",
            needed="the file its authors publish",
            remedy=f"Download it and pass --weights FILE; docs/models.md says where {family.facts.name} is published.",
        )
    return family, load_checkpoint(family.facts.embedded_weights)


def _backend(request: BuildRequest, target: Target) -> str:
    if request.backend in (None, target.backend):
        return target.backend
    if request.backend == "tensorrt" and target.backend == "tensorrt_rtx":
        return "tensorrt"
    raise UsageError(
        f"target {target.name} cannot be built with that backend",
        seen=repr(request.backend),
        needed=f"{target.backend}" + (" or tensorrt" if target.backend == "tensorrt_rtx" else ""),
        remedy="Leave --backend out to use the target's own.",
    )


def _tile_facts(request: BuildRequest, family: Family, precision: str) -> TileFacts:
    facts = family.facts
    side = request.tile if request.tile is not None else facts.tiling.tile
    facts.size.check(side)
    overlap = request.overlap if request.overlap is not None else min(facts.tiling.overlap, side // 2)
    context = min(facts.tiling.context, (overlap - 1) // 2)
    if not 1 <= overlap <= side // 2:
        raise UsageError(
            "the overlap does not fit the tile",
            seen=f"{overlap} LR pixels with tile {side}",
            needed=f"1 to {side // 2}",
            remedy="Use a smaller --overlap or a larger --tile.",
        )
    batches = request.batches
    if not batches or batches[0] != 1 or list(batches) != sorted(set(batches)):
        raise UsageError(
            "the batch sizes are not usable",
            seen=",".join(map(str, batches)) or "none",
            needed="ascending sizes that start with 1",
            remedy="Use --batch 1 or, for example, --batch 1,4.",
        )
    return TileFacts(
        scale=facts.scale,
        height=side,
        width=side,
        batches=batches,
        overlap=overlap,
        context=context,
        value_range=facts.value_range,
        dtype="float16" if precision == "fp16" else "float32",
        colour=facts.colour,
    )


def _weight_facts(
    request: BuildRequest, family: Family, checkpoint: Checkpoint, network: nn.Module
) -> dict[str, object]:
    return {
        "source": "embedded" if request.weights is None else checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": family.facts.weights_licence,
    }


def _versions(backend: str) -> dict[str, str]:
    packages = ["zoomrt", "torch", "onnx", "onnxscript", "onnxruntime"]
    if backend != "onnxruntime":
        packages.append(backend)
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _warnings(backend: str, precision: str) -> list[str]:
    notes = []
    if backend == "onnxruntime" and precision == "fp16":
        notes.append("ONNX Runtime computes FP16 graphs in FP32 on a CPU: smaller file, not faster")
    if backend != "onnxruntime":
        notes.append("the engine was built here for another machine and was not run")
    return notes
