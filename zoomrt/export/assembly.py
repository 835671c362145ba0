"""Assembles one bundle: weights -> network -> graph -> parity -> engine, and the figures each step earned."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import msgspec
from torch import nn

from zoomrt.bundle import ColourMethod, Manifest, TileFacts, writing_bundle
from zoomrt.bundle.records import WeightFacts
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export.engines.kernel_files import without_kernels, write_kernels
from zoomrt.export.forms.one_graph import EMULATED_SIDE, EightBitParts, Parts
from zoomrt.export.forms.several_steps import MultiStepParts
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.memory.plan import check_budget, check_files, memory_table, plan_memory
from zoomrt.export.precisions import PRECISIONS, Precision
from zoomrt.export.request import DEFAULT_MODEL, BuildRequest, Progress
from zoomrt.export.targets import Target
from zoomrt.export.verify.sample_tiles import probe_seed
from zoomrt.models.checkpoint import Checkpoint, load_checkpoint
from zoomrt.models.families import FAMILIES, family_of, options_of
from zoomrt.models.families import check as check_options
from zoomrt.models.family import Family
from zoomrt.models.networks.blocks.multi_step import MultiStepNetwork
from zoomrt.models.options import stored_bytes
from zoomrt.runtime.backends import BACKENDS, Backend

__all__ = ["assemble"]


def assemble(
    request: BuildRequest,
    target: Target,
    backend: str,
    versions: dict[str, str],
    key: str,
    output: Path,
    report: Progress,
    kept: Path | None,
) -> None:
    """Write the bundle of a checked request. `versions` and `key` go into the manifest as they are.

    kept : folder for what calibration measures, to go on from when the build is stopped; None keeps nothing.
    """
    stored = stored_bytes(request.weights, options_of(request.family), request.options)
    check_files(stored, request.max_memory)
    report("weights", 0.0)
    facts, tile, network, weights = _load(request, backend)
    precision, kind = PRECISIONS.named(request.precision), _kind_of_parts(request, network)
    probe = facts.size.largest_within(min(EMULATED_SIDE, tile.height))
    plan = plan_memory(network, tile, probe=probe, precision=precision, backend=BACKENDS.named(backend), stored=stored)
    report("\n".join(memory_table(plan)), 0.0)
    check_budget(plan, request.max_memory)
    with writing_bundle(output) as (scratch, manifests):
        parts = kind(request, target, backend, facts, tile, probe_seed(facts.name), scratch, report, kept)
        sampling = network.sampling if isinstance(network, MultiStepNetwork) else None
        parts.export(network)
        suspect = network if request.bisect else None
        del network
        return_freed_memory()
        parts.finish(suspect)
        kernels = write_kernels(target, tile, scratch, report)
        manifests.append(
            Manifest(
                family=facts.name,
                target=target.name,
                backend=parts.backend,
                precision=request.precision,
                arithmetic=parts.arithmetic,
                tile=tile,
                graphs=parts.graphs,
                sampling=sampling,
                engines=parts.engines,
                steps=len(sampling.evaluations) if sampling else facts.steps,
                seeds=parts.seeds,
                weights=weights,
                parity=parts.parity,
                numerics=parts.numerics,
                calibration=parts.calibration,
                memory=plan,
                speed=parts.speed,
                engine_report=parts.engine_reports,
                kernels=kernels,
                built=parts.built,
                ran=parts.ran,
                warnings=[
                    *facts.warnings,
                    *_warnings(BACKENDS.named(parts.backend), precision),
                    *parts.warnings,
                    *without_kernels(target, kernels),
                ],
                versions=versions,
                key=key,
            )
        )
        report("write", 0.0)


def _kind_of_parts(request: BuildRequest, network: nn.Module) -> type[Parts]:
    if isinstance(network, MultiStepNetwork):
        return MultiStepParts
    return EightBitParts if PRECISIONS.named(request.precision).eight_bit else Parts


def _load(request: BuildRequest, backend: str) -> tuple[Family, TileFacts, nn.Module, WeightFacts]:
    """Everything checked, and the network in FP32; the checkpoint itself is let go."""
    family, checkpoint = _family_and_checkpoint(request)
    check_options(family, request.options)
    facts = family.fitted(checkpoint)
    if facts.steps > 1:
        _check_multi_step(request, facts, BACKENDS.named(backend))
    tile = _tile_facts(request, facts, backend)
    network = facts.network(checkpoint, request.options)
    if isinstance(network, MultiStepNetwork):
        tile = msgspec.structs.replace(tile, noise=network.noise)
    return facts, tile, network, _weight_facts(request, facts, checkpoint, network)


def _check_multi_step(request: BuildRequest, facts: Family, backend: Backend) -> None:
    """UsageError for what only models of one graph have."""
    if request.target != "cpu" and not backend.several_graphs:
        raise UsageError(
            f"model {facts.name} takes several steps and cannot be built for target {request.target}",
            seen="several graphs for each tile",
            needed=f"one graph: the session for {backend.title} takes no more",
            remedy="Build it with --target cpu.",
        )
    refused = {
        f"--precision {request.precision}": PRECISIONS.named(request.precision).narrow,
        f"--backend {request.backend}": request.backend is not None and not backend.several_graphs,
        "--bisect": request.bisect,
        f"--batch {','.join(map(str, request.batches))}": request.batches != (1,),
    }
    for option, given in refused.items():
        if given:
            raise UsageError(
                f"model {facts.name} takes several steps and cannot be built like that",
                seen=option,
                needed="--precision fp32 or fp16, one tile at a time",
                remedy=f"Leave {option.split()[0]} out.",
            )


def _family_and_checkpoint(request: BuildRequest) -> tuple[Family, Checkpoint]:
    if request.weights is not None:
        family = FAMILIES.named(request.model) if request.model else None
        checkpoint = load_checkpoint(request.weights)
        return family or family_of(checkpoint), checkpoint
    family = FAMILIES.named(request.model or DEFAULT_MODEL)
    if family.embedded_weights is None:
        raise CheckpointError(
            f"model {family.name} has no weights inside the package",
            seen="no --weights",
            needed="the file its authors publish",
            remedy=f"Download it and pass --weights FILE; docs/models/{family.name}.md says from where.",
        )
    return family, load_checkpoint(family.embedded_weights)


def _tile_facts(request: BuildRequest, facts: Family, backend: str) -> TileFacts:
    tiling = facts.tiling
    side = request.tile if request.tile is not None else tiling.tile
    facts.size.check(side)
    overlap = request.overlap if request.overlap is not None else min(tiling.overlap, side // 2)
    context = min(tiling.context, (overlap - 1) // 2)
    if not 1 <= overlap <= side // 2:
        raise UsageError(
            "the overlap does not fit the tile",
            seen=f"{overlap} LR pixels with tile {side}",
            needed=f"1 to {side // 2}",
            remedy="Use a smaller --overlap or a larger --tile.",
        )
    storage = PRECISIONS.named(request.precision).storage_on(BACKENDS.named(backend).device)
    batches = request.batches
    if not batches or batches[0] != 1 or list(batches) != sorted(set(batches)):
        raise UsageError(
            "the batch sizes are not usable",
            seen=",".join(map(str, batches)) or "none",
            needed="ascending sizes that start with 1",
            remedy="Use --batch 1 or, for example, --batch 1,4.",
        )
    colour = facts.colour
    if request.colour is not None:
        colour = msgspec.structs.replace(colour, method=cast("ColourMethod", request.colour))
    return TileFacts(
        scale=facts.scale,
        height=side,
        width=side,
        batches=batches,
        overlap=overlap,
        context=context,
        value_range=facts.value_range,
        dtype="float16" if storage == "fp16" else "float32",
        colour=colour,
        noise=facts.noise,
    )


def _weight_facts(request: BuildRequest, facts: Family, checkpoint: Checkpoint, network: nn.Module) -> WeightFacts:
    return WeightFacts(
        source="embedded" if request.weights is None else checkpoint.path.name,
        sha256=checkpoint.sha256,
        parameters=sum(p.numel() for p in network.parameters()),
        licence=facts.weights_licence,
        options=request.options_by_content,
    )


def _warnings(backend: Backend, precision: Precision) -> list[str]:
    if backend.compiles:
        return ["the engine was built here for another machine and was not run"]
    if backend.device != "cpu":
        return ["the graphs were checked in ONNX Runtime on a CPU and were not run on a GPU"]
    if precision.kind not in backend.widens:
        return []
    what = "these 8-bit layers" if precision.eight_bit else f"{precision.kind.upper()} graphs"
    return [f"{backend.title} computes {what} in FP32 on a CPU: smaller file, not faster"]
