"""Graphs into engines, for the backends that compile."""

from __future__ import annotations

from pathlib import Path

from zoomrt.bundle.records import EngineReport
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.forms.quantisation import cost_against_fp16
from zoomrt.export.forms.values import Engines, Graphs, Job
from zoomrt.export.graph.qdq import write_without_codes
from zoomrt.files import scratch_folder


def compile_engines(job: Job, graphs: Graphs) -> Engines:
    """One engine for each graph but the policy, which runs on the CPU everywhere; none where the backend runs graphs.

    With 8-bit layers each is compared with the same graph in FP16, which is then thrown away.
    """
    if not job.plan.backend.compiles:
        return Engines()
    reports, costs, warnings = dict[str, EngineReport](), {}, list[str]()
    for name in (name for name in graphs.files if name != "policy"):
        job.report("engine", 0.0)
        engine = job.engine(name)
        report = _compiled(job, graphs, job.graph(name), engine, job.plan.precision.kind)
        reports[name] = report
        warnings += [f"{engine.name}: {warning}" for warning in report.warnings]
        if job.plan.precision.eight_bit and report.kernels is not None:  # read back, as the other can be then
            costs[name], warning = cost_against_fp16(report, _in_fp16(job, graphs, name))
            warnings += [f"{engine.name}: {warning}"] if warning is not None else []
    return Engines({name: job.engine(name).name for name in reports}, reports, costs, tuple(warnings))


def _in_fp16(job: Job, graphs: Graphs, name: str) -> EngineReport:
    job.report("engine in FP16, to compare", 0.0)
    with scratch_folder(job.folder) as folder:
        graph = folder / "fp16.onnx"
        write_without_codes(job.graph(name), graph)
        return _compiled(job, graphs, graph, folder / "fp16.engine", "fp16")


def _compiled(job: Job, graphs: Graphs, graph: Path, engine: Path, precision: str) -> EngineReport:
    request = job.plan.request
    return build_engine(
        graph,
        engine,
        backend=job.plan.backend.name,
        compute_capabilities=job.plan.target.compute_capabilities,
        precision=precision,
        timeout_s=request.timeout_s,
        on_progress=lambda stage, fraction: job.report(f"engine: {stage}", fraction),
        allow_fp32=graphs.fp32_nodes,
        attention_plugin=request.attention_plugin,
    )
