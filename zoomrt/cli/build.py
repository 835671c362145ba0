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
from zoomrt.cli.options.families import AUTO, FamilyCommand
from zoomrt.cli.options.groups import in_group
from zoomrt.cli.options.listing import models_table, published_table
from zoomrt.cli.options.numbers import Number, Parsed, Whole, whole
from zoomrt.cli.options.published import needed, with_files, with_stand_ins
from zoomrt.errors import UsageError
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildPlan, BuildRequest, resolve
from zoomrt.export.targets import TARGETS
from zoomrt.models.published.licences import notices
from zoomrt.runtime.backends import BACKENDS

if TYPE_CHECKING:
    from zoomrt.export.build import BuildResult

MAX_SIDE, MAX_BATCH, MAX_MINUTES = 16_384, 1024, 100_000
"""Far above what any machine holds or anybody waits for: a slip of the hand is told before the work."""


_model, _files, _where, _tiles, _eight_bit, _limits, _output = (
    in_group(title)
    for title in ("Model", "Published files", "Where it runs", "Tiles", "8-bit layers", "Checks and limits", "Output")
)


@click.command("trt-build", cls=FamilyCommand)
@_model("--model", help="Model family; auto or left out: what the weights' keys say; edge without either.")
@_model("--list", "listing", is_flag=True, help="Print the model families, and which files are here, and leave.")
@_model("--weights", type=ANY_PATH, help="Checkpoint; if left out, those inside the package or published.")
@_model("--colour", help="Colour step: none, adain or wavelet; the model's own if left out.")
@_files("--published", help="Which published checkpoint to fetch; the family's first if left out (see --list).")
@_files("--accept-licence", is_flag=True, help="Accept a licence that forbids commercial use; asked for once.")
@_files("--offline", is_flag=True, help="Fetch nothing: say which files are missing, and where to put them.")
@_where("--target", default="cpu", show_default=True, help=f"Where it will run: {', '.join(TARGETS)}.")
@_where("--precision", default="fp32", show_default=True, help=f"One of {', '.join(PRECISIONS.names())}.")
@_where("--backend", help=f"Not the target's own, or the fastest on a CPU: {', '.join(BACKENDS.names())}.")
@_where("--attention-plugin", is_flag=True, help="tensorrt: heads above 256 by our own kernel (not run yet).")
@_tiles("--tile", type=Whole(1, MAX_SIDE), help="Tile side in input pixels; the family's advice if left out.")
@_tiles("--overlap", type=Whole(0, MAX_SIDE), help="Input pixels that neighbouring tiles share.")
@_tiles(
    "--batch",
    "batches",
    type=Parsed(lambda text: _batch_sizes(text), f"whole numbers from 1 to {MAX_BATCH}, such as 1,4"),
    default="1",
    show_default=True,
    help=f"Batch sizes to build, up to {MAX_BATCH}, such as 1,4.",
)
@_eight_bit("--calibration", type=ANY_PATH, help="Folder of pictures to take ranges from.")
@_eight_bit("--calibration-hr", is_flag=True, default=None, help="They are high-resolution targets; degrade them.")
@_eight_bit("--tiles", type=Whole(1, 100_000), help="Tiles to take ranges from; 16 if left out.")
@_eight_bit("--method", help="How ranges are chosen: mse, max, percentile or entropy.")
@_eight_bit(
    "--min-psnr", type=Number(0, 200, above=True), help="Decibels to FP32 that each tile keeps; 40 if left out."
)
@_eight_bit("--search-minutes", type=Number(0, MAX_MINUTES), help="To find what can be quantised; 10 if left out.")
@_limits("--require-faster", is_flag=True, help="Refuse bf16 or int8 that is measured no faster than FP32 (cpu).")
@_limits("--bisect", is_flag=True, help="Where the graph differs from torch, name the first node that does.")
@_limits(
    "--timeout",
    "minutes",
    type=Number(0, MAX_MINUTES, above=True),
    default=30.0,
    show_default=True,
    help="Minutes for one engine.",
)
@_limits(
    "--max-memory",
    type=Parsed(lambda text: _memory_bytes(text), "a size above zero in M, G, MiB or GiB, such as 12G"),
    help="Refuse a build that would take more, such as 800M, 12G or 12GiB.",
)
@_output("-o", "--output", type=ANY_PATH, help="Bundle folder; (MODEL or WEIGHTS)-PRECISION-TARGET if left out.")
@_output("--no-cache", is_flag=True, help="Build even if the same request was built before.")
@shared_options
def cli(
    *,
    model: str | None,
    listing: bool,
    weights: Path | None,
    published: str | None,
    accept_licence: bool,
    offline: bool,
    calibration: Path | None,
    calibration_hr: bool | None,
    tiles: int | None,
    method: str | None,
    min_psnr: float | None,
    search_minutes: float | None,
    minutes: float,
    output: Path | None,
    no_cache: bool,
    quiet: bool,
    **asked: Any,
) -> None:
    """Build a bundle that trt-upscale and zoomrt.load can run."""
    if listing:
        say(*models_table(), "", *published_table())
        return
    eight_bit = _calibration(
        pictures=calibration,
        high_resolution=calibration_hr,
        tiles=tiles,
        method=method,
        min_psnr_db=min_psnr,
        search_minutes=search_minutes,
    )
    request = BuildRequest(
        model=_chosen(model, weights), weights=weights, timeout_s=minutes * 60, calibration=eight_bit, **asked
    )
    files = needed(request, published)
    _require_packages(resolve(with_stand_ins(request, files)))
    if files:
        if not quiet:
            say(*notices(files))
        with progress_bar(quiet=quiet, lines=True) as advance:
            request = with_files(request, files, accept_licence=accept_licence, offline=offline, on_progress=advance)
    result = build_with_progress(request, output or request.default_output, use_cache=not no_cache, quiet=quiet)
    if not quiet:
        from zoomrt.cli._build_summary import summary

        say(*summary(result))


def _require_packages(plan: BuildPlan) -> None:
    require("export", "building a bundle")
    if plan.request.bisect:
        require("debug", "--bisect")
    if plan.request.attention_plugin:
        require("kernels", "--attention-plugin")
    if plan.backend.compiles:  # graphs are built without what runs them
        require_backend(plan.backend)


def build_with_progress(request: BuildRequest, output: Path, *, use_cache: bool, quiet: bool) -> BuildResult:
    """Build, showing each stage: a bar on a terminal, else a plain line."""
    from zoomrt.export.build import build

    with progress_bar(quiet=quiet, lines=True) as advance:
        return build(request, output, use_cache=use_cache, on_progress=advance)


def _chosen(model: str | None, weights: Path | None) -> str | None:
    """The model as typed; None where its weights are to tell."""
    if model != AUTO:
        return model
    if weights is None:
        raise UsageError(
            "cannot tell the model", seen=f"--model {AUTO} alone", needed="--weights too", remedy="Pass --weights FILE."
        )
    return None


def _batch_sizes(text: str) -> tuple[int, ...]:
    """`1,4` -> (1, 4), ascending. Raises ValueError."""
    return tuple(sorted({whole(word.strip(), 1, MAX_BATCH) for word in text.split(",")}))


def _calibration(**given: Any) -> Calibration | None:
    """What was given, the rest by default; None if nothing was."""
    chosen = {name: value for name, value in given.items() if value is not None}
    return Calibration(**chosen) if chosen else None


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
