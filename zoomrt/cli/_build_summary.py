"""What `trt-build` says of a finished bundle, in a few lines for a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zoomrt.bundle import Manifest
from zoomrt.bundle.kernel_file import coverage
from zoomrt.bundle.records import (
    CalibrationRecord,
    EngineReport,
    Fp16Report,
    MemoryPlan,
    Parity,
    SpeedRecord,
    Timing,
)

if TYPE_CHECKING:
    from zoomrt.export.build import BuildResult


def summary(result: BuildResult) -> list[str]:
    """Place, size, tile, parity, engines, warnings, next step."""
    manifest, tile = result.manifest, result.manifest.tile
    total = sum(entry.bytes for entry in manifest.files.values())
    how = "from the cache (the same request was built before)" if result.cached else "built"
    batches = ", ".join(map(str, tile.batches))
    facts = [
        ("size", f"{total / 1e6:.1f} MB, {', '.join(name for name in manifest.files if '/' not in name)}"),
        (
            "tile",
            f"{tile.width} x {tile.height} -> {tile.width * tile.scale} x {tile.height * tile.scale} px, "
            f"overlap {tile.overlap}, batch {batches}",
        ),
        *(("memory", line) for line in _memory_lines(manifest.memory)),
        *(("parity", line) for line in _parity_lines(manifest)),
        *(("fp16", line) for line in _fp16_lines(manifest.numerics)),
        *(("speed", line) for line in _speed_lines(manifest.speed)),
        *(("8 bits", line) for line in _calibration_lines(manifest.calibration)),
        *(("engine", line) for line in _engine_lines(manifest.engine_report)),
        *(("kernels", line) for line in _kernel_lines(manifest)),
        *(("warning", line) for line in manifest.warnings),
    ]
    if not manifest.engines:
        facts.append(("next", f"trt-upscale {result.path} PICTURE -o OUT"))
    return [
        f"{result.path} {how} in {result.seconds:.1f} s: {manifest.family} {manifest.precision} for {manifest.target}",
        *(f"  {name:<8} {text}" for name, text in facts),
    ]


def _parity_lines(manifest: Manifest) -> list[str]:
    """The worst comparison of each runner; the manifest has them all."""
    results = [result for graph in manifest.parity.values() for result in graph.results]
    worst: dict[str, Parity] = {}
    for result in [*results, *(manifest.numerics.results if manifest.numerics else ())]:
        worst[result.runner] = min(worst.get(result.runner, result), result, key=lambda one: one.psnr_db)
    return [
        f"{one.psnr_db:.0f} dB or better against torch FP32 in {runner} (needed {one.needed_psnr_db:.0f} dB)"
        for runner, one in worst.items()
    ]


def _fp16_lines(numerics: Fp16Report | None) -> list[str]:
    """What had to be done to the network for FP16."""
    lines = []
    if numerics and (streams := numerics.rescaled):
        most = max(stream.largest for stream in streams)
        lines.append(f"{len(streams)} streams with values up to {most:.3g} rescaled by powers of two")
    if numerics and numerics.kept_fp32:
        lines.append(f"kept in FP32: {', '.join(numerics.kept_fp32)}")
    return lines


def _memory_lines(plan: MemoryPlan | None) -> list[str]:
    """Where the plan of the build had its peak; nothing for a bundle without one."""
    return [f"{plan.peak.total / 1e6:.0f} MB expected at most, in {plan.peak.name}"] if plan else []


def _calibration_lines(facts: CalibrationRecord | None) -> list[str]:
    """How much is quantised, what quality that leaves, and what was kept."""
    if facts is None:
        return []
    floor = f"needed {facts.min_psnr_db:g} dB" if facts.min_psnr_db else "no gate"
    return [
        f"{facts.share:.1%} of multiply-adds in {facts.format}, ranges by {facts.method} "
        f"from {facts.tiles.count} tiles",
        f"{facts.psnr_db.worst:.1f} dB to FP32 on the worst of {facts.held_out.count} other tiles, "
        f"{facts.psnr_db.mean:.1f} dB on average ({floor})",
        *(f"kept: {count} layers, {why}" for why, count in Counter(facts.kept.values()).items()),
    ]


def _speed_lines(speed: SpeedRecord | None) -> list[str]:
    """Which engine runs it, what each took, and FP32 beside fewer bits; nothing where there was no choice."""
    if speed is None:
        return []
    lines = [f"{speed.chosen}, the fastest of those tried on {speed.threads} threads: {_took(speed.engines)}"]
    if speed.fp32:
        lines.append(f"{speed.ratio_to_fp32:.2f} times as long as FP32 ({_took(speed.fp32)})")
    return lines


def _took(timings: Mapping[str, Timing]) -> str:
    return ", ".join(f"{name} {timing.median_ms:.1f} ms" for name, timing in timings.items())


def _engine_lines(reports: Mapping[str, EngineReport]) -> list[str]:
    """One line per engine; figures that could not be read back from it are left out."""
    lines = []
    for batch, report in reports.items():
        seconds, peak = report.build.seconds, report.build.peak_rss_bytes
        facts = [
            "/".join(report.sms or ()),
            f"{report.backend} {report.backend_version}",
            f"{report.engine_bytes / 1e6:.1f} MB",
            f"compiled in {seconds:.0f} s" + (f" within {peak / 1e6:.0f} MB" if peak else ""),
        ]
        if report.kernels is not None:
            facts += [
                f"{report.kernels} kernels",
                f"attention fused {report.attentions_fused} of {report.attentions_expected}",
                f"{report.share_in_precision:.0%} of kernels in {report.precision}",
            ]
        if report.static_bytes is not None:
            facts.append(f"{report.static_bytes / 1e6:.0f} MB read and written per run")
        lines.append(f"batch {batch}: {', '.join(fact for fact in facts if fact)}")
    return lines


def _kernel_lines(manifest: Manifest) -> list[str]:
    """Which compiled kernels the bundle carries, and for which GPUs."""
    return [f"{name} for {', '.join(f'SM{sm}' for sm in sms)}" for name, sms in coverage(manifest.kernels).items()]
