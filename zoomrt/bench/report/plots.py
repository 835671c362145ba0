"""The plots of the page, as SVG whose ink is the page's own text colour, so that they read in light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from zoomrt.bench.record import Record, Row

_INK = "#010203"  # stands for the page's text colour until the SVG is written
_COLOURS = ("#2f7ed8", "#e0803a", "#4aa564", "#b75fb3", "#d4a72c", "#5cb8c4", "#d8575b")
_SIZE = (6.4, 3.6)
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "zoomrt",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    """svg : an element, without the XML head."""

    title: str
    caption: str
    svg: str


def of(record: Record) -> list[Plot]:
    """Those that the record has figures for."""
    timed = [row for row in record.rows if row.latency is not None]
    plots = []
    if timed:
        plots.append(
            Plot(
                "Latency",
                "Each dot is one run; the bar spans the interval of the median. Peers take turns with zoomrt.",
                _draw(lambda axes: _latency(axes, timed)),
            )
        )
    if record.stages_ms:
        caption = "Medians. Copies and conversions are what the runtime adds to the engine."
        plots.append(Plot("Stages", caption, _draw(lambda axes: _shares(axes, record.stages_ms))))
    if record.layers is not None:
        caption = f"Inside the engine, from {record.layers.source}."
        groups = {name: ms for name, ms in record.layers.groups_ms.items() if ms}
        plots.append(Plot("Layers", caption, _draw(lambda axes: _shares(axes, groups))))
    if record.ceilings is not None and any(row.roofline for row in timed):
        caption = (
            "Below the slope memory is the wall, below a roof arithmetic is. Bytes are counted as if no cache "
            "answered, so a dot may lie above the slope."
        )
        plots.append(Plot("Roofline", caption, _draw(lambda axes: _roofline(axes, record, timed))))
    if any(row.psnr_db is not None for row in timed):
        caption = f"PSNR of one tile to {record.reference}; right and low is better. 200 dB stands for equal."
        plots.append(Plot("Quality against speed", caption, _draw(lambda axes: _quality(axes, timed))))
    if record.memory is not None and record.memory.mb:
        caption = "Resident memory of the whole process; both networks of a pair are in it."
        plots.append(Plot("Memory over time", caption, _draw(lambda axes: _memory(axes, record))))
    return plots


def _draw(fill: Callable[[Any], None]) -> str:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        fill(figure.subplots())
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace(_INK, "currentColor")


def _latency(axes: Any, rows: list[Row]) -> None:
    random = np.random.default_rng(0)
    for place, row in enumerate(rows):
        assert row.latency is not None
        samples = np.asarray(row.latency.samples_ms)
        colour = _COLOURS[place % len(_COLOURS)]
        axes.plot(samples, place + random.uniform(-0.22, 0.22, samples.size), ".", color=colour, alpha=0.5, ms=6, mew=0)
        axes.plot(row.latency.interval_ms, (place, place), color=colour, lw=3, solid_capstyle="butt")
        axes.plot(row.latency.p50_ms, place, "|", color=_INK, ms=16, mew=2)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds")
    spread = [value for row in rows if row.latency for value in row.latency.samples_ms]
    if max(spread) > 8 * min(spread):
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)


def _shares(axes: Any, parts: Mapping[str, float]) -> None:
    """Milliseconds of the parts of a whole. Those of a frame are of another whole than those of a tile."""
    wholes = {frame: sum(ms for name, ms in parts.items() if name.startswith("frame") == frame) for frame in (0, 1)}
    bars = axes.barh(list(parts), list(parts.values()), color=_COLOURS[0], height=0.6)
    words = [f" {ms:.2f} ms, {ms / wholes[name.startswith('frame')]:.1%}" for name, ms in parts.items()]
    axes.bar_label(bars, words, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(right=max(parts.values()) * 1.4)
    axes.set_xlabel("milliseconds")


def _roofline(axes: Any, record: Record, rows: list[Row]) -> None:
    wall = record.ceilings
    assert wall is not None
    points = [(row, row.roofline) for row in rows if row.roofline is not None and row.roofline.gb_per_s]
    intensities = [line.tflops * 1e3 / line.gb_per_s for _, line in points]
    ridges = [peak * 1e3 / wall.gb_per_s for peak in wall.tflops.values()]
    low, high = min([*intensities, *ridges]) / 4, max([*intensities, *ridges]) * 4
    for number, (name, peak) in enumerate(sorted(wall.tflops.items(), key=lambda pair: pair[1])):
        ridge = peak * 1e3 / wall.gb_per_s
        style = ("-", "--", ":")[number % 3]
        axes.plot([ridge, high], [peak, peak], style, color=_INK, alpha=0.55, lw=1.2)
        axes.annotate(f"{name} {peak:.2g}", (high, peak), ha="right", va="bottom", fontsize=9)
    top = max(wall.tflops.values())
    axes.plot([low, top * 1e3 / wall.gb_per_s], [low * wall.gb_per_s / 1e3, top], color=_INK, alpha=0.55, lw=1.2)
    slope = f"{wall.gb_per_s:.3g} GB/s"
    axes.annotate(slope, (low * 1.15, low * 1.15 * wall.gb_per_s / 1e3), va="top", ha="left", fontsize=9)
    for (row, line), intensity in zip(points, intensities, strict=True):
        colour = _COLOURS[rows.index(row) % len(_COLOURS)]
        axes.plot(intensity, line.tflops, "o", color=colour, ms=8, label=row.name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("TFLOP/s")
    axes.legend(loc="lower right", fontsize=9)


def _quality(axes: Any, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        if row.psnr_db is None or row.latency is None:
            continue
        axes.plot(row.psnr_db, row.latency.p50_ms, "o", color=_COLOURS[place % len(_COLOURS)], ms=9, label=row.name)
    axes.set_xlabel("PSNR to FP32, dB")
    axes.set_ylabel("milliseconds")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.12)
    axes.legend(fontsize=9)


def _memory(axes: Any, record: Record) -> None:
    memory = record.memory
    assert memory is not None
    axes.fill_between(memory.at_s, memory.mb, color=_COLOURS[0], alpha=0.25)
    axes.plot(memory.at_s, memory.mb, color=_COLOURS[0], lw=1.5)
    place, room = float("-inf"), memory.at_s[-1] * 0.035  # seconds that a label needs, which stands upright
    for second, label in memory.marks:
        axes.axvline(second, color=_INK, alpha=0.3, lw=0.8)
        place = max(second, place + room)  # moved aside where the last one stands
        axes.annotate(label, (place, 1), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=8)
    axes.set_xlim(0, max(memory.at_s[-1], place + room))
    axes.set_ylim(0, memory.peak_mb * 1.1)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB")
