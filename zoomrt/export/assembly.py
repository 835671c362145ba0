"""Assembles one bundle: weights -> network -> graph -> parity -> engine, and the figures each step earned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from zoomrt.bundle import Manifest, TileFacts, writing_bundle
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export.checkpoint import Checkpoint, load_checkpoint
from zoomrt.export.engine import build_engine
from zoomrt.export.families import family_named, family_of
from zoomrt.export.family import Family, FamilyFacts
from zoomrt.export.graph import export_graph, operator_counts
from zoomrt.export.parity import check_parity
from zoomrt.export.pipeline import DEFAULT_MODEL, BuildRequest, Progress
from zoomrt.export.targets import Target

__all__ = ["assemble"]


def assemble(
    request: BuildRequest,
    target: Target,
    backend: str,
    versions: dict[str, str],
    key: str,
    output: Path,
    report: Progress,
) -> None:
    """Write the bundle of a checked request. `versions` and `key` go into the manifest as they are."""
    report("weights", 0.0)
    family, checkpoint = _family_and_checkpoint(request)
    facts = family.facts_of(checkpoint)
    request.sources.check(facts.name, facts.takes)
    tile = _tile_facts(request, facts)
    network = family.network(checkpoint, request.sources)
    with writing_bundle(output) as (scratch, manifests):
        parts = _Parts(request, target, backend, tile, network, facts.parity_loss_db, int(key[:8], 16), scratch, report)
        for batch in tile.batches:
            parts.add(batch)
        manifests.append(
            Manifest(
                family=facts.name,
                target=target.name,
                backend=backend,
                precision=request.precision,
                tile=tile,
                graphs=parts.graphs,
                engines=parts.engines,
                steps=facts.steps,
                seeds={"parity": parts.seed},
                weights=_weight_facts(request, facts, checkpoint, network),
                parity=parts.parity,
                engine_report=parts.engine_reports,
                built=parts.built,
                ran=parts.ran,
                warnings=[*facts.warnings, *_warnings(backend, request.precision), *parts.warnings],
                versions=versions,
                key=key,
            )
        )
        report("write", 0.0)


class _Parts:
    """Graphs and engines of one bundle, one per batch size, with the figures they earned."""

    def __init__(
        self,
        request: BuildRequest,
        target: Target,
        backend: str,
        tile: TileFacts,
        network: nn.Module,
        parity_loss_db: float,
        seed: int,
        scratch: Path,
        report: Progress,
    ) -> None:
        self.request, self.target, self.backend, self.tile = request, target, backend, tile
        self.network, self.seed, self.scratch, self.report = network, seed, scratch, report
        self.parity_loss_db = parity_loss_db
        self.graphs: dict[str, str] = {}
        self.engines: dict[str, str] = {}
        self.parity: dict[str, Any] = {}
        self.engine_reports: dict[str, Any] = {}
        self.built: list[str] = []
        self.ran: list[str] = []
        self.warnings: list[str] = []

    def add(self, batch: int) -> None:
        name = f"{self.request.precision}-b{batch}"
        graph = self.scratch / f"{name}.onnx"
        shape = (batch, self.tile.channels, self.tile.height, self.tile.width)
        self.report("export", 0.0)
        export_graph(
            self.network,
            graph,
            shape=shape,
            half=self.request.precision == "fp16",
            opset=self.target.opset,
            instance_norm=self.backend == "onnxruntime",
        )
        self.graphs[str(batch)] = graph.name
        self.built.append(f"graph {graph.name}")
        self.report("parity", 0.0)
        figures = check_parity(
            self.network,
            graph,
            shape=shape,
            value_range=self.tile.value_range,
            precision=self.request.precision,
            seed=self.seed,
            noise=self.tile.noise,
            loss_db=self.parity_loss_db,
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
                precision=self.request.precision,
                timeout_s=self.request.timeout_s,
                on_progress=lambda stage, fraction: self.report(f"engine: {stage}", fraction),
            )
            self.engines[str(batch)] = engine.name
            self.engine_reports[str(batch)] = summary.to_json()
            self.warnings.extend(f"{engine.name}: {warning}" for warning in summary.warnings)
            self.built.append(f"engine {engine.name}")


def _family_and_checkpoint(request: BuildRequest) -> tuple[Family, Checkpoint]:
    if request.weights is not None:
        family = family_named(request.model) if request.model else None
        checkpoint = load_checkpoint(request.weights)
        return family or family_of(checkpoint), checkpoint
    family = family_named(request.model or DEFAULT_MODEL)
    if family.facts.embedded_weights is None:
        raise CheckpointError(
            f"model {family.facts.name} has no weights inside the package",
            seen="no --weights",
            needed="the file its authors publish",
            remedy=f"Download it and pass --weights FILE; docs/models/{family.facts.name}.md says from where.",
        )
    return family, load_checkpoint(family.facts.embedded_weights)


def _tile_facts(request: BuildRequest, facts: FamilyFacts) -> TileFacts:
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
        dtype="float16" if request.precision == "fp16" else "float32",
        colour=facts.colour,
        noise=facts.noise,
    )


def _weight_facts(
    request: BuildRequest, facts: FamilyFacts, checkpoint: Checkpoint, network: nn.Module
) -> dict[str, object]:
    return {
        "source": "embedded" if request.weights is None else checkpoint.path.name,
        "sha256": checkpoint.sha256,
        "parameters": sum(p.numel() for p in network.parameters()),
        "licence": facts.weights_licence,
        **({"sources": request.sources.fingerprint} if request.sources.given() else {}),
    }


def _warnings(backend: str, precision: str) -> list[str]:
    notes = []
    if backend == "onnxruntime" and precision == "fp16":
        notes.append("ONNX Runtime computes FP16 graphs in FP32 on a CPU: smaller file, not faster")
    if backend != "onnxruntime":
        notes.append("the engine was built here for another machine and was not run")
    return notes
