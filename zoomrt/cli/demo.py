"""make demo: build `edge`, upscale photographs it has not seen, print figures and write a side-by-side picture.

The input is a photograph made four times smaller with bicubic interpolation, so that the truth is known.
"""

from __future__ import annotations

import statistics
import timeit
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt.cli._build_summary import summary
from zoomrt.cli._common import ANY_PATH, lined_up, require, require_backend, say, shared_options, start
from zoomrt.cli.build import build_with_progress
from zoomrt.errors import MissingDependency
from zoomrt.export.targets import TARGETS
from zoomrt.files import check_writable, made_folder
from zoomrt.runtime.backends import BACKENDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALE = 4
BORDER = 4
"""Pixels left out on each side before measuring, as the literature does for x4."""

PHOTOGRAPHS = {"astronaut": (180, 120, 340, 280), "chelsea": (120, 60, 248, 188), "coffee": (250, 60, 450, 260)}
"""Photographs of scikit-image that were held out of the training, and the region (in output pixels) to enlarge.

astronaut: NASA, public domain; chelsea: Stefan van der Walt, CC0; coffee: Rachel Michetti, CC0.
"""

REPEATS = 3


@click.command("demo")
@click.option("--photograph", default="astronaut", show_default=True, type=click.Choice(sorted(PHOTOGRAPHS)))
@click.option("-o", "--output", default="out", show_default=True, type=ANY_PATH, help="Folder.")
@shared_options
def cli(photograph: str, output: Path, quiet: bool) -> None:
    """Build edge, upscale real photographs, print figures and write OUTPUT/demo.png."""
    require("bench", "the demo, for which make demo installs scikit-image,")
    require("export", "the demo builds a bundle and")
    check_writable(output / "demo.png")
    from zoomrt.export.request import BuildRequest

    def show(*lines: str) -> None:
        if not quiet:
            say(*lines)

    bundle = output / "edge-fp32-cpu"
    show("1. build edge for this processor")
    show(*summary(build_with_progress(BuildRequest(model="edge"), bundle, use_cache=True, quiet=quiet)), "")
    show("2. compile edge in FP16 for an RTX 40 card; it is read back, not run")
    try:
        require_backend(BACKENDS.named(TARGETS["sm89"].own_backends[0]))
    except MissingDependency as missing:
        show(f"skipped: {missing}", "")
    else:
        request = BuildRequest(model="edge", precision="fp16", target="sm89")
        show(*summary(build_with_progress(request, output / "edge-fp16-sm89", use_cache=True, quiet=quiet)), "")
    show("3. upscale photographs that edge has not seen")
    show(*_compare(bundle, photograph, output))


def _compare(bundle: Path, chosen: str, output: Path) -> list[str]:
    """Upscale every photograph, write the sheet of the chosen one; returns the table of figures."""
    from zoomrt.runtime.upscaler import load

    rows = []
    with load(bundle) as upscaler:
        for name, crop in PHOTOGRAPHS.items():
            truth = _photograph(name)
            small = _bicubic(truth, Fraction(1, SCALE))
            bicubic, result = _bicubic(small, Fraction(SCALE)), upscaler.upscale(small)
            seconds = statistics.median(timeit.repeat(lambda: upscaler.upscale(small), number=1, repeat=REPEATS))  # noqa: B023
            before, after = psnr_y(bicubic, truth), psnr_y(result, truth)
            figures = f"{before:.2f} dB", f"{after:.2f} dB", f"{after - before:+.2f} dB", f"{seconds:.2f} s"
            rows.append([name, _size(small), _size(result), *figures])
            if name == chosen:
                columns = [
                    (f"input {_size(small)}, enlarged", small.repeat(SCALE, 0).repeat(SCALE, 1)),
                    (f"bicubic, {before:.2f} dB", bicubic),
                    (f"zoomrt edge, {after:.2f} dB", result),
                    ("original", truth),
                ]
                _write_sheets(columns, crop, output)
    return [
        *lined_up(("photograph", "input", "output", "bicubic", "zoomrt", "gain", "time"), rows),
        f"PSNR on Y, {BORDER}-pixel border cropped; input: photograph / {SCALE} by bicubic; time: median of {REPEATS}",
        f"see {output / 'demo.png'}",
    ]


def psnr_y(picture: NDArray[Any], truth: NDArray[Any]) -> float:
    """PSNR in dB on the Y of BT.601 (MATLAB rgb2ycbcr: 16..235), peak 255; (H, W, 3) uint8 both."""
    import numpy as np

    from zoomrt.runtime.tiles.psnr import psnr_db

    weights = np.array([65.481, 128.553, 24.966]) / 255
    expected, got = (pixels[BORDER:-BORDER, BORDER:-BORDER] @ weights for pixels in (truth, picture))
    return psnr_db(expected, got, 255)


def _photograph(name: str) -> NDArray[Any]:
    """(H, W, 3) uint8, sides cut to multiples of SCALE."""
    import numpy as np
    from skimage import data

    pixels = np.asarray(getattr(data, name)())
    height, width = (side // SCALE * SCALE for side in pixels.shape[:2])
    return pixels[:height, :width]


def _bicubic(pixels: NDArray[Any], scale: Fraction) -> NDArray[Any]:
    import numpy as np
    from PIL import Image

    size = (int(pixels.shape[1] * scale), int(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))


def _size(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _write_sheets(columns: list[tuple[str, NDArray[Any]]], crop: tuple[int, int, int, int], output: Path) -> None:
    """OUTPUT/demo.png with everything, OUTPUT/demo-crop.png with the enlarged regions only; atomic."""
    import numpy as np

    from zoomrt.cli.video.sheet import sheet
    from zoomrt.runtime.pictures.images import Picture, write_picture

    with made_folder(output):
        write_picture(Picture(np.asarray(sheet(columns, crop))), output / "demo.png")
        write_picture(Picture(np.asarray(sheet(columns, crop, whole=False))), output / "demo-crop.png")


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
