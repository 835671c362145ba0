"""The record as one HTML page that needs nothing else: plots, tables, and how it was measured. Light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from zoomrt.bench.record import Record
from zoomrt.bench.report import plots
from zoomrt.bench.report.table import TIME_HEAD, WALL_HEAD, bound_words, ms_words, time_cells, wall_cells
from zoomrt.files import write_bytes

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6878; --line: #d9dee6; --back: #ffffff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #9aa6b5; --line: #333c48; --back: #12161c; --card: #1a2029; }
}
body { margin: 0 auto; padding: 24px; max-width: 1120px; background: var(--back); color: var(--ink);
       font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 4px; }
p { margin: 4px 0; } .soft, figcaption { color: var(--soft); font-size: 13px; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 16px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; }
.tile b { display: block; font-size: 22px; } .tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; margin: 12px 0; } table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { text-align: right; padding: 5px 9px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.words th, .words td { text-align: left; white-space: normal; } .words td + td { color: var(--soft); }
.plots { margin-top: 20px; display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px; }
figure h2 { margin: 0; font-size: 15px; } figure svg { width: 100%; height: auto; color: var(--ink); }
code { background: var(--card); padding: 1px 5px; border-radius: 4px; overflow-wrap: anywhere; }
"""


def write_page(record: Record, path: Path) -> None:
    """Atomically. Raises StorageError."""
    write_bytes(path, page(record).encode(), parents=True)


def page(record: Record) -> str:
    """The document."""
    facts = record.bundle
    title = f"{facts['family']} {facts['precision']} for {facts['target']}"
    tile = f"{facts['tile'][0]} x {facts['tile'][1]} px, x{facts['scale']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _p(f"{facts['path']}, {facts['mb']} MB, {facts['backend']}; tile {tile}; {record.date[:10]}", soft=True),
        _headline(record),
        "<h2>Engine and peers</h2>",
        _p(f"Timed: {record.what}, {record.span}. Input: {record.input}. PSNR to {record.reference}.", soft=True),
        _rows(record),
        '<div class="plots">',
        *(
            f"<figure><h2>{escape(plot.title)}</h2>{plot.svg}<figcaption>{escape(plot.caption)}</figcaption></figure>"
            for plot in plots.of(record)
        ),
        "</div>",
        *_layers(record),
        *_quality(record),
        *_engine_report(record),
        "<h2>How it was measured</h2>",
        *(_p(line, soft=True) for line in _method(record)),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _headline(record: Record) -> str:
    engine = record.rows[0]
    if engine.latency is None:
        return _p(f"Not timed: {engine.failed}")
    low, high = engine.latency.interval_ms
    tiles = [(f"{ms_words(engine.latency.p50_ms)} ms", "median")]
    tiles.append((f"{ms_words(low)} to {ms_words(high)}", f"its {engine.latency.coverage:.0%} interval, ms"))
    if engine.psnr_db is not None:
        tiles.append((f"{engine.psnr_db:.0f} dB", "PSNR to FP32"))
    if engine.roofline is not None and engine.roofline.compute_share is not None:
        bound = f"of peak arithmetic; {bound_words(engine.roofline, engine.latency.p50_ms)}"
        tiles.append((f"{engine.roofline.compute_share:.0%}", bound))
    if record.memory is not None:
        tiles.append((f"{record.memory.peak_mb:.0f} MB", "peak of the whole run"))
    cards = "".join(f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>' for big, small in tiles)
    return f'<div class="tiles">{cards}</div>'


def _rows(record: Record) -> str:
    timed = [row for row in record.rows if row.latency is not None]
    failed = [[row.name, row.failed or ""] for row in record.rows if row.failed]
    ran = [[row.name, row.detail, row.psnr_missing and f"no PSNR: {row.psnr_missing}"] for row in timed]
    parts = [
        _table(TIME_HEAD, [time_cells(row) for row in timed]),
        _table(WALL_HEAD, [wall_cells(row) for row in timed]),
    ]
    parts += [_table(("", "what ran", ""), ran, words=True)]
    return "".join([*parts, _table(("", "why there are no figures"), failed, words=True) if failed else ""])


def _layers(record: Record) -> list[str]:
    found = record.layers
    if found is None:
        return []
    total = sum(found.groups_ms.values()) or 1.0
    groups = ", ".join(f"{name} {ms / total:.0%}" for name, ms in found.groups_ms.items() if ms)
    wide = "" if found.fp32_share is None else f" {found.fp32_share:.0%} of the time is in FP32."
    joined = f" {found.matched_share:.0%} of it carries names of the graph."
    rows = [
        [one.name, one.operator, one.group, f"{one.ms:.2f}", f"{one.share:.1%}", f"{one.gmac:.3f}" if one.gmac else "-"]
        for one in found.top
    ]
    return [
        "<h2>Where the time goes</h2>",
        _p(f"{found.source}: {groups}.{wide}{joined}", soft=True),
        _table(["layer", "operator", "group", "ms", "share", "GMAC"], rows),
    ]


def _quality(record: Record) -> list[str]:
    if not record.quality:
        return []
    rows = [
        [
            one.of,
            one.to,
            f"{one.psnr_db:.2f}",
            f"{one.ssim:.4f}",
            "-" if one.flip is None else f"{one.flip:.4f}",
            str(one.count),
        ]
        for one in record.quality
    ]
    return ["<h2>Quality</h2>", _table(["pictures of", "against", "PSNR, dB", "SSIM", "FLIP", "pictures"], rows)]


def _engine_report(record: Record) -> list[str]:
    """What was read back from an engine that could not be timed."""
    if not record.engine_report or record.rows[0].latency is not None:
        return []
    named = ("backend", "kernels", "engine_bytes", "static_bytes", "workspace_bytes", "attentions_fused", "precision")
    facts = {batch: [getattr(report, name) for name in named] for batch, report in record.engine_report.items()}
    rows = [[batch, *("" if one is None else str(one) for one in values)] for batch, values in facts.items()]
    head = ["batch", *(name.replace("_", " ") for name in named)]
    return ["<h2>The engine, read back and not run</h2>", _table(head, rows)]


def _method(record: Record) -> list[str]:
    machine = record.machine
    known = ("governor", "clock_mhz", "hottest_c", "memory_gb", "load_1min")
    told = ", ".join(f"{name} {machine[name]}" for name in known if machine.get(name) is not None)
    after = ", ".join(f"{name} {machine['after'].get(name)}" for name in ("clock_mhz", "hottest_c", "load_1min"))
    lines = [
        f"Command: {record.command}",
        f"Repeats: {record.rule}. Intervals hold the true median about that often, by order statistics; ratios are "
        f"taken in turns, pair by pair. Loading and {record.warm_up_runs} runs to warm up are not among them.",
        f"Machine: {machine['cpu']}, {record.threads} threads of {machine['cores']} cores, affinity "
        f"{machine.get('affinity')}, {machine['system']}; {told}; afterwards {after}",
        *(f"GPU: {gpu}" for gpu in [*machine["gpus"], *machine["after"]["gpus"]]),
        "Versions: " + ", ".join(f"{name} {value}" for name, value in record.versions.items()),
        f"Code: {record.code}",
    ]
    if (wall := record.ceilings) is not None:
        peaks = ", ".join(f"{value:.3g} TFLOP/s {name}" for name, value in wall.tflops.items())
        lines.append(f"Ceilings: {peaks}, {wall.gb_per_s:.3g} GB/s, {wall.us_per_node:.2g} us per node; {wall.how}")
    return [*lines, *record.notes]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """words : the columns hold sentences, not figures."""
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    kind = ' class="words"' if words else ""
    return f'<div class="scroll"><table{kind}><tr>{names}</tr>{"".join(lines)}</table></div>'


def _p(text: str, *, soft: bool = False) -> str:
    return f"<p class='{'soft' if soft else 'plain'}'>{escape(text)}</p>"
