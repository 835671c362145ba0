"""trt-build: from a checkpoint to a verified bundle. Parses, calls the export pipeline, prints what came out.

Names are checked before anything heavy is imported, so a typo is answered at once and without torch.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt.calibration.options import Calibration
from zoomrt.cli._common import ANY_PATH, progress_bar, require, require_backend, say, shared_options, start
from zoomrt.cli.options.numbers import Number, Parsed, Whole, whole
from zoomrt.errors import UsageError, unknown_name
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.targets import TARGETS, check_precision, target_named
from zoomrt.runtime.backends import BACKENDS

if TYPE_CHECKING:
    from zoomrt.export.build import BuildResult
    from zoomrt.export.request import BuildRequest

MAX_SIDE, MAX_BATCH, MAX_MINUTES = 16_384, 1024, 100_000
"""Far above what any machine holds or anybody waits for: a slip of the hand is told before the work."""


@click.command("trt-build")
@click.option("--model", help="Model family; auto or left out: what the weights' keys say; edge without either.")
@click.option("--list", "listing", is_flag=True, help="Print the model families and leave.")
@click.option("--weights", type=ANY_PATH, help="Checkpoint; if left out, those inside the package.")
@click.option("--base", type=ANY_PATH, help="Stable Diffusion 2.1-base: diffusers folder or one file.")
@click.option("--decoder", type=ANY_PATH, help="The decoder's file, where a model has two.")
@click.option("--prompt", help="Text for the base's text encoder; empty if left out.")
@click.option("--prompt-embedding", type=ANY_PATH, help="File with the encoded prompt instead.")
@click.option("--coeff-t", type=Whole(0, 999), help="Strength, as a timestep; lower changes less.")
@click.option("--autoencoder", type=ANY_PATH, help="The autoencoder's file, where it is a file of its own.")
@click.option("--wdn-weights", type=ANY_PATH, help="Second checkpoint, which keeps noise, to mix in.")
@click.option("--denoise-strength", type=Number(0, 1), help="Share of the first one in that mixture; 0.5 if left out.")
@click.option(
    "--steps", type=Whole(1, 1000), help="resshift: 15 or 4, as trained; jit-sr, skipdiff: as published if left out."
)
@click.option("--sampler", help="jit-sr: heun or euler; heun if left out.")
@click.option("--conditioning", help="jit-sr: token or concat, as the checkpoint was trained; token if left out.")
@click.option("--guidance", type=Number(0, 100), help="jit-sr: guidance scale; 1, which is none, if left out.")
@click.option("--residual-scale", type=Number(0, 10), help="edsr: res_scale of training; known for widths 64 and 256.")
@click.option("--precision", default="fp32", show_default=True, help=f"One of {', '.join(PRECISIONS.names())}.")
@click.option("--target", default="cpu", show_default=True, help=f"Where it will run: {', '.join(TARGETS)}.")
@click.option("--tile", type=Whole(1, MAX_SIDE), help="Tile side in input pixels; the family's advice if left out.")
@click.option("--overlap", type=Whole(0, MAX_SIDE), help="Input pixels that neighbouring tiles share.")
@click.option(
    "--batch",
    "batches",
    type=Parsed(lambda text: _batch_sizes(text), f"whole numbers from 1 to {MAX_BATCH}, such as 1,4"),
    default="1",
    show_default=True,
    help=f"Batch sizes to build, up to {MAX_BATCH}, such as 1,4.",
)
@click.option("--backend", help=f"Not the target's own, or the fastest on a CPU: {', '.join(BACKENDS.names())}.")
@click.option("--attention-plugin", is_flag=True, help="tensorrt: heads above 256 by our own kernel (not run yet).")
@click.option("--require-faster", is_flag=True, help="Refuse bf16 or int8 that is measured no faster than FP32 (cpu).")
@click.option("--colour", help="Colour step: none, adain or wavelet; the model's own if left out.")
@click.option("--calibration", type=ANY_PATH, help="8 bits: folder of pictures to take ranges from.")
@click.option("--calibration-hr", is_flag=True, help="They are high-resolution targets; degrade them first.")
@click.option("--tiles", type=Whole(1, 100_000), help="8 bits: tiles to take ranges from; 16 if left out.")
@click.option("--method", help="8 bits: how ranges are chosen: mse, max, percentile or entropy.")
@click.option(
    "--min-psnr", type=Number(0, 200, above=True), help="8 bits: decibels to FP32 that each tile keeps; 40 if left out."
)
@click.option(
    "--search-minutes", type=Number(0, MAX_MINUTES), help="8 bits: to find what can be quantised; 10 if left out."
)
@click.option(
    "--timeout",
    "minutes",
    type=Number(0, MAX_MINUTES, above=True),
    default=30.0,
    show_default=True,
    help="Minutes for one engine.",
)
@click.option(
    "--max-memory",
    type=Parsed(lambda text: _memory_bytes(text), "a size above zero in M, G, MiB or GiB, such as 12G"),
    help="Refuse a build that would take more, such as 800M, 12G or 12GiB.",
)
@click.option("--bisect", is_flag=True, help="Where the graph differs from torch, name the first node that does.")
@click.option("--no-cache", is_flag=True, help="Build even if the same request was built before.")
@click.option(
    "-o",
    "--output",
    type=ANY_PATH,
    help="Bundle folder; (MODEL or WEIGHTS)-PRECISION-TARGET if left out.",
)
@shared_options
def cli(
    model: str | None,
    listing: bool,
    weights: Path | None,
    base: Path | None,
    decoder: Path | None,
    prompt: str | None,
    prompt_embedding: Path | None,
    coeff_t: int | None,
    autoencoder: Path | None,
    wdn_weights: Path | None,
    denoise_strength: float | None,
    steps: int | None,
    sampler: str | None,
    conditioning: str | None,
    guidance: float | None,
    residual_scale: float | None,
    precision: str,
    target: str,
    tile: int | None,
    overlap: int | None,
    batches: tuple[int, ...],
    backend: str | None,
    attention_plugin: bool,
    require_faster: bool,
    colour: str | None,
    calibration: Path | None,
    calibration_hr: bool,
    tiles: int | None,
    method: str | None,
    min_psnr: float | None,
    search_minutes: float | None,
    minutes: float,
    max_memory: int | None,
    bisect: bool,
    no_cache: bool,
    output: Path | None,
    quiet: bool,
) -> None:
    """Build a bundle that trt-upscale and zoomrt.load can run."""
    from zoomrt.models.families import family_names

    if listing:
        from zoomrt.models.families import table

        say(*table())
        return
    model = _chosen(model, weights)
    if model is not None and model not in family_names():
        raise unknown_name("model", model, family_names())
    check_precision(PRECISIONS.named(precision), target_named(target))
    runner = BACKENDS.named(backend or target_named(target).backends[0])
    choice = _calibration(
        pictures=calibration,
        high_resolution=calibration_hr or None,
        tiles=tiles,
        method=method,
        min_psnr_db=min_psnr,
        search_minutes=search_minutes,
    )
    require("export", "building a bundle")
    if bisect:
        require("debug", "--bisect")
    if attention_plugin:
        require("kernels", "--attention-plugin")
    if runner.device == "cpu" or runner.compiles:  # for ONNX Runtime on CUDA graphs are built without it
        require_backend(runner)

    from zoomrt.export.request import BuildRequest
    from zoomrt.models.options import given

    request = BuildRequest(
        model=model,
        weights=weights,
        precision=precision,
        target=target,
        tile=tile,
        overlap=overlap,
        batches=batches,
        backend=backend,
        require_faster=require_faster,
        attention_plugin=attention_plugin,
        timeout_s=minutes * 60,
        max_memory=max_memory,
        options=given(
            base=base,
            decoder=decoder,
            prompt=prompt,
            prompt_embedding=prompt_embedding,
            coeff_t=coeff_t,
            autoencoder=autoencoder,
            wdn_weights=wdn_weights,
            denoise_strength=denoise_strength,
            steps=steps,
            sampler=sampler,
            conditioning=conditioning,
            guidance=guidance,
            residual_scale=residual_scale,
        ),
        colour=colour,
        bisect=bisect,
        calibration=choice,
    )
    name = model or (weights.stem if weights else "edge")
    folder = output or Path(f"{name}-{precision}-{target}")
    result = build_with_progress(request, folder, use_cache=not no_cache, quiet=quiet)
    if not quiet:
        from zoomrt.cli._build_summary import summary

        say(*summary(result))


def build_with_progress(request: BuildRequest, output: Path, *, use_cache: bool, quiet: bool) -> BuildResult:
    """Build, showing each stage: a bar on a terminal, else a plain line."""
    from zoomrt.export.build import build

    with progress_bar(quiet=quiet, lines=True) as advance:
        return build(request, output, use_cache=use_cache, on_progress=advance)


def _chosen(model: str | None, weights: Path | None) -> str | None:
    """The model as typed; None where its weights are to tell."""
    if model != "auto":
        return model
    if weights is None:
        raise UsageError(
            "cannot tell the model", seen="--model auto alone", needed="--weights too", remedy="Pass --weights FILE."
        )
    return None


def _batch_sizes(text: str) -> tuple[int, ...]:
    """`1,4` -> (1, 4), ascending. Raises ValueError."""
    return tuple(sorted({whole(word.strip(), 1, MAX_BATCH) for word in text.split(",")}))


def _calibration(**given: Any) -> Calibration | None:
    """What was given, the rest by default; None if nothing was."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if not chosen:
        return None
    choice = Calibration(**chosen)
    choice.check()
    return choice


def _memory_bytes(text: str) -> int:
    """`800M`, `12GiB`: decimal or, with i, binary units. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([MG])(?:(I)?B)?", text.strip().upper())
    if found is None or not (value := float(found[1])):
        raise ValueError(text)
    step = 1024 if found[3] else 1000
    return int(value * step ** {"M": 2, "G": 3}[found[2]])


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
