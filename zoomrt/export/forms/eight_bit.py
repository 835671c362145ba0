"""Networks whose convolutions and linear layers compute in 8 bits; on a GPU the rest is FP16."""

from __future__ import annotations

import msgspec
from torch import nn

from zoomrt.calibration.report import write_report
from zoomrt.export.forms.one_graph import emulated, extremes, reference_of
from zoomrt.export.forms.quantisation import SEEDS, prove_fp16_storage, quantise_network
from zoomrt.export.forms.values import Job, Prepared
from zoomrt.export.fp16.prepare import prepare_fp16
from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.heap import return_freed_memory
from zoomrt.models.families import outside_code
from zoomrt.models.half import to_half


def prepare(job: Job, network: nn.Module) -> Prepared:
    """Ready for FP16 where the rest is, then quantised as far as the gate allows, then proved on held-out tiles."""
    plan, numerics, tiles, ran = job.plan, None, {}, []
    if plan.half:
        job.report("fp16", 0.0)
        tiles, ranges = extremes(job), Ranges()
        reference_of(job, network, 1, (ranges,))
        numerics = prepare_fp16(network, tiles, [ranges]).report
        ran.append(f"network {emulated(job)}")
    assert plan.calibration is not None
    quantised = quantise_network(
        network,
        job.tile,
        plan.calibration,
        precision=plan.precision,
        backend=plan.backend.name,
        folder=job.measurements,
        code=str(outside_code(plan.family) or ""),
        report=job.report,
        crop=job.facts.size.largest_within,
    )
    return_freed_memory()
    record = quantised.record
    if numerics is not None:
        to_half(network)
        job.report("fp16", 0.0)
        results, quality = prove_fp16_storage(network, quantised, tiles)
        numerics = msgspec.structs.replace(numerics, results=results)
        record = msgspec.structs.replace(record, psnr_db=quality)
        ran.append("network under FP16 storage emulation: held-out tiles")
    write_report(job.folder, record, quantised.multiply_adds)
    references = {str(batch): quantised.reference(batch, record.psnr_db, half=plan.half) for batch in job.tile.batches}
    return Prepared(references, numerics, record, SEEDS, tuple(ran), quantised.warnings)
