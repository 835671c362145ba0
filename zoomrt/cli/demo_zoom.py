"""make demo-zoom: a short clip that zooms and pans over a photograph, side by side with bicubic, and a contact sheet.

The photograph is made half its size first, so that there is something to bring back. The sheet shows moments of the
clip, bicubic above the network, to be looked at.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import click

from zoomrt.cli._build_summary import summary
from zoomrt.cli._common import ANY_PATH, progress_bar, require, say, shared_options, start
from zoomrt.cli.build import build_with_progress
from zoomrt.cli.video.zoom_path import parse_keyframes

SIZE = (480, 480)
RATE = 15
PHOTOGRAPH = "astronaut"  # NASA, public domain; of scikit-image
KEYFRAMES = "0=1@0.5,0.5 2.5=5@0.45,0.23 3.5=5@0.62,0.62 4=5@0.62,0.62"
"""In to the face, over to the badge, and a moment of rest."""
SECONDS = 4.0
MOMENTS = (0.8, 1.6, 2.5, 3.5)
"""Seconds that the sheet shows."""


@click.command("demo-zoom")
@click.option("-o", "--output", default="out", show_default=True, type=ANY_PATH, help="Folder.")
@shared_options
def cli(output: Path, quiet: bool) -> None:
    """Build edge, zoom into a photograph, write OUTPUT/zoom.mp4 and OUTPUT/zoom.png."""
    require("bench", "the demo, for which make demo-zoom installs scikit-image,")
    require("export", "the demo builds a bundle and")
    require("video", "the demo writes a video and")
    from zoomrt.export.request import BuildRequest

    bundle = output / "edge-fp32-cpu"
    result = build_with_progress(BuildRequest(model="edge"), bundle, use_cache=True, quiet=quiet)
    line = render(bundle, output, quiet=quiet)
    if not quiet:
        say(*summary(result), "", line)


def render(bundle: Path, output: Path, *, quiet: bool) -> str:
    """Write the clip and the sheet; returns the line that says so."""
    import numpy as np
    from PIL import Image
    from skimage import data

    from zoomrt.cli.video.sheet import sheet
    from zoomrt.cli.video.writer import plan_recording, video_writer
    from zoomrt.cli.video.zoom_run import half
    from zoomrt.runtime.frames.pixel_formats import CameraFrame
    from zoomrt.runtime.pictures.images import Picture, write_picture
    from zoomrt.runtime.zoom.session import ZoomSession

    picture = Image.fromarray(getattr(data, PHOTOGRAPH)())
    frame = CameraFrame((np.asarray(picture.resize((256, 256), Image.Resampling.BICUBIC)),), matrix="bt709")
    path, count = parse_keyframes(KEYFRAMES), round(SECONDS * RATE)
    columns, computed, reused = [], 0, 0
    recording = plan_recording(output / "zoom.mp4", (2 * SIZE[0], SIZE[1]), Fraction(RATE), frame)
    with (
        ZoomSession(bundle, SIZE) as session,
        video_writer(output / "zoom.mp4", recording) as writer,
        progress_bar(quiet=quiet) as advance,
    ):
        for index in range(count):
            advance("zoom.mp4", index / count)
            view = path.at(index / RATE)
            target, canvas = writer.canvas()
            session.bicubic(frame, *view, out=half(canvas, right=False))
            result = session.process(frame, *view, out=half(canvas, right=True))
            computed, reused = computed + result.computed, reused + result.reused
            writer.write(target, Fraction(index, RATE))
        for moment in MOMENTS:
            view = path.at(moment)
            pair = session.bicubic(frame, *view).pixels, session.process(frame, *view).pixels
            columns.append((f"{view[0]:.1f}x: bicubic above, edge below", np.concatenate(pair)))
    contact = sheet(columns, (0, 0, SIZE[0], 2 * SIZE[1]), whole=False)
    write_picture(Picture(np.asarray(contact)), output / "zoom.png")
    return (
        f"{output / 'zoom.mp4'}: {count} frames, {computed} tiles computed, {reused} reused; see {output / 'zoom.png'}"
    )


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
