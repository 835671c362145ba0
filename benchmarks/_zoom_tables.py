"""The parts of RESULTS.md about frames: zoom sessions, and what a frame costs with models of several steps."""

from __future__ import annotations

from typing import Any

from benchmarks._tables import load, source, table


def zoom() -> list[str]:
    document = load("zoom")
    f = document["figures"]
    rows = []
    for name, preview in f["previews"].items():
        for zoom, row in preview.items():
            if not isinstance(row, dict):
                continue
            rows.append(
                [
                    f"{name}, {zoom}",
                    str(row["tiles"]),
                    f"{_rate(row['reuse'])}; {row['computed']} computed, {row['reused']} reused",
                    f"{row['anew']['p50_ms']:.0f} ms",
                    _rate(row["bicubic_pillow"]),
                    f"{row['naive_ms'] / 1e3:.1f} s",
                    f"{row['psnr_to_naive_db']:.1f} dB",
                ]
            )
    head = ["Preview, zoom", "tiles", "a pan, tiles reused", "every tile anew", "bicubic (Pillow)"]
    head += ["naive: whole frame, then crop", "PSNR to naive"]
    return [
        f"**Views of `ZoomSession`** with `edge` on {f['threads']} threads, tiles of {f['tile']}; frame and view of "
        "one size. Frames per second, median and 99th percentile of a frame; the median alone of what takes seconds:",
        "",
        *table(head, rows),
        *_live(f["live"]),
        f"Flicker, a still scene with noise of {f['flicker']['noise_codes']:g} codes: variance over time "
        f"{f['flicker']['network_over_bicubic']:.2f} of bicubic's, {f['flicker']['network_smoothed_over_bicubic']:.2f} "
        f"with `noise=`. {source(document)}",
        "",
    ]


def _live(live: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in live.items():
        modes = ", ".join(f"{count} {mode.replace('_', ' ')}" for mode, count in sorted(row["modes"].items()))
        answers = f"{row['answers_per_second']:.1f} per second"
        times = f"{row['p50_ms']:.0f} ms, {row['p99_ms']:.0f} ms"
        rows.append([name, f"{row['tile_ms']:.0f} ms", answers, times, f"{row['in_budget']:.0%}", modes])
    head = ["Preview", "one tile", "answers", "median, 99th percentile", "within 33 ms", f"of {row['frames']} frames"]
    return [
        "**Overload**: a camera at 30 frames a second, a budget of one frame, zooming for a second, then still; one "
        "tile costs many budgets:",
        "",
        *table(head, rows),
    ]


def _rate(row: dict[str, float]) -> str:
    return f"{row['fps']:.3g} per second ({row['p50_ms']:.0f} ms, {row['p99_ms']:.0f} ms)"


def endurance() -> list[str]:
    document = load("endurance")
    f = document["figures"]
    memory = f"{f['rss_mb_after_settling']} -> {f['rss_mb_at_the_end']} MB ({f['growth_first_to_last']:+.2%})"
    return [
        f"**Endurance**: {f['frames']:,} frames at random zooms and places, resident memory {memory}, "
        f"{f['different_views']} views that are not bit for bit those of `process`, "
        f"{f['python_threads_left_after_close']} threads left. {source(document)}",
        "",
    ]


def several_steps() -> list[str]:
    """A frame beside what it is made of."""
    document = load("multi_step_cost")
    rows = []
    for name, row in document["figures"].items():
        if not isinstance(row, dict):
            continue
        parts = " + ".join(
            (f"{row['evaluations']} x " if part == "step" else "") + f"{row[f'{part}_call']['median_ms']:.3g} ms {part}"
            for part in ("encode", "step", "decode", "policy")
            if f"{part}_call" in row
        )
        rows.append([name, f"{row['frame']['median_ms']:.4g} ms", parts, f"{row['ratio']:.3f}"])
    return [
        "**A frame of several steps** is its network calls and nothing besides; small networks with random weights. "
        "`ratio` is the frame over the sum of its calls:",
        "",
        *table(["Model", "frame", "calls", "ratio"], rows),
        source(document),
        "",
    ]


def codes() -> list[str]:
    document = load("code_search")
    f = document["figures"]
    return [
        f"**The nearest of {f['codes']} codes** (SinSR, ResShift) for a latent of {f['latent']} x {f['latent']}: "
        f"{f['as_built_peak_mb']} MB, {f['codes_at_once']} codes at a time; {f['all_at_once_peak_mb']} MB all at once; "
        f"{f['pixels_with_another_code']} pixels differ. {source(document)}",
        "",
    ]
