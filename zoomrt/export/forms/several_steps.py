"""The graphs and engines of a multi-step bundle: one for each part, each proved by itself on what torch fed it.

Parts are compared one by one, with torch's own values as their input: a sampler would blow up what rounding changes,
and a codebook would turn it into other codes, neither of which says anything about a graph. The policy is compared,
too, but stays FP32 and runs on the CPU everywhere: it is tiny, and its result is a yes or no.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoomrt.bundle.records import Fp16Report, Parity, RescaledStream
from zoomrt.errors import ExportError
from zoomrt.export.forms.one_graph import EMULATED_SIDE, Parts
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.graph.to_onnx import export_named
from zoomrt.export.heap import return_freed_memory
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.recording import watched
from zoomrt.export.verify.parity import compare
from zoomrt.export.verify.sample_tiles import extreme_tiles, half_photograph_half_noise
from zoomrt.models.half import to_half
from zoomrt.models.networks.blocks.multi_step import Component, Denoising, MultiStepNetwork
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph

__all__ = ["MultiStepParts"]

Values = dict[str, NDArray[np.float32]]


@dataclass
class _Wanted:
    """One part's names, shapes of its inputs, and what it makes of them: (probe, inputs, outputs)."""

    shapes: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    runs: list[tuple[str, Values, Values]] = field(default_factory=list)


class MultiStepParts(Parts):
    """One graph, and one engine, per part; `graphs` and `engines` are keyed by part."""

    def export(self, network: nn.Module) -> None:
        assert isinstance(network, MultiStepNetwork)
        self.report("reference", 0.0)
        self.parts_wanted = self._runs(network)
        if self.half:
            self.report("fp16", 0.0)
            self._make_safe(network)
        for name, part in network.components().items():
            self._export_part(name, part)

    def finish(self, suspect: nn.Module | None) -> None:  # noqa: ARG002 - refused for multi-step models
        for name, wanted in self.parts_wanted.items():
            self._check_part(name, wanted)
            if self.runner.compiles and name != "policy":
                self._compile_file(name)

    @torch.no_grad()
    def _runs(self, network: MultiStepNetwork) -> dict[str, _Wanted]:
        """Every part on a tile that is half photograph, half noise; the step at the first, a middle and the last
        evaluation."""
        shape = (1, 3, self.tile.height, self.tile.width)
        random = np.random.default_rng(self.seed)
        lr = self._rounded(torch.from_numpy(half_photograph_half_noise(shape, self.tile.value_range, self.seed)))
        found: dict[str, _Wanted] = {}

        def run(name: str, part: Component, values: dict[str, Tensor], probe: str) -> dict[str, Tensor]:
            given = {key: self._rounded(values[key]) if name != "policy" else values[key] for key in part.inputs}
            results = part.named(given)
            kept = found.setdefault(name, _Wanted({k: tuple(v.shape) for k, v in given.items()}, part.outputs))
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

    def _rounded(self, values: Tensor) -> Tensor:
        return values.half().float() if self.half else values

    def _make_safe(self, network: MultiStepNetwork) -> None:
        """FP16 for the encoder and the step together, and for the decoder, each from values of its own: after a
        codebook an error of the step is another code, which emulation would count as an error of the decoder."""
        denoising = Denoising(network)
        side = self.facts.size.largest_within(min(EMULATED_SIDE, self.tile.height))
        tiles, states = self._packed(network, denoising, side)
        seen, seen_by_decoder = self._whole_tile(network, denoising)
        reports = [make_fp16_safe(denoising, tiles, self.tile.value_range, [seen])]
        if network.decode is not None:
            reports.append(make_fp16_safe(network.decode, states, self.tile.value_range, [seen_by_decoder]))
        self.numerics = _together(reports)
        self.ran.append(f"parts under FP16 storage emulation on tiles of {side} x {side}")

    @torch.no_grad()
    def _packed(
        self, network: MultiStepNetwork, denoising: Denoising, side: int
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """The extreme tiles, each at another evaluation, and what the decoder is given for them."""
        random = np.random.default_rng(self.seed + 1)
        pictures = extreme_tiles(side, self.tile.value_range, self.seed)
        indices = np.linspace(0, len(network.levels) - 1, len(pictures)).round().astype(int)
        packed, states = {}, {}
        for (name, picture), index in zip(pictures.items(), indices.tolist(), strict=True):
            lr = torch.from_numpy(picture)
            state = network.sample_at(index, lr, network.encode.named({"image": lr}), random)
            tile = denoising.pack(lr, state, network.timestep_embedding(index))
            key = f"{name} at evaluation {index + 1}"
            packed[key] = tile.numpy()
            # rounded here already, or a codebook would see another latent than under emulation
            states[key] = self._rounded(denoising(tile)[:, : network.sampling.channels].contiguous()).numpy()
        return packed, states

    @torch.no_grad()
    def _whole_tile(self, network: MultiStepNetwork, denoising: Denoising) -> tuple[Ranges, Ranges]:
        """Ranges of a tile as large as the bundle's."""
        lr = torch.from_numpy(self.parts_wanted["encode"].runs[0][1]["image"])
        index = (len(network.levels) - 1) // 2
        encoded = network.encode.named({"image": lr})
        state = network.sample_at(index, lr, encoded, np.random.default_rng(self.seed + 2))
        ranges, of_decoder = Ranges(), Ranges()
        model_output = watched(denoising, denoising.pack(lr, state, network.timestep_embedding(index)), ranges)
        if network.decode is not None:
            watched(network.decode, model_output[:, : network.sampling.channels].contiguous(), of_decoder)
        return ranges, of_decoder

    def _export_part(self, name: str, part: Component) -> None:
        self.report(f"export: {name}", 0.0)
        half = self.half and name != "policy"
        if half:
            to_half(part)  # a part without weights has not been turned yet
        graph = self._part_file(name, "onnx")
        wanted = self.parts_wanted[name]
        export_named(
            part,
            graph,
            wanted.shapes,
            wanted.outputs,
            half=half,
            opset=self.target.opset,
            group_norm="node" if self.runner.compiles else "instance",
        )
        if half:
            self._note_fp32_nodes(graph)
        self.graphs[name] = graph.name
        self.built.append(f"graph {graph.name}")

    def _check_part(self, name: str, wanted: _Wanted) -> None:
        self.report(f"parity: {name}", 0.0)
        file = self._part_file(name, "onnx")
        graph = OnnxRuntimeGraph(file)
        results = []
        needed = (PRECISIONS.named("fp32") if name == "policy" else self.precision).minimum_psnr_db
        for probe, given, outputs in wanted.runs:
            got = graph(given)
            results += [
                self._compared(f"{output}, {probe}", outputs[output], got[output], needed) for output in outputs
            ]
        graph.close()
        self.parity[name] = self._parity(file, results)
        self.ran.append(f"graph {file.name} in onnxruntime on CPU")

    def _compared(self, what: str, wanted: NDArray[np.float32], got: NDArray[np.float32], needed: float) -> Parity:
        """Relative to the values' own range, which need not be the picture's."""
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

    def _compile_file(self, name: str) -> None:
        graph, engine = self._part_file(name, "onnx"), self._part_file(name, "engine")
        self.report(f"engine: {name}", 0.0)
        summary = self._engine(graph, engine, self.precision.kind)
        self.engines[name] = engine.name
        self.engine_reports[name] = summary
        self.warnings.extend(f"{engine.name}: {warning}" for warning in summary.warnings)
        self.built.append(f"engine {engine.name}")

    def _part_file(self, name: str, ending: str) -> Path:
        return self.scratch / f"{self.request.precision}-{name}.{ending}"


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
