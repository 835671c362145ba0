"""Models of several steps: a graph, and an engine, for each part, proved by itself on what torch fed it.

Parts are compared one by one, with torch's own values as their input: a sampler would blow up what rounding changes,
and a codebook would turn it into other codes, neither of which says anything about a graph. The policy is compared,
too, but stays FP32 and runs on the CPU everywhere: it is tiny, and its result is a yes or no.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoomrt.bundle.records import Fp16Report, Parity, RescaledStream
from zoomrt.errors import ExportError
from zoomrt.export.forms.one_graph import emulated, emulated_side, graph_parity
from zoomrt.export.forms.values import Graphs, Job, Prepared, Proof
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.graph.to_onnx import export_named, fp32_nodes
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.recording import watched
from zoomrt.export.verify.parity import compare
from zoomrt.export.verify.sample_tiles import extreme_tiles, half_photograph_half_noise
from zoomrt.models.half import to_half
from zoomrt.models.networks.blocks.multi_step import Component, Denoising, MultiStepNetwork
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph

Values = dict[str, NDArray[np.float32]]


@dataclass
class PartReference:
    """One part's names, shapes of its inputs, and what torch makes of them: (probe, inputs, outputs)."""

    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    runs: list[tuple[str, Values, Values]] = field(default_factory=list)


def prepare(job: Job, network: nn.Module) -> Prepared:
    """What torch makes of a tile in FP32, part by part; then, for FP16, the parts in FP16, proved by emulation."""
    assert isinstance(network, MultiStepNetwork)
    job.report("reference", 0.0)
    references = _references(job, network)
    if not job.plan.half:
        return Prepared(references)
    job.report("fp16", 0.0)
    numerics = _make_safe(job, network, references["encode"].runs[0][1]["image"])
    return Prepared(references, numerics, ran=(f"parts {emulated(job)}",))


@torch.no_grad()
def _references(job: Job, network: MultiStepNetwork) -> dict[str, PartReference]:
    """Every part on a tile that is half photograph, half noise; the step at the first, a middle and the last
    evaluation."""
    shape = (1, 3, job.tile.height, job.tile.width)
    random = np.random.default_rng(job.seed)
    lr = _rounded(job, torch.from_numpy(half_photograph_half_noise(shape, job.tile.value_range, job.seed)))
    found: dict[str, PartReference] = {}

    def run(name: str, part: Component, values: dict[str, Tensor], probe: str) -> dict[str, Tensor]:
        given = {key: _rounded(job, values[key]) if name != "policy" else values[key] for key in part.inputs}
        results = part.named(given)
        kept = found.setdefault(name, PartReference({k: tuple(v.shape) for k, v in given.items()}, part.outputs))
        before, after = ({key: tensor.numpy() for key, tensor in side.items()} for side in (given, results))
        kept.runs.append((probe, before, after))
        return results

    encoded = run("encode", network.encode, {"image": lr}, "photograph and noise")
    last = len(network.levels) - 1
    for index in sorted({0, last // 2, last}):
        state = network.sample_at(index, lr, encoded, random)
        values = {"image": lr, "sample": state, "timestep_embedding": network.timestep_embedding(index), **encoded}
        probe = f"evaluation {index + 1} of {last + 1}"
        model_output = run("step", network.step, values, probe)["model_output"]
        if network.decode is not None:
            run("decode", network.decode, {"sample": model_output}, probe)
        if network.policy is not None:
            memory = torch.from_numpy(random.standard_normal((1, network.memory)).astype(np.float32))
            run("policy", network.policy, {**values, "hidden_state": memory, "prev_sample": model_output}, probe)
    return_freed_memory()
    return found


def _rounded(job: Job, values: Tensor) -> Tensor:
    return values.half().float() if job.plan.half else values


def _make_safe(job: Job, network: MultiStepNetwork, lr: NDArray[np.float32]) -> Fp16Report:
    """FP16 for the encoder and the step together, and for the decoder, each from values of its own: after a
    codebook an error of the step is another code, which emulation would count as an error of the decoder.

    lr : a whole tile, for ranges.
    """
    denoising = Denoising(network)
    tiles, states = _packed(job, network, denoising)
    seen, seen_by_decoder = _whole_tile(job, network, denoising, torch.from_numpy(lr))
    needed = job.plan.precision.minimum_psnr_db
    reports = [make_fp16_safe(denoising, tiles, job.tile.value_range, [seen], needed)]
    if network.decode is not None:
        reports.append(make_fp16_safe(network.decode, states, job.tile.value_range, [seen_by_decoder], needed))
    return _together(reports)


@torch.no_grad()
def _packed(job: Job, network: MultiStepNetwork, denoising: Denoising) -> tuple[Values, Values]:
    """The extreme tiles, each at another evaluation, and what the decoder is given for them."""
    random = np.random.default_rng(job.seed + 1)
    pictures = extreme_tiles(emulated_side(job.facts, job.tile), job.tile.value_range, job.seed)
    indices = np.linspace(0, len(network.levels) - 1, len(pictures)).round().astype(int)
    packed, states = {}, {}
    for (name, picture), index in zip(pictures.items(), indices.tolist(), strict=True):
        lr = torch.from_numpy(picture)
        state = network.sample_at(index, lr, network.encode.named({"image": lr}), random)
        tile = denoising.pack(lr, state, network.timestep_embedding(index))
        key = f"{name} at evaluation {index + 1}"
        packed[key] = tile.numpy()
        # rounded here already, or a codebook would see another latent than under emulation
        states[key] = _rounded(job, denoising(tile)[:, : network.sampling.channels].contiguous()).numpy()
    return packed, states


@torch.no_grad()
def _whole_tile(job: Job, network: MultiStepNetwork, denoising: Denoising, lr: Tensor) -> tuple[Ranges, Ranges]:
    """Ranges of a tile as large as the bundle's: of encoder and step, and of the decoder."""
    index = (len(network.levels) - 1) // 2
    encoded = network.encode.named({"image": lr})
    state = network.sample_at(index, lr, encoded, np.random.default_rng(job.seed + 2))
    ranges, of_decoder = Ranges(), Ranges()
    model_output = watched(denoising, denoising.pack(lr, state, network.timestep_embedding(index)), ranges)
    if network.decode is not None:
        watched(network.decode, model_output[:, : network.sampling.channels].contiguous(), of_decoder)
    return ranges, of_decoder


def _together(reports: list[Fp16Report]) -> Fp16Report:
    """Encoder and step, then decoder."""
    largest: dict[str, float] = {}
    rescaled: list[RescaledStream] = []
    kept: list[str] = []
    results: list[Parity] = []
    for prefix, one in zip(("", "decode: "), reports, strict=False):
        largest |= {prefix + name: value for name, value in one.largest.items()}
        rescaled += one.rescaled
        kept += [prefix + name for name in one.kept_fp32]
        results += one.results
    return Fp16Report(largest=largest, rescaled=tuple(rescaled), kept_fp32=tuple(kept), results=tuple(results))


def export(job: Job, network: nn.Module, prepared: Prepared) -> Graphs:
    """One graph for each part."""
    assert isinstance(network, MultiStepNetwork)
    files, wide = {}, list[str]()
    for name, part in network.components().items():
        job.report(f"export: {name}", 0.0)
        wanted: PartReference = prepared.references[name]
        half = _half(job, name)
        if half:
            to_half(part)  # a part without weights has not been turned yet
        export_named(
            part,
            graph := job.graph(name),
            wanted.shapes,
            wanted.outputs,
            half=half,
            opset=job.plan.target.opset,
            group_norm="node" if job.plan.backend.compiles else "instance",
        )
        files[name] = graph.name
        wide += fp32_nodes(graph) if half else ()
    return Graphs(files, tuple(dict.fromkeys(wide)))


def _half(job: Job, name: str) -> bool:
    return job.plan.half and name != "policy"


def prove(job: Job, prepared: Prepared, suspect: nn.Module | None) -> Proof:  # noqa: ARG001 - refused for these models
    """Compare every part with torch. Raises ExportError."""
    parity = {}
    for name, wanted in prepared.references.items():
        job.report(f"parity: {name}", 0.0)
        parity[name] = graph_parity(job, name, _compared(job, name, wanted))
    return Proof(parity, job.plan.backend.name)


def _compared(job: Job, name: str, wanted: PartReference) -> list[Parity]:
    graph = OnnxRuntimeGraph(job.graph(name))
    needed = (PRECISIONS.named("fp32") if name == "policy" else job.plan.precision).minimum_psnr_db
    results = []
    for probe, given, outputs in wanted.runs:
        got = graph(given)
        results += [_close(f"{output}, {probe}", outputs[output], got[output], needed) for output in wanted.outputs]
    graph.close()
    return results


def _close(what: str, wanted: NDArray[np.float32], got: NDArray[np.float32], needed: float) -> Parity:
    """Relative to the values' own range, which need not be the picture's. Raises ExportError."""
    peak = max(float(np.ptp(wanted)), float(np.abs(wanted).max()))
    result = compare(wanted, got, what, "onnxruntime", peak, needed)
    if result.psnr_db < needed:
        raise ExportError(
            f"a graph does not match torch FP32 in {what}",
            seen=f"PSNR {result.psnr_db:.1f} dB, worst difference {result.max_abs:.3g} (onnxruntime)",
            needed=f"{needed:.0f} dB",
            remedy="Build with --precision fp32, and report this model.",
        )
    return result
