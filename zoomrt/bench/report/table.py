"""The record on a terminal: one table of engine and peers, then what explains it, in few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table

from zoomrt.bench.record import Ratio, Record, Roofline, Row
from zoomrt.bench.statistics import CONFIDENCE

TIME_HEAD = ("", "median ms", "interval", "n", "p90", "p99", "min", "mean", "MAD", "time / zoomrt", "PSNR dB")
WALL_HEAD = ("", "TFLOP/s", "GB/s", "the wall", "load s", "first ms", "memory MB")

_ENOUGH_FOR_P99 = 100


def render(record: Record, width: int | None = None) -> str:
    """Plain text, no colours. width : columns of the terminal; as wide as the table if None."""
    timed = [row for row in record.rows if row.latency is not None]
    tables = [_table(TIME_HEAD, map(time_cells, timed)), _table(WALL_HEAD, map(wall_cells, timed))] if timed else []
    out = StringIO()
    console = Console(file=out, width=width or 200, highlight=False, color_system=None)
    for line in _opening(record):
        console.print(line, markup=False, soft_wrap=True)
    for table in tables:
        console.print(table)
    for line in [*_failures(record), *_explanation(record)]:
        console.print(line, markup=False, soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _ratio_words(ratio: Ratio | None) -> str:
    if ratio is None:
        return "timed alone"
    low, high = ratio.interval
    return f"{ratio.median:.3g} ({low:.3g} to {high:.3g}{_odds(ratio.coverage, ratio.n)})"


def _odds(coverage: float, n: int) -> str:
    """For behind an interval that holds less than it should."""
    return "" if coverage >= CONFIDENCE else f"; {coverage:.0%}, n = {n}"


def bound_words(wall: Roofline, p50_ms: float) -> str:
    """What bounds it, where its floor is at least half of the time; else that floor is only the largest."""
    share = wall.floors_ms[wall.bound] / p50_ms
    return f"bound by {wall.bound}" if share >= 0.5 else f"largest floor {wall.bound}, {share:.0%} of the time"


def time_cells(row: Row) -> list[str]:
    """Under TIME_HEAD; intervals with their probability where that is not 95 % or more."""
    found = row.latency
    assert found is not None
    low, high = found.interval_ms
    return [
        row.name,
        ms_words(found.p50_ms),
        f"{ms_words(low)} to {ms_words(high)}{_odds(found.coverage, found.n)}",
        str(found.n),
        ms_words(found.p90_ms),
        ms_words(found.p99_ms) if found.n >= _ENOUGH_FOR_P99 else "-",
        *map(ms_words, (found.min_ms, found.mean_ms, found.mad_ms)),
        _ratio_words(row.ratio),
        "-" if row.psnr_db is None else f"{row.psnr_db:.1f}",
    ]


def wall_cells(row: Row) -> list[str]:
    """Under WALL_HEAD; rates with their share of the ceiling."""
    wall = row.roofline
    rates = ["-", "-", "-"]
    if row.gmac is not None and row.latency is not None:
        rates[0] = f"{2 * row.gmac / row.latency.p50_ms:.3g}"
    if wall is not None and row.latency is not None:
        share = "" if wall.compute_share is None else f" ({wall.compute_share:.0%})"
        rates = [f"{wall.tflops:.3g}{share}", f"{wall.gb_per_s:.3g} ({wall.bandwidth_share:.0%})"]
        rates.append(bound_words(wall, row.latency.p50_ms))
    return [
        row.name,
        *rates,
        "-" if row.load_s is None else f"{row.load_s:.2f}",
        "-" if row.first_ms is None else ms_words(row.first_ms),
        "-" if row.memory_mb is None else f"{row.memory_mb:.0f}",
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _opening(record: Record) -> list[str]:
    facts, machine = record.bundle, record.machine
    kind = f"{facts['family']} {facts['precision']} for {facts['target']} ({facts['backend']})"
    tile = f"tile {facts['tile'][0]} x {facts['tile'][1]} x{facts['scale']}"
    return [
        f"{facts['path']}: {kind}, {tile}, {facts['mb']} MB",
        f"timed: {record.what}, {record.span}; input {record.input}",
        f"on {machine['cpu']}, {record.threads} threads of {machine['cores']} cores, load {machine['load_1min']} "
        f"before; {record.rule}",
        f"PSNR to {record.reference}",
    ]


def _failures(record: Record) -> list[str]:
    failed = [f"{row.name}: {row.failed}" for row in record.rows if row.failed]
    hidden = [f"{row.name}: no PSNR, {row.psnr_missing}" for row in record.rows if row.latency and row.psnr_missing]
    return [*failed, *hidden]


def _explanation(record: Record) -> list[str]:
    lines = []
    if (cost := record.cost) is not None:
        parts = ", ".join(f"{name} {gmac:.2f} and {mb:.0f} MB" for name, (gmac, mb) in cost.groups.items())
        more = f"; work of {', '.join(cost.uncounted)} not counted" if cost.uncounted else ""
        lines.append(f"one tile: {cost.gmac:.2f} GMAC ({parts}), {cost.mb:.0f} MB if every node goes to memory{more}")
    lines += [f"one call of {part}: {one.gmac:.2f} GMAC, {one.mb:.0f} MB" for part, one in record.parts.items()]
    if (wall := record.ceilings) is not None:
        peaks = ", ".join(f"{value:.3g} TFLOP/s {name}" for name, value in wall.tflops.items())
        lines.append(f"ceilings on {wall.threads} threads: {peaks}, {wall.gb_per_s:.3g} GB/s")
    if record.stages_ms:
        lines.append("stages: " + ", ".join(f"{name} {ms_words(ms)} ms" for name, ms in record.stages_ms.items()))
    if (layers := record.layers) is not None:
        total = sum(layers.groups_ms.values()) or 1.0
        shares = ", ".join(f"{name} {ms / total:.0%}" for name, ms in layers.groups_ms.items() if ms)
        wide = "" if layers.fp32_share is None else f"; {layers.fp32_share:.0%} in FP32"
        lines.append(f"layers ({layers.source}): {shares}{wide}; {layers.matched_share:.0%} joined to the graph")
        lines += [f"  {one.share:>4.0%} {ms_words(one.ms):>8} ms  {one.operator}  {one.name}" for one in layers.top]
    for batch, report in record.engine_report.items():
        if record.rows[0].failed:
            moved, kernels = report.static_bytes, report.kernels
            facts = "read back, not run" if kernels is not None else "neither run nor read back"
            counted = [f"{kernels} kernels"] * (kernels is not None)
            counted += [f"{moved / 1e6:.0f} MB read and written per run"] if moved else []
            lines.append(f"engine for batch {batch}, {facts}" + (f": {', '.join(counted)}" if counted else ""))
    lines += [
        f"{one.of} against {one.to}: {one.psnr_db:.2f} dB, SSIM {one.ssim:.4f}"
        + ("" if one.flip is None else f", FLIP {one.flip:.4f}")
        + f" ({one.count} pictures)"
        for one in record.quality
    ]
    if record.memory is not None:
        lines.append(f"peak memory of this process {record.memory.peak_mb:.0f} MB")
    return [*lines, *record.notes]


def ms_words(value: float) -> str:
    """Three digits or more."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
