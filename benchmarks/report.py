"""Writes benchmarks/RESULTS.md and the few figures of README.md from benchmarks/results/; tests hold them equal.
No figure is typed by hand.

python -m benchmarks.report
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import _zoom_tables
from benchmarks._tables import RESULTS, load, source, table

PAGE = Path(__file__).parent / "RESULTS.md"
README = Path(__file__).parent.parent / "README.md"
GOOD_DB = 40.0
"""Engines farther from FP32 than that are in RESULTS.md only."""
BEGIN, END = "<!-- figures: python -m benchmarks.report -->", "<!-- end of figures -->"


def quality() -> list[str]:
    document = load("edge_quality")
    rows = []
    for name, f in document["figures"].items():
        cells = [
            f"{f[f'{who}_psnr_db']:{sign}.2f} dB, {f[f'{who}_ssim']:{sign}.4f}, {f[f'{who}_ssim_gaussian']:{sign}.4f}"
            for who, sign in (("bicubic", ""), ("edge", ""), ("gain", "+"))
        ]
        rows.append([f"{name.replace('_', ' ')} ({f['count']:.0f})", *cells])
    title = (
        "**Quality of `edge`** on Y of pictures held out of training: PSNR, SSIM (7x7 window), SSIM (Gaussian window):"
    )
    return [title, "", *table(["Pictures", "bicubic", "edge", "gain"], rows), source(document), ""]


def group_norm_forms() -> list[str]:
    document = load("group_norm_forms")
    f = document["figures"]
    rows = [
        [
            row["engine"],
            f"`{row['form']}`",
            f"{row['median_ms']:.0f} ms ({row['p25_ms']:.0f} to {row['p75_ms']:.0f})",
            f"{row['time_over_moments']:.2f}",
            f"{row['psnr_db']:.0f} dB",
        ]
        for row in f["rows"]
    ]
    head = ["Engine", "form", "median (middle half)", "time over `moments`", "PSNR to torch"]
    title = (
        f"**How GroupNorm is written**, `edge` on one tile of {f['tile']}, {f['threads']} threads, in turns "
        "(`zoomrt/export/graph/group_norm.py`):"
    )
    return [title, "", *table(head, rows), source(document), ""]


def overhead() -> list[str]:
    document = load("runtime_overhead")
    f = document["figures"]
    rows = [
        [f"colour `{colour}`", f"{f[colour]['outside_share_of_raw']:.1%}", f"{f[colour]['ratio_to_raw']:.3f}"]
        for colour in ("none", "mean_std", "adain", "wavelet")
        if colour in f
    ]
    head = [f"{f['output']}, {f['tiles']}", "time outside the engine", "whole call over raw engine"]
    return ["**What tiling adds** to the raw engine:", "", *table(head, rows), source(document), ""]


def agreement() -> list[str]:
    document = load("tile_agreement")
    rows = [
        [name, *(f"{f[f'tile_{side}_psnr_db']:.1f} dB" for side in (128, 192))]
        for name, f in document["figures"].items()
    ]
    head = ["Photograph, input crop", "tiles of 128", "tiles of 192 (default)"]
    return ["**Tiles against one untiled pass**, PSNR:", "", *table(head, rows), source(document), ""]


def engines() -> list[str]:
    document = load("build_time")
    rows = [
        [
            f"`{name}`",
            f"{row['seconds_median']:.1f} s",
            f"{row['peak_rss_mb']} MB",
            f"{row['engine_mb']} MB",
            str(row["kernels"]),
            row["attentions_fused"],
            f"{row['static_mb_per_run']:.0f} MB",
        ]
        for name, row in document["figures"]["engines"].items()
    ]
    head = ["Target", "build", "peak memory", "engine", "kernels", "attention fused", "bytes per run"]
    title = "**Engines of `edge`** for 128x128 tiles, built without a GPU and read back, not run:"
    return [title, "", *table(head, rows), source(document), ""]


def build_memory() -> list[str]:
    """Peak memory of whole builds, by target and stage."""
    lines = []
    for path in sorted(RESULTS.glob("build_memory*.json")):
        document = load(path.stem)
        builds = document["figures"]["builds"]
        longest_first = sorted((row["measured_mb"] for row in builds.values()), key=len, reverse=True)
        stages = list(dict.fromkeys(stage for measured in longest_first for stage in measured))
        rows = [
            [
                f"`{name}`",
                *(str(row["measured_mb"].get(stage, "-")) for stage in stages),
                f"{row['measured_peak_mb']} MB",
                f"{row['planned_peak_mb']} MB",
            ]
            for name, row in builds.items()
        ]
        lines += [
            f"**Memory of building `{document['figures']['family']}`**, the most in each stage in MB, the engine "
            "compiler's with it:",
            "",
            *table(["Target", *stages, "peak", "planned before"], rows),
            source(document),
            "",
        ]
    return lines


def true_size() -> list[str]:
    """Builds and CPU speed of the diffusion families, from random weights of the published layout."""
    found = sorted(path.stem for path in RESULTS.glob("true_size_*.json"))
    builds = {name: load(name) for name in found if not name.endswith("_speed")}
    speeds = {name: load(name) for name in found if name.endswith("_speed")}
    rows = []
    for name, document in builds.items():
        f = document["figures"]
        model, precision, target = name.removeprefix("true_size_").split("_")
        emulated = min(result["psnr_db"] for result in f["numerics"]["results"])
        share = f" of {f['share']:.0%}, " if "share" in f else " "
        rows.append(
            [
                f"`{model}` {precision}{share}`{target}`",
                f"{f['seconds']:.0f} s, of it {f['engine_seconds']:.0f} s the compiler",
                f"{f['peak_rss_gb']:.1f} GB, compiler {f['engine_peak_rss_gb']:.1f} GB",
                f"{f['engine_mb']} MB in {f['bundle_mb']} MB",
                str(f["kernels"]),
                f["attentions_fused"],
                f"{f['static_mb_per_run'] / 1000:.1f} GB",
                f"{emulated:.0f} dB",
            ]
        )
    head = ["Bundle", "build", "peak memory", "engine in bundle", "kernels", "attention fused", "bytes per run"]
    head.append("FP16 storage")
    lines = [
        "**The diffusion families at true size**, 128 -> 512, random weights in published layout, files to engine:",
        "",
        *table(head, rows),
        source(next(iter(builds.values()))),
        "",
    ]
    for name, document in speeds.items():
        f, model = document["figures"], name.removeprefix("true_size_").removesuffix("_speed")
        ratio, runners = f["ratio_onnxruntime_to_torch_eager"], f["runners"]
        lines += [
            f"One 512x512 tile of `{model}` in FP32 on {f['threads']} threads, in turns: ONNX Runtime "
            f"{runners['onnxruntime']['median_ms'] / 1000:.1f} s, torch eager "
            f"{runners['torch_eager']['median_ms'] / 1000:.1f} s, ratio {ratio['median']:.2f} (n = {ratio['n']}), "
            f"largest difference {f['max_relative_error']:.0e} of the largest value. {source(document)}",
            "",
        ]
    return lines


def eight_bits() -> list[str]:
    """`edge` in 8 bits beside FP32, FP16 and the naive way; and ModelOpt's quality with the same layers."""
    document, theirs = load("int8_edge"), load("modelopt_compare")
    rows = []
    for name, f in document["figures"].items():
        if not isinstance(f, dict):
            continue
        quantised = "share_quantised" in f
        rows.append(
            [
                f"`{name}`",
                f"{f['share_quantised']:.1%}" if quantised else "",
                f"{f['mean_psnr_to_fp32_db']:.1f}, worst {f['worst_psnr_to_fp32_db']:.1f} dB" if quantised else "",
                f"{f['psnr_to_truth_db']:.3f} dB" if "psnr_to_truth_db" in f else "",
                f"{f['kernels']}" if "kernels" in f else "",
                f"{f['static_mb_per_run']:.0f} MB" if "kernels" in f else "",
                f"{f['bundle_mb']:.1f} MB",
            ]
        )
    head = [
        "Bundle",
        "multiply-adds in 8 bits",
        "PSNR to FP32",
        "PSNR to ground truth",
        "kernels",
        "bytes per run",
        "size",
    ]
    count = document["figures"]["camera_pairs"]
    network = theirs["figures"]["network"]
    beside = ", ".join(f"{name} {row['mean_db']:.1f} dB" for name, row in network.items() if isinstance(row, dict))
    return [
        f"**INT8 and FP8 of `edge`**, share of multiply-adds, ground truth of {count} held-out camera pairs; naive is "
        "every layer, minimum to maximum. Engines for SM89 were read back, not run:",
        "",
        *table(head, rows),
        source(document),
        "",
        f"Beside NVIDIA ModelOpt, the same layers of `edge`, mean PSNR to FP32: {beside}. {source(theirs)}",
        "",
    ]


def cpu_engines() -> list[str]:
    lines = []
    for path in sorted(RESULTS.glob("cpu_engines_*.json")):
        document = load(path.stem)
        f, model = document["figures"], path.stem.removeprefix("cpu_engines_")
        rows = [
            [
                name,
                f"{row['median_ms'] / 1000:.2f} s",
                f"{row['ratio_to_torch_eager']:.2f} ({row['ratio_range'][0]:.2f} to {row['ratio_range'][1]:.2f})",
                f"{row['floor_ms'] / row['eager_median_ms']:.2f}" if row["floor_ms"] else "",
                f"{row['psnr_to_torch_fp32_db']:.0f} dB",
                str(row["n"]),
            ]
            if "failed" not in row
            else [name, row["failed"], "", "", "", ""]
            for name, row in f["engines"].items()
        ]
        share = f["gmac_in_8_bits"] / f["gmac"]
        head = [f"{f['tile']} on the CPU", "median", "time against torch eager FP32", "its floor", "PSNR to it", "n"]
        peaks = ", ".join(f"{peak / 2 * 1e3:.0f} in {kind}" for kind, peak in f["ceilings"]["tflops"].items())
        lines += [
            f"**`{model}` in every CPU engine** on {f['threads']} threads, each in turns with torch eager; INT8 of "
            f"{share:.0%} of the {f['gmac']:.0f} G multiply-adds of layers that have weights (the products inside "
            f"attention are not among them, and stay in floating point), weights {f['weights']}. The floor is what "
            f"these multiply-adds take at the machine's best, {peaks} G a second in large matrix products, against the "
            "same torch eager:",
            "",
            *table(head, rows),
            source(document),
            "",
        ]
    return lines


def starting() -> list[str]:
    document = load("import_time")
    starts = document["figures"]["starts"]
    words = ", ".join(f"`{name}` {row['median_ms']:.0f} ms" for name, row in starts.items())
    return [f"**Starting**, median: {words}. {source(document)}", ""]


def families() -> list[str]:
    """One row per family that was recorded; a peer that failed shows as a dash."""
    rows, documents = [], [load(path.stem) for path in sorted(RESULTS.glob("family_*.json"))]
    if not documents:
        return []
    for document in sorted(documents, key=lambda one: float(one["figures"]["gmac"] or 0)):
        f, found = document["figures"], document["figures"]["rows"]
        name = document["command"].split("--family ")[1].split()[0]
        own = found["zoomrt"]
        rows.append(
            [
                f"`{name}`" + (f", {f['steps']} evaluations" if f["steps"] > 1 else ""),
                f"{f['output'][0]} x {f['output'][1]}",
                f"{f['gmac']:,.0f}",
                _seconds(own),
                *(_against(found.get(peer, {})) for peer in ("torch", "compile")),
                f"{own['psnr_db']:.0f} dB" if own["psnr_db"] is not None else "-",
                f"{own['share_of_peak']:.0%}, {own['bound']}" if own["share_of_peak"] else "-",
                f"{f['build_seconds']:.0f} s, {f['build_peak_rss_gb']:.1f} GB",
                f"{own['memory_mb']:.0f} MB",
                f"{f['bundle_mb']:.0f} MB",
            ]
        )
    head = ["Family", "output", "GMAC", "ONNX Runtime", "torch eager", "torch.compile", "PSNR to torch"]
    head += ["share of peak, largest floor", "build", "engine's memory", "bundle"]
    return [
        "**Every family on the CPU, FP32**, one tile, true size; median with its interval, and the peers' time over "
        "ONNX Runtime's, in turns. Where the probability that an interval holds the median is below 95 %, it is given:",
        "",
        *table(head, rows),
        *(f"* {source(document)}" for document in documents),
        "",
    ]


def _odds(row: dict[str, Any]) -> str:
    """For behind an interval that holds less than 95 %; a ratio's is that of as many samples."""
    return "" if row["coverage"] >= 0.95 else f"; {row['coverage']:.0%}, n = {row['n']}"


def _seconds(row: dict[str, Any]) -> str:
    low, high = row["interval_ms"]
    return f"{row['p50_ms'] / 1e3:.3g} s ({low / 1e3:.3g} to {high / 1e3:.3g}{_odds(row)})"


def _against(row: dict[str, Any]) -> str:
    if "p50_ms" not in row:
        return "-"
    low, high = row["time_over_onnxruntime_interval"]
    return f"{row['time_over_onnxruntime']:.2f} times ({low:.2f} to {high:.2f}{_odds(row)})"


def results() -> str:
    """RESULTS.md."""
    parts = {
        "Quality": quality(),
        "Speed on the CPU": [*families(), *cpu_engines(), *group_norm_forms()],
        "INT8 and FP8": eight_bits(),
        "Engines for GPUs": [*engines(), *build_memory(), *true_size()],
        "Zoom": [*_zoom_tables.zoom(), *_zoom_tables.endurance()],
        "Several steps, and codes": [*_zoom_tables.several_steps(), *_zoom_tables.codes()],
        "The runtime around the engine": [*overhead(), *agreement(), *starting()],
    }
    body = [line for title, lines in parts.items() for line in (f"## {title}", "", *lines)]
    opening = [
        "# Results",
        "",
        "Written by `python -m benchmarks.report` from `benchmarks/results/`; each table names the command, the day",
        "and the machine. How to measure your own: [docs/benchmark.md](../docs/benchmark.md).",
        "",
    ]
    return "\n".join([*opening, *body]).rstrip() + "\n"


def render() -> str:
    """The block between the two marks in README.md, marks included: what a reader wants to know first."""
    truth, engines_of = load("edge_quality")["figures"]["camera_pairs"], "cpu_engines_{}"
    engine = load("true_size_osediff_fp16_sm89")["figures"]
    lines = [
        f"* `edge` is {truth['gain_psnr_db']:.1f} dB better than bicubic on {truth['count']:.0f} camera pairs that it "
        "never saw.",
    ]
    for model in ("edge", "osediff"):
        f = load(engines_of.format(model))["figures"]
        ran = {name: row for name, row in f["engines"].items() if row.get("psnr_to_torch_fp32_db", 0) >= GOOD_DB}
        best = min(ran, key=lambda name: float(ran[name]["ratio_to_torch_eager"]))
        exact = min((n for n in ran if "fp32" in n), key=lambda name: float(ran[name]["ratio_to_torch_eager"]))
        lines.append(
            f"* `{model}`, {f['tile'].replace('x', ' x ')} px on {f['threads']} CPU threads, over torch eager FP32: "
            f"{_of_eager(best, ran[best])}; {_of_eager(exact, ran[exact])}."
        )
    lines.append(
        f"* `osediff` FP16 for `sm89`, from files to engine in {engine['seconds']:.0f} s on two cores without a GPU: "
        f"{engine['kernels']} kernels, {engine['attentions_fused']} attentions fused, {engine['engine_mb']} MB."
    )
    zoom = load("zoom")["figures"]
    pan, live = zoom["previews"]["720p"]["4x"], zoom["live"]["720p"]
    lines.append(
        f"* A 720p preview at zoom 4 with `edge` on {zoom['threads']} CPU threads: {pan['reuse']['p50_ms']:.0f} ms a "
        f"frame in a pan that finds its tiles again, {pan['anew']['p50_ms'] / 1e3:.1f} s with all computed, "
        f"{pan['naive_ms'] / 1e3:.1f} s for the whole frame. With a budget it answered "
        f"{live['answers_per_second']:.0f} of 30 frames a second, as sharp as time allowed."
    )
    return "\n".join([BEGIN, "", *lines, "", END])


def _of_eager(name: str, row: dict[str, Any]) -> str:
    return (
        f"{row['ratio_to_torch_eager']:.2f} in {name} ({row['median_ms'] / 1000:.2f} s, "
        f"{row['psnr_to_torch_fp32_db']:.0f} dB to it)"
    )


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + render() + after, encoding="utf-8")
    PAGE.write_text(results(), encoding="utf-8")


if __name__ == "__main__":
    main()
