"""Writes the figures of README.md from benchmarks/results/; a test holds them equal. No figure is typed by hand.

python -m benchmarks.report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- figures: python -m benchmarks.report -->", "<!-- end of figures -->"


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]] + [""]


def source(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    tools = ", ".join(f"{name} {value}" for name, value in versions.items())
    return f"`{document['command']}`, {document['date'][:10]}, {machine['cpu']}, {machine['cores']} cores; {tools}."


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


def latency() -> list[str]:
    document = load("edge_latency")
    f = document["figures"]
    names = ("onnxruntime", "onnxruntime_group_norm", "torch_eager", "torch_compile")
    rows = [
        [
            name.replace("_", " "),
            f"{f[name]['median_ms']:.0f} ms",
            f"{f[name]['p25_ms']:.0f} to {f[name]['p75_ms']:.0f} ms",
            f"{f[name]['ratio_to_onnxruntime']:.2f}",
            f"{f[name]['max_abs_difference_to_eager']:.1e}",
        ]
        for name in names
    ]
    head = [
        "128x128 -> 512x512 on the CPU",
        "median",
        "middle half",
        "time against ONNX Runtime",
        "difference to torch",
    ]
    title = f"**Speed of `edge`** on {f['threads']} threads, in turns in one run:"
    return [title, "", *table(head, rows), source(document), ""]


def overhead() -> list[str]:
    document = load("runtime_overhead")
    f = document["figures"]
    rows = [
        [f"colour `{colour}`", f"{f[colour]['outside_share_of_raw']:.1%}", f"{f[colour]['ratio_to_raw']:.3f}"]
        for colour in ("none", "mean_std")
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
                f"{f['engine_mb']} MB",
                str(f["kernels"]),
                f["attentions_fused"],
                f"{f['static_mb_per_run'] / 1000:.1f} GB",
                f"{emulated:.0f} dB",
            ]
        )
    head = ["Bundle", "build", "peak memory", "engine", "kernels", "attention fused", "bytes per run", "FP16 storage"]
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
                f"{row['psnr_to_torch_fp32_db']:.0f} dB",
                str(row["n"]),
            ]
            if "failed" not in row
            else [name, row["failed"], "", "", ""]
            for name, row in f["engines"].items()
        ]
        share = f["gmac_in_8_bits"] / f["gmac"]
        head = [f"{f['tile']} on the CPU", "median", "time against torch eager FP32", "PSNR to it", "n"]
        lines += [
            f"**`{model}` in every CPU engine** on {f['threads']} threads, each in turns with torch eager; INT8 of "
            f"{share:.0%} of {f['gmac']:.0f} G multiply-adds, weights {f['weights']}:",
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


def render() -> str:
    """The block between the two marks in README.md, marks included."""
    body = [
        *quality(),
        *latency(),
        *overhead(),
        *agreement(),
        *cpu_engines(),
        *eight_bits(),
        *engines(),
        *true_size(),
        *starting(),
    ]
    return "\n".join([BEGIN, "", *body, END])


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + render() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
