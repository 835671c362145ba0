"""Makes one bundle of a plan: load -> prepare precision -> export graphs -> prove -> compile -> write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
from torch import nn

from zoomrt.bundle import Manifest, writing_bundle
from zoomrt.bundle.records import WeightFacts
from zoomrt.export.engines.kernel_files import without_kernels, write_kernels
from zoomrt.export.forms import eight_bit, one_graph, several_steps
from zoomrt.export.forms.engines import compile_engines
from zoomrt.export.forms.values import Engines, Form, Graphs, Job, Loaded, Prepared, Proof
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.memory.plan import check_budget, check_files, memory_table, plan_memory
from zoomrt.export.precisions import Precision
from zoomrt.export.request import BuildPlan, Progress, check_steps, tile_facts
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import check as check_options
from zoomrt.models.families import family_of, options_of
from zoomrt.models.networks.blocks.multi_step import MultiStepNetwork
from zoomrt.models.options import stored_bytes
from zoomrt.runtime.backends import BACKENDS, Backend

ONE_GRAPH = Form(one_graph.prepare, one_graph.export, one_graph.prove, compile_engines)
EIGHT_BIT = ONE_GRAPH._replace(prepare=eight_bit.prepare)
SEVERAL_STEPS = Form(several_steps.prepare, several_steps.export, several_steps.prove, compile_engines)


def assemble(plan: BuildPlan, key: str, output: Path, report: Progress, measurements: Path | None) -> None:
    """Write the bundle of a plan under its content key.

    measurements : folder for what calibration measures, to go on from when the build is stopped; None keeps nothing.
    """
    loaded, network = _load(plan, report)
    form = SEVERAL_STEPS if loaded.sampling else EIGHT_BIT if plan.precision.eight_bit else ONE_GRAPH
    with writing_bundle(output) as (folder, manifests):
        job = Job(plan, loaded, folder, report, measurements)
        prepared = form.prepare(job, network)
        graphs = form.export(job, network, prepared)
        suspect = network if plan.request.bisect else None
        del network  # what follows needs its memory
        return_freed_memory()
        proof = form.prove(job, prepared, suspect)
        engines = form.compile(job, graphs)
        kernels = write_kernels(plan.target, loaded.tile, folder, report)
        manifest = _manifest(job, prepared, graphs, proof, engines)
        warnings = [*manifest.warnings, *without_kernels(plan.target, kernels)]
        manifests.append(msgspec.structs.replace(manifest, kernels=kernels, key=key, warnings=warnings))
        report("write", 0.0)


def _load(plan: BuildPlan, report: Progress) -> tuple[Loaded, nn.Module]:
    """The network in FP32, and everything checked that the checkpoint tells; the checkpoint itself is let go."""
    request = plan.request
    stored = stored_bytes(request.weights, options_of(plan.family), request.options)
    check_files(stored, request.max_memory)
    report("weights", 0.0)
    checkpoint = load_checkpoint(plan.weights)
    family = plan.family or family_of(checkpoint)
    check_options(family, request.options)
    facts = family.fitted(checkpoint)
    check_steps(plan, facts)
    tile = tile_facts(plan, facts)
    network = facts.network(checkpoint, request.options)
    sampling = None
    if isinstance(network, MultiStepNetwork):
        sampling, tile = network.sampling, msgspec.structs.replace(tile, noise=network.noise)
    weights = WeightFacts(
        source="embedded" if request.weights is None else checkpoint.path.name,
        sha256=checkpoint.sha256,
        parameters=sum(p.numel() for p in network.parameters()),
        licence=facts.weights_licence,
        options=request.options_by_content,
    )
    probe = one_graph.emulated_side(facts, tile)
    memory = plan_memory(network, tile, probe=probe, precision=plan.precision, backend=plan.backend, stored=stored)
    report("\n".join(memory_table(memory)), 0.0)
    check_budget(memory, request.max_memory)
    return Loaded(facts, tile, weights, sampling, memory), network


def _manifest(job: Job, prepared: Prepared, graphs: Graphs, proof: Proof, engines: Engines) -> Manifest:
    """What every stage found out; `kernels` and `key` are missing."""
    plan, loaded = job.plan, job.loaded
    numerics, calibration = prepared.numerics, prepared.calibration
    if numerics is not None:
        numerics = msgspec.structs.replace(numerics, fp32_nodes=graphs.fp32_nodes)
    if calibration is not None:
        calibration = msgspec.structs.replace(calibration, against_fp16=engines.against_fp16)
    compared = [(graphs.files[name], one.runner) for name, part in proof.parity.items() for one in part.results]
    ran = dict.fromkeys(f"graph {file} in {runner} on CPU" for file, runner in compared)
    built = [("graph", file) for file in graphs.files.values()] + [("engine", file) for file in engines.files.values()]
    return Manifest(
        family=loaded.facts.name,
        target=plan.target.name,
        backend=proof.backend,
        precision=plan.precision.name,
        arithmetic=proof.arithmetic,
        tile=loaded.tile,
        graphs=graphs.files,
        sampling=loaded.sampling,
        engines=engines.files,
        steps=len(loaded.sampling.evaluations) if loaded.sampling else loaded.facts.steps,
        seeds={"parity": job.seed, **prepared.seeds},
        weights=loaded.weights,
        parity=proof.parity,
        numerics=numerics,
        calibration=calibration,
        memory=loaded.memory,
        speed=proof.speed,
        engine_report=engines.reports,
        built=[f"{kind} {file}" for kind, file in built],
        ran=[*prepared.ran, *ran],
        warnings=[
            *loaded.facts.warnings,
            *_about_the_backend(BACKENDS.named(proof.backend), plan.precision),
            *prepared.warnings,
            *proof.warnings,
            *engines.warnings,
        ],
        versions=plan.versions,
    )


def _about_the_backend(backend: Backend, precision: Precision) -> Iterator[str]:
    """What whoever runs the bundle should know of it."""
    if backend.compiles:
        yield "the engine was built here for another machine and was not run"
    elif backend.device != "cpu":
        yield "the graphs were checked in ONNX Runtime on a CPU and were not run on a GPU"
    elif precision.kind in backend.widens:
        what = "these 8-bit layers" if precision.eight_bit else f"{precision.kind.upper()} graphs"
        yield f"{backend.title} computes {what} in FP32 on a CPU: smaller file, not faster"
