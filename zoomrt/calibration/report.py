"""What calibration found, to read and to look at: calibration.md and calibration.png, which go into the bundle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from zoomrt.bundle.records import CalibrationRecord
from zoomrt.runtime.tiles.psnr import added_up

TABLE, PICTURE = "calibration.md", "calibration.png"


def write_report(folder: Path, facts: CalibrationRecord, multiply_adds: Mapping[str, int]) -> tuple[str, str]:
    """Write both files and return their names.

    multiply_adds : of every layer, for one tile.
    """
    (folder / TABLE).write_text(_text(facts, multiply_adds), encoding="utf-8")
    _draw(folder / PICTURE, facts)
    return TABLE, PICTURE


def _text(facts: CalibrationRecord, multiply_adds: Mapping[str, int]) -> str:
    total = sum(multiply_adds.values())
    gate = "no gate" if facts.min_psnr_db is None else f"gate {facts.min_psnr_db:g} dB"
    quality = facts.psnr_db
    lines = [
        f"# {facts.format.upper()}: {facts.share:.1%} of the multiply-adds",
        "",
        f"PSNR to FP32 on {facts.held_out.count} held-out tiles: {quality.mean:.1f} dB, worst "
        f"{quality.worst:.1f} dB ({gate}). Ranges by {facts.method} over {facts.tiles.count} tiles.",
        "",
        f"![quality against share of operations]({PICTURE})",
        "",
        "## Layers that stay in high precision",
        "",
        "| layer | multiply-adds | why |",
        "|---|---:|---|",
        *(f"| {name} | {multiply_adds[name] / total:.2%} | {why} |" for name, why in facts.kept.items()),
        "",
        f"## Layers in {facts.format.upper()}",
        "",
        "| layer | multiply-adds | input range |",
        "|---|---:|---:|",
        *(f"| {name} | {multiply_adds[name] / total:.2%} | ±{amax:g} |" for name, amax in facts.quantised.items()),
    ]
    blocks = facts.ranking.blocks
    if blocks:
        side = facts.ranking.side
        lines += [
            "",
            "## Blocks, the most harmful for its work last",
            "",
            f"Each alone in {facts.format.upper()}, all else exact, on crops of {side} x {side}.",
            "",
            "| block | multiply-adds | PSNR, dB | worst tile |",
            "|---|---:|---:|---:|",
            *(f"| {name} | {one.share:.2%} | {one.mean_db:.1f} | {one.worst_db:.1f} |" for name, one in blocks.items()),
        ]
    return "\n".join(lines) + "\n"


def _draw(path: Path, facts: CalibrationRecord) -> None:
    """Every set that was measured, and what the blocks' errors, added up one by one, let expect."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    blocks = list(facts.ranking.blocks.values())
    if blocks:
        single, worst_db = [100 * one.share for one in blocks], [one.worst_db for one in blocks]
        label = "blocks one by one, squared errors added up"
        axes.plot(list(itertools.accumulate(single)), added_up(worst_db), color="0.6", lw=1, label=label)
        axes.plot(single, worst_db, "x", color="0.6", ms=4, label="one block alone")
    sets = [one for one in facts.measured if one.blocks > 1 and one.worst_db > -100]
    x = [100 * one.share for one in sets]
    axes.plot(x, [one.mean_db for one in sets], "o", mfc="none", color="tab:blue", label="measured set, mean tile")
    axes.plot(x, [one.worst_db for one in sets], "o", color="tab:blue", label="measured set, worst tile")
    share, worst = 100 * facts.share, facts.psnr_db.worst
    axes.plot([share], [worst], "*", ms=14, color="tab:red", label=f"this bundle: {share:.1f} %, {worst:.1f} dB")
    if facts.min_psnr_db is not None:
        axes.axhline(facts.min_psnr_db, color="tab:red", lw=0.8, ls="--")
        axes.annotate("gate", (1, facts.min_psnr_db), color="tab:red", va="bottom")
    axes.set(
        xlim=(0, 103),
        xlabel=f"multiply-adds in {facts.format.upper()}, %",
        ylabel="PSNR to FP32, dB",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper right")
    with matplotlib.rc_context({"savefig.dpi": 110}):
        figure.savefig(path, metadata={"Software": None})  # no version, no date: equal builds give equal bytes
