"""trt-zoom: a zoom into a video, a picture sequence or a camera. Parses, calls the runtime, says what it did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoomrt.cli._common import (
    ANY_PATH,
    install_line,
    progress_bar,
    renamed_option,
    report,
    require,
    say,
    shared_options,
    start,
    tell_notes,
)
from zoomrt.cli.options.numbers import THREADS, Number, Parsed, bad_value, fraction
from zoomrt.cli.options.sizes import sides
from zoomrt.cli.video.zoom_path import parse_keyframes, parse_path
from zoomrt.errors import UsageError

if TYPE_CHECKING:
    from zoomrt.cli.video.clip import Source
    from zoomrt.cli.video.zoom_run import ZoomRun

MAX_SIDE = 16_384  # of a view; no encoder takes more


@click.command("trt-zoom")
@click.argument("bundle", type=ANY_PATH)
@click.argument("video")
@click.option("-o", "--output", required=True, type=ANY_PATH, help="Video file, or pictures: %04d.png.")
@click.option("--zoom", default="1:4", show_default=True, help="Zoom, or from:to over the whole length.")
@click.option("--centre", default="0.5,0.5", show_default=True, help="x,y as fractions of the frame, or from:to.")
@renamed_option("trt-zoom", "--center", "--centre")
@click.option("--keyframes", help="'0=1@0.5,0.5 3=8@0.6,0.4': second=zoom@x,y; in place of --zoom and --centre.")
@click.option(
    "--size",
    type=Parsed(lambda text: sides(text, MAX_SIDE), f"two sides from 1 to {MAX_SIDE}, such as 1280x720"),
    help=f"Of the view, sides up to {MAX_SIDE}, such as 1280x720; that of the input, in square pixels, if left out.",
)
@click.option("--seconds", type=Number(0, 1_000_000_000, above=True), help="Stop after so many seconds of input.")
@click.option(
    "--rate",
    type=Parsed(lambda text: fraction(text, 0.001, 10_000), "frames per second, 0.001 to 10000, such as 30000/1001"),
    help="Frames per second of pictures or a camera, up to 10000, such as 30 or 30000/1001.",
)
@click.option("--device-kind", help="VIDEO is a camera of this kind: v4l2, avfoundation, dshow, or lavfi for tests.")
@click.option("--side-by-side", is_flag=True, help="Bicubic on the left, the bundle on the right.")
@click.option(
    "--budget-ms",
    type=Number(0, 1_000_000, above=True),
    help="Time for one frame; tiles that do not fit are bicubic. No limit if left out.",
)
@click.option("--noise", type=Number(0, 255), default=0.0, help="Sensor noise in codes of 255, smoothed over time.")
@click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
@click.option("--colour", help="Colour step: none, adain or wavelet; the model's own if left out.")
@click.option("--threads", type=THREADS, help="CPU threads; one per core if left out.")
@shared_options
def cli(
    bundle: Path,
    video: str,
    output: Path,
    zoom: str,
    centre: str,
    keyframes: str | None,
    size: tuple[int, int] | None,
    seconds: float | None,
    rate: Fraction | None,
    device_kind: str | None,
    side_by_side: bool,
    budget_ms: float | None,
    noise: float,
    overwrite: bool,
    colour: str | None,
    threads: int | None,
    quiet: bool,
) -> None:
    """Zoom into VIDEO with BUNDLE. VIDEO is a file, numbered pictures (%04d.png) or a camera (--device-kind)."""
    require("video", "reading and writing video")
    from zoomrt.cli.options.numbered import check_output, is_pattern, numbered
    from zoomrt.cli.video.clip import Source
    from zoomrt.cli.video.zoom_run import Progress, ZoomRun
    from zoomrt.files import check_writable, made_folder
    from zoomrt.runtime.upscaler import load
    from zoomrt.runtime.zoom.session import ZoomSession

    if size and side_by_side and size[0] % 2:  # two views side by side share no column of chroma
        raise bad_value("--size", f"{size[0]}x{size[1]}", "an even width with --side-by-side")
    parse_keyframes(keyframes) if keyframes else parse_path(zoom, centre, 1.0)  # before anything is opened
    check_output(output, None if device_kind else video, overwrite=overwrite)
    check_writable(numbered(output, 1) if is_pattern(output) else output)
    started = time.monotonic()
    with contextlib.closing(Source(video, device_kind, rate)) as source:
        lasts = min((value for value in (seconds, source.seconds) if value is not None), default=None)
        path = parse_keyframes(keyframes) if keyframes else parse_path(zoom, centre, lasts)
        view_size = size or _own_size(source, even=side_by_side)
        canvas = (view_size[0] * (2 if side_by_side else 1), view_size[1])
        plan = _pictures if is_pattern(output) else _video
        write, losses = plan(output, canvas, source, seconds)
        if (losses := [*source.losses, *losses]) and not quiet:
            report(f"{video}: {'; '.join(losses)}", kind="warning")
        with (
            load(bundle, threads=threads, colour=colour) as upscaler,
            ZoomSession(upscaler, view_size, budget_ms=budget_ms, noise=noise / 255) as session,
            progress_bar(quiet=quiet) as advance,
            made_folder(output.parent),
        ):
            progress = Progress(advance, output.name, lasts)
            run = ZoomRun(source, session, path, progress, seconds, side_by_side)
            try:
                write(run)
            finally:
                tell_notes(upscaler.stats.notes, set())
        if source.damaged and not quiet:
            report(f"{video}: {source.damaged} packets cannot be decoded: their pictures are missing", kind="warning")
    if not quiet:
        took, counts = time.monotonic() - started, run.counts
        tiles = f"{counts['computed']} tiles computed, {counts['reused']} reused, {counts['bicubic']} bicubic"
        say(f"{output}: {counts['frames']} frames {view_size[0]} x {view_size[1]} px in {took:.1f} s, {tiles}")


_Plan = tuple[Callable[["ZoomRun"], None], Sequence[str]]
"""What writes the output of a run, and what of the source is not in it, in words."""


def _video(output: Path, size: tuple[int, int], source: Source, until: float | None) -> _Plan:
    """Raises StorageError where there is no such video."""
    from zoomrt.cli.video.writer import plan_recording

    recording = plan_recording(output, size, source.rate, source.first, source, until)
    return lambda run: run.video(output, recording), recording.losses


def _pictures(output: Path, size: tuple[int, int], source: Source, _until: float | None) -> _Plan:
    """Of 16 bits a channel where the source has more than 8. Raises StorageError for a size that the format lacks."""
    from zoomrt.runtime.pictures import vips as picture_vips
    from zoomrt.runtime.pictures.images import check_fits
    from zoomrt.runtime.pictures.source import PictureFacts

    deep, curve = source.bits > 8, source.colours.curve
    name, holds = check_fits(PictureFacts(size[1], size[0], 3, deep, alpha=False), output)
    losses = [f"HDR ({curve}) is not tone-mapped, so the pictures look flat"] if curve else []
    if deep and not holds.deep:
        losses.append(f"{source.bits} bits become 8, {name} holds no more")
    elif deep and not picture_vips.available():
        losses.append(f"{source.bits} bits become 8 (to keep them: {install_line('deep')})")
    sixteen = deep and holds.deep and picture_vips.available()
    return lambda run: run.pictures(output, size, deep=sixteen), losses


def _own_size(source: Source, *, even: bool) -> tuple[int, int]:
    """(width, height) of a view that shows the whole of the source."""
    width, height = source.size
    width += width % 2 if even else 0
    if max(width, height) > MAX_SIDE:
        seen, needed = f"{width}x{height}", f"at most {MAX_SIDE} a side"
        raise UsageError("cannot make views so large", seen=seen, needed=needed, remedy="Give a smaller --size.")
    return width, height


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
