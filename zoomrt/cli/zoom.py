"""trt-zoom: a zoom into a video, a picture sequence or a camera. Parses, calls the runtime, says what it did."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt.cli._common import Advance, progress_bar, report, require, say, shared_options, start, tell_notes
from zoomrt.cli._numbers import THREADS, Number, Parsed, fraction, whole
from zoomrt.cli._zoom_path import ZoomPath, parse_keyframes, parse_path

if TYPE_CHECKING:
    from zoomrt.cli._video import Source
    from zoomrt.runtime.pixel_formats import CameraFrame
    from zoomrt.runtime.zoom import ZoomSession

MAX_SIDE = 16_384  # of a view; no encoder takes more


@click.command("trt-zoom")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("video")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Video file, or pictures: %04d.png."
)
@click.option("--zoom", default="1:4", show_default=True, help="Zoom, or from:to over the whole length.")
@click.option("--center", default="0.5,0.5", show_default=True, help="x,y as fractions of the frame, or from:to.")
@click.option("--keyframes", help="'0=1@0.5,0.5 3=8@0.6,0.4': second=zoom@x,y; in place of --zoom and --center.")
@click.option(
    "--size",
    type=Parsed(lambda text: _sides(text), f"two even sides from 2 to {MAX_SIDE}, such as 1280x720"),
    help=f"Of the view, sides up to {MAX_SIDE}, such as 1280x720; that of the input if left out.",
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
@click.option("--threads", type=THREADS, help="CPU threads; one per core if left out.")
@shared_options
def cli(
    bundle: Path,
    video: str,
    output: Path,
    zoom: str,
    center: str,
    keyframes: str | None,
    size: tuple[int, int] | None,
    seconds: float | None,
    rate: Fraction | None,
    device_kind: str | None,
    side_by_side: bool,
    budget_ms: float | None,
    noise: float,
    overwrite: bool,
    threads: int | None,
    quiet: bool,
) -> None:
    """Zoom into VIDEO with BUNDLE. VIDEO is a file, numbered pictures (%04d.png) or a camera (--device-kind)."""
    require("video", "reading and writing video")
    from zoomrt.cli._numbered import check_output, is_pattern
    from zoomrt.cli._pictures import Job
    from zoomrt.cli._video import Source
    from zoomrt.cli.upscale import output_folders
    from zoomrt.runtime.upscaler import load
    from zoomrt.runtime.zoom import ZoomSession

    check_output(output, None if device_kind else video, overwrite=overwrite)
    started = time.monotonic()
    source = Source(video, device_kind, rate)
    with contextlib.closing(source):
        if source.loss and not quiet:
            report(f"{video}: {source.loss}", kind="warning")
        lasts = _shortest(seconds, source.seconds)
        path = parse_keyframes(keyframes) if keyframes else parse_path(zoom, center, lasts)
        view_size = size or (source.size[0] // 2 * 2, source.size[1] // 2 * 2)  # video has half-size chroma
        with (
            load(bundle, threads=threads) as upscaler,
            ZoomSession(upscaler, view_size, budget_ms=budget_ms, noise=noise / 255) as session,
            progress_bar(quiet=quiet) as advance,
            output_folders([Job(Path(video), output)]),
        ):
            run = _Run(session, path, view_size, side_by_side, _Progress(advance, output.name, lasts))
            write = run.pictures if is_pattern(output) else run.video
            try:
                write(source, output, seconds)
            finally:
                tell_notes(upscaler.stats.notes, set())
    if not quiet:
        took, counts = time.monotonic() - started, run.counts
        tiles = f"{counts['computed']} tiles computed, {counts['reused']} reused, {counts['bicubic']} bicubic"
        say(f"{output}: {counts['frames']} frames {view_size[0]} x {view_size[1]} px in {took:.1f} s, {tiles}")


class _Progress:
    """Share of the input done, with the time that is left; the number of frames where the length is not known."""

    def __init__(self, advance: Advance, name: str, seconds: float | None) -> None:
        self._advance, self._name, self._seconds = advance, name, seconds
        self._started = time.monotonic()

    def show(self, at_seconds: float, frames: int) -> None:
        if not self._seconds:
            self._advance(f"{self._name}: frame {frames}", 0.0)
            return
        share = min(at_seconds / self._seconds, 1.0)
        left = (time.monotonic() - self._started) * (1 - share) / share if share > 0 else 0.0
        self._advance(f"{self._name}: frame {frames}, {int(left) // 60}:{int(left) % 60:02d} left", share)


class _Run:
    """One zoom under way."""

    def __init__(
        self, session: ZoomSession, path: ZoomPath, size: tuple[int, int], side_by_side: bool, progress: _Progress
    ) -> None:
        self._session, self._path, self._size, self._both = session, path, size, side_by_side
        self._progress = progress
        self.counts: Counter[str] = Counter()

    def video(self, source: Source, output: Path, seconds: float | None) -> None:
        """Write a video file, with the sound of the source."""
        from zoomrt.cli._video import VideoWriter

        size = self._canvas_size()
        with VideoWriter(output, size, source.rate, source.like, source.audio, source.colours) as writer:
            for frame, sound in source.packets():
                if sound is not None:
                    if seconds is None or sound.pts is None or sound.pts * sound.time_base < seconds:
                        writer.copy_sound(sound)
                    continue
                at = _second(frame, self.counts["frames"], source.rate)
                if seconds is not None and at >= seconds:
                    break
                target, planes = writer.canvas()
                self._render(source.camera_frame(frame), at, planes)
                writer.write(target, at)

    def pictures(self, source: Source, output: Path, seconds: float | None) -> None:
        """Write numbered pictures, counted from 1; each is whole or not there."""
        import numpy as np

        from zoomrt.cli._numbered import numbered
        from zoomrt.runtime.images import Picture, write_picture
        from zoomrt.runtime.pixel_formats import CameraFrame

        width, height = self._canvas_size()
        for frame, _ in source.packets():
            if frame is None:
                continue
            at = _second(frame, self.counts["frames"], source.rate)
            if seconds is not None and at >= seconds:
                break
            picture = np.empty((height, width, 3), np.uint8)
            self._render(source.camera_frame(frame), at, CameraFrame((picture,)))
            write_picture(Picture(picture), numbered(output, self.counts["frames"]))

    def _render(self, frame: CameraFrame, at: Fraction, canvas: CameraFrame) -> None:
        at_seconds = float(at)
        zoom, center = self._path.at(at_seconds)
        out = canvas
        if self._both:
            out = half(canvas, right=True)
            self._session.bicubic(frame, zoom, center, out=half(canvas, right=False))
        result = self._session.process(frame, zoom, center, out=out)
        self.counts["frames"] += 1
        for name in ("computed", "reused", "bicubic"):
            self.counts[name] += getattr(result, name)
        self._progress.show(at_seconds, self.counts["frames"])

    def _canvas_size(self) -> tuple[int, int]:
        return self._size[0] * (2 if self._both else 1), self._size[1]


def half(canvas: CameraFrame, *, right: bool) -> CameraFrame:
    """The left or right half of a frame, in place."""
    from zoomrt.runtime.pixel_formats import CameraFrame

    planes = []
    for plane in canvas.planes:
        middle = plane.shape[1] // 2
        planes.append(plane[:, middle:] if right else plane[:, :middle])
    return CameraFrame(tuple(planes), canvas.format, canvas.matrix, canvas.full_range, canvas.siting)


def _second(frame: Any, count: int, rate: Fraction) -> Fraction:
    return count / rate if frame.pts is None else frame.pts * Fraction(frame.time_base)


def _shortest(*seconds: float | None) -> float | None:
    return min((value for value in seconds if value is not None), default=None)


def _sides(text: str) -> tuple[int, int]:
    """`1280x720` -> (1280, 720), even, because video has half-size chroma. Raises ValueError."""
    width, height = (whole(word, 2, MAX_SIDE) for word in text.lower().split("x"))
    if width % 2 or height % 2:
        raise ValueError(text)
    return width, height


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
