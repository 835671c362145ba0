"""A finished GPU engine against its manifest: what cannot be timed here is at least what it says it is."""

from __future__ import annotations

from zoomrt.bundle import Bundle
from zoomrt.errors import EngineMismatch
from zoomrt.export.engines.plan_reader import UnreadablePlan, read_plan
from zoomrt.runtime.backends import BACKENDS


def check_engines(bundle: Bundle) -> None:
    """Read engines back that can be read and compare kernels, GPUs and size. Raises EngineMismatch.

    What could not be read when it was built is not read now; its hash was checked when the bundle was opened.
    """
    manifest = bundle.manifest
    if manifest.backend not in [one.name for one in BACKENDS.records() if one.readable]:
        return
    for batch, name in manifest.engines.items():
        told = manifest.engine_report.get(batch)
        if told is not None and told.kernels is None:
            continue
        remedy = "Build the bundle again with trt-build."
        what = f"engine {name!r} is not what the manifest says"
        try:
            plan = read_plan(bundle.file(name))
        except UnreadablePlan as cause:
            raise EngineMismatch(what, seen=cause, needed="the plan that was read there", remedy=remedy) from cause
        read = {"kernels": len(plan.kernels), "sms": plan.sms, "engine_bytes": plan.bytes}
        for field, value in read.items():
            if told is not None and (needed := getattr(told, field)) != value:
                raise EngineMismatch(what, seen=f"{field} {value}", needed=needed, remedy=remedy)
