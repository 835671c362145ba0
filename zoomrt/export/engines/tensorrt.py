"""ONNX graph -> engine file, and the proof that it is what was asked for.

The compiler runs in a child process; the plan it leaves is read back from its bytes and compared with the graph and
the request before it takes its place. Knows nothing of bundles, families or how the graph came to be.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from zoomrt.bundle.records import BuildFigures, EngineReport
from zoomrt.errors import BuildError, PrecisionError, unknown_name
from zoomrt.export.engines.attention_plugin import plugged
from zoomrt.export.engines.plan_reader import EIGHT_BIT, FLOATING, Kernel, PlanSummary, UnreadablePlan, read_plan
from zoomrt.export.engines.process import CompiledPlan, compile_plan, missing_backend, storage_error
from zoomrt.export.graph.facts import GraphFacts, read_graph
from zoomrt.files import sha256_of, size_of
from zoomrt.kernels.plugin import compile_calls
from zoomrt.runtime.backends import BACKENDS

NORMALISATIONS = frozenset({"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"})
"""TensorRT takes the statistics of these in FP32 whatever the graph says, and offers no way to ask for less."""
_GENERATED = ("generated", "runtime_function")
"""Kinds of kernels that reduce and map; a convolution or matrix product is never part of a normalisation."""


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    backend: str,
    compute_capabilities: tuple[str, ...],
    precision: str,
    timeout_s: float = 1800,
    on_progress: Callable[[str, float], None] | None = None,
    allow_fp32: tuple[str, ...] = (),
    attention_plugin: bool = False,
) -> EngineReport:
    """Build, read back, compare, and only then put the engine in its place, replacing an older one.

    onnx : graph with static shapes; its own types decide the precision of the engine. TF32 is off.
    backend : `tensorrt_rtx`, which needs no GPU, or `tensorrt` 10 or 11 (not run here: it builds for the GPU present
        and its engines cannot be read back without one, so the report says so and the checks below do not apply).
    compute_capabilities : GPUs as in ("SM86", "SM89"); the engine must carry exactly these.
    precision : `fp32` or `fp16`. Every kernel that touches floating-point data must take and hand it on in that type.
        Two things are allowed beside it: the kernels of a normalisation (`NORMALISATIONS`), whose statistics TensorRT
        keeps in FP32 (in the `edge` network 4 kernels of 145), unless the graph's input or output is in FP32 there; and
        kernels of ONNX nodes named in `allow_fp32`. Weights and a kernel's private workspace do not count.
        Or `int8` or `fp8`, for an FP16 graph with layers between 8-bit codes: each of these must be in a kernel that
        takes such codes, and what was said of FP16 holds for everything else.
    timeout_s : seconds until the build is given up.
    on_progress : called with (stage, fraction of it); stages are load, parse, compile, write, check.
    allow_fp32 : ONNX node names, `*` and `?` allowed, whose kernels may be in FP32.
    attention_plugin : hand attentions that TensorRT does not fuse to our kernel; `tensorrt` and one GPU only.

    Neither an attention that is not fused nor a plan in a layout that is not known is an error: the report says so in
    its `warnings`.

    Raises MissingDependency, BuildError, PrecisionError, OutOfMemory or StorageError. On any of them, and on Ctrl-C,
    what was at `engine` is as before and nothing else is left.
    """
    require_backend(backend)
    if precision not in (kinds := BACKENDS.named(backend).kinds):
        raise unknown_name("precision", precision, kinds)
    _require_graph(onnx)
    report_progress = on_progress or _silent
    with contextlib.ExitStack() as stack:
        source, calls = stack.enter_context(plugged(onnx, backend)) if attention_plugin else (onnx, {})
        compiled = stack.enter_context(
            compile_plan(
                source,
                engine,
                backend=backend,
                compute_capabilities=compute_capabilities,
                timeout_s=timeout_s,
                on_progress=report_progress,
                plugins=compile_calls(calls.values(), int(compute_capabilities[0][2:])) if calls else (),
            )
        )
        report_progress("check", 0.0)
        graph = read_graph(onnx)
        plan, why = _read(compiled.path, backend)
        if plan is None:
            report = _unread_report(compiled, backend, precision, graph, tuple(calls), why)
        else:
            _check_targets(onnx, plan, compute_capabilities)
            floating = "fp16" if precision in EIGHT_BIT else precision
            strangers = _strangers(plan, floating)
            _check_precision(onnx, plan, graph, floating, strangers, allow_fp32)
            if precision in EIGHT_BIT:
                _check_eight_bit(onnx, plan, graph, precision)
            report = _report(compiled, backend, precision, graph, plan, strangers)
        try:
            os.replace(compiled.path, engine)
        except OSError as cause:
            raise storage_error(engine, cause.strerror or str(cause)) from cause
    report_progress("check", 1.0)
    return report


def require_backend(backend: str) -> None:
    """Raises UsageError for a backend that builds no engines, MissingDependency if its module is not installed."""
    compilers = {one.name: one for one in BACKENDS.records() if one.compiles}
    if backend not in compilers:
        raise unknown_name("engine backend", backend, compilers)
    if not compilers[backend].installed:
        raise missing_backend(backend, "not installed")


def _read(plan: Path, backend: str) -> tuple[PlanSummary | None, str]:
    """What the plan says of itself, or None and why it cannot be read: no reason to refuse an engine that was built."""
    if not BACKENDS.named(backend).readable:
        return None, f"a {BACKENDS.named(backend).title} engine cannot be read back without a GPU"
    try:
        return read_plan(plan), ""
    except UnreadablePlan as cause:
        return None, f"the engine cannot be read back ({cause})"


def _silent(_stage: str, _fraction: float) -> None:
    """Progress for callers who did not ask for it."""


def _require_graph(onnx: Path) -> None:
    size_of(onnx, BuildError, needed="an ONNX file")


def _check_targets(onnx: Path, plan: PlanSummary, asked: tuple[str, ...]) -> None:
    if set(plan.sms) != set(asked):
        raise BuildError(
            f"the engine from {onnx.name!r} is for other GPUs than asked",
            seen=", ".join(plan.sms) or "none",
            needed=", ".join(asked),
            remedy="Report it: the compiler did not do what it was told.",
        )


def _strangers(plan: PlanSummary, precision: str) -> list[Kernel]:
    """Kernels that take or hand on floating-point data in another precision."""
    return [kernel for kernel in plan.kernels if plan.dtypes(kernel) - {precision}]


def _check_precision(
    onnx: Path, plan: PlanSummary, graph: GraphFacts, precision: str, strangers: list[Kernel], allow: tuple[str, ...]
) -> None:
    def allowed(kernel: Kernel) -> bool:
        if any(fnmatch.fnmatchcase(node, pattern) for node in kernel.nodes for pattern in allow):
            return True
        if any(tensor.dtype in FLOATING - {precision} for tensor in plan.graph_io(kernel)):
            return False
        normalises = any(graph.operators.get(node) in NORMALISATIONS for node in kernel.nodes)
        return normalises and kernel.kind in _GENERATED

    refused = [_described(kernel) for kernel in strangers if not allowed(kernel)]
    if refused:
        shown = ", ".join(refused[:8]) + (f" and {len(refused) - 8} more" if len(refused) > 8 else "")
        raise PrecisionError(
            f"the engine from {onnx.name!r} is not {precision} throughout",
            seen=f"{len(refused)} of {len(plan.kernels)} kernels in another precision: {shown}",
            needed=f"{precision} data everywhere but inside normalisations",
            remedy=f"Give the graph {precision} input, output and weights, or name these nodes in allow_fp32.",
        )


def _check_eight_bit(onnx: Path, plan: PlanSummary, graph: GraphFacts, precision: str) -> None:
    done = {node for kernel in plan.kernels for node in kernel.nodes if precision in _input_types(plan, kernel)}
    missing = [node for node in graph.eight_bit if node not in done]
    if missing or not graph.eight_bit:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise PrecisionError(
            f"the engine from {onnx.name!r} does not compute in {precision} what the graph has in {precision}",
            seen=f"{len(missing)} of {len(graph.eight_bit)} layers without {precision} data: {shown or 'none'}",
            needed=f"{precision} data into each layer between QuantizeLinear and DequantizeLinear, and such layers",
            remedy="Build with --precision fp16: this compiler has no such kernels for this target.",
        )


def _input_types(plan: PlanSummary, kernel: Kernel) -> set[str]:
    """Of its data; weights do not count, a kernel may widen them."""
    return {plan.tensors[name].dtype for name in kernel.inputs if not plan.tensors[name].constant}


def _described(kernel: Kernel) -> str:
    return f"{kernel.name} ({', '.join(kernel.nodes) or 'no node'})"


def _written_scores(plan: PlanSummary, graph: GraphFacts) -> tuple[str, ...]:
    """Tensors a kernel writes that have the size of an attention's score matrix: (batch * heads, queries, keys)."""
    sizes = {attention.scores for attention in graph.attentions if attention.scores is not None}
    written = dict.fromkeys(name for kernel in plan.kernels for name in kernel.outputs)

    def holds_scores(shape: tuple[int, ...]) -> bool:
        return any(shape[-2:] == size[1:] and math.prod(shape[:-2]) == size[0] for size in sizes)

    return tuple(name for name in written if holds_scores(plan.tensors[name].shape))


def _unfused(plan: PlanSummary, graph: GraphFacts) -> tuple[str, ...]:
    """Attentions whose node stands in no kernel that does a whole attention."""
    fused = {node for kernel in plan.kernels if kernel.kind == "attention" for node in kernel.nodes}
    return tuple(attention.node for attention in graph.attentions if attention.node not in fused)


def _report(
    compiled: CompiledPlan,
    backend: str,
    precision: str,
    graph: GraphFacts,
    plan: PlanSummary,
    strangers: list[Kernel],
) -> EngineReport:
    types = [plan.dtypes(kernel) | ({data.dtype for data in plan.data(kernel)} & EIGHT_BIT) for kernel in plan.kernels]
    touching = sum(bool(some) for some in types)
    within = sum(precision in some for some in types) if precision in EIGHT_BIT else touching - len(strangers)
    expected = len(graph.attentions)
    scores = _written_scores(plan, graph)
    unfused = _unfused(plan, graph)
    warnings = []
    if plan.fused_attentions < expected:
        named = f" ({', '.join(unfused)})" if unfused else ""
        warnings.append(f"{plan.fused_attentions} of {expected} attentions are fused; the others are slower{named}")
    if scores:
        total = sum(plan.tensors[name].bytes for name in scores)
        warnings.append(f"attention scores are written to memory: {total / 1e6:.1f} MB per run")
    return EngineReport(
        backend=backend,
        backend_version=compiled.version,
        precision=precision,
        sms=plan.sms,
        kernels=len(plan.kernels),
        attentions_fused=plan.fused_attentions,
        attentions_expected=expected,
        attentions_unfused=unfused,
        share_in_precision=round(within / touching, 4) if touching else 1.0,
        eight_bit_layers=len(graph.eight_bit),
        static_bytes=plan.static_bytes,
        workspace_bytes=plan.workspace_bytes,
        engine_bytes=plan.bytes,
        sha256=sha256_of(compiled.path, BuildError),
        kernels_by_kind=dict(sorted(Counter(kernel.kind for kernel in plan.kernels).items())),
        kernels_by_dtype=dict(sorted(Counter("+".join(sorted(some)) or "none" for some in types).items())),
        other_precision=tuple(map(_described, strangers)),
        written_scores=scores,
        warnings=tuple(warnings),
        build=BuildFigures(round(compiled.seconds, 3), compiled.peak_rss_bytes),
    )


def _unread_report(
    compiled: CompiledPlan, backend: str, precision: str, graph: GraphFacts, by_plugin: tuple[str, ...], why: str
) -> EngineReport:
    """Of a plan in a format that is closed to us: of full TensorRT (not run here), or of an unknown TensorRT-RTX."""
    return EngineReport(
        backend=backend,
        backend_version=compiled.version,
        precision=precision,
        attentions_expected=len(graph.attentions),
        attentions_by_plugin=by_plugin,
        engine_bytes=size_of(compiled.path, BuildError),
        sha256=sha256_of(compiled.path, BuildError),
        warnings=(
            f"{why}: precision, fusion and GPU are not checked",
            *(f"attention {node} is done by zoomrt's plugin, which has not run on a GPU yet" for node in by_plugin),
        ),
        build=BuildFigures(round(compiled.seconds, 3), compiled.peak_rss_bytes),
    )
