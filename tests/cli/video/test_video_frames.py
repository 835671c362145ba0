"""FFmpeg's pictures as camera frames: any pixel format, turned and mirrored, against plain arithmetic on the pixels."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

av = pytest.importorskip("av")

from video_clips import planar, ramps, write_frames  # noqa: E402

from zoomrt.cli.video.clip import Source  # noqa: E402
from zoomrt.cli.video.frames import camera_frame, colours_of, losses_of  # noqa: E402
from zoomrt.runtime.frames.yuv import read_window  # noqa: E402

ONE = 1 << 16


def rgb(frame: Any) -> NDArray[np.float32]:
    """(H, W, 3) in [0, 1]."""
    height, width = frame.shape
    return read_window(frame, slice(0, height), slice(0, width)).transpose(1, 2, 0)


def first_of(path: Path) -> tuple[Source, Any]:
    source = Source(str(path), None)
    return source, next(frame for frame, _ in source.packets() if frame is not None)


@pytest.mark.parametrize(("across", "down"), [*itertools.product((1, -1), (1, -1))])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("format", "size"),
    [("yuv420p", (64, 48)), ("yuv420p10le", (64, 48)), ("yuv422p10le", (63, 47)), ("nv12", (30, 20))],
)
def test_a_picture_is_turned_as_its_display_matrix_has_it(
    tmp_path: Path, format: str, size: tuple[int, int], swapped: bool, across: int, down: int
) -> None:
    """Each pixel (p, q) is shown at (a p + c q, b p + d q), by the definition of the matrix."""
    a, b, c, d = (0, across, down, 0) if swapped else (across, 0, 0, down)
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    stored = "yuv420p" if format == "nv12" else format
    codec = "libx264" if "libx264" in av.codecs_available and stored == "yuv420p" else "ffv1"
    path = write_frames(tmp_path / ("in.mp4" if codec == "libx264" else "in.mkv"), ramps(1, size, stored), codec)
    plain, frame = first_of(path)
    expected = rgb(plain.camera_frame(frame))
    turned = write_frames(
        tmp_path / f"turned{path.suffix}", ramps(1, size, stored), codec, matrix=matrix, aspect=Fraction(4, 3)
    )
    source, frame = first_of(turned)
    if format == "nv12":
        frame = frame.reformat(format="nv12")  # keeps the matrix
    found = source.camera_frame(frame)
    places = [(a * p + c * q, b * p + d * q) for q in range(size[1]) for p in range(size[0])]
    left, top = (min(place[axis] for place in places) for axis in (0, 1))
    shown = np.zeros((*(size if swapped else size[::-1]), 3), np.float32)
    for (x, y), pixel in zip(places, expected.reshape(-1, 3), strict=True):
        shown[y - top, x - left] = pixel
    assert found.shape == shown.shape[:2]
    # chroma of odd sizes goes through FFmpeg's own enlargement
    assert np.abs(rgb(found) - shown).max() <= (0.02 if size[0] % 2 else 1e-5)
    if codec == "libx264":
        assert found.pixel_aspect == pytest.approx(3 / 4 if swapped else 4 / 3, rel=1e-3)
    assert source.size == found.shape[::-1] if codec == "ffv1" else source.size != found.shape[::-1]
    plain.close()
    source.close()


def levels_of(size: tuple[int, int]) -> NDArray[np.float64]:
    """A slow ramp from 0.1 to 0.9, whose neighbours are less than a step of 10 bits apart."""
    return np.linspace(0.1, 0.9, size[0] * size[1]).reshape(size[1], size[0])


SIZES = [(64, 48), (33, 21)]


PLANAR = [
    *("yuv420p", "yuv422p", "yuv444p", "yuv410p", "yuv411p", "yuv440p", "yuvj420p", "yuvj444p", "yuvj440p"),
    *(f"yuv4{chroma}p{bits}le" for chroma in ("20", "22", "44") for bits in (9, 10, 12, 16)),
    "yuv440p10le",
]
REPACKED = {
    "nv12": "yuv420p", "nv16": "yuv422p", "yuyv422": "yuv422p", "uyvy422": "yuv422p", "vuya": "yuv444p",
    "yuva420p": "yuv420p", "yuva444p10le": "yuv444p10le", "p010le": "yuv420p10le", "p210le": "yuv422p10le",
}  # fmt: skip
"""The same codes in another order, by FFmpeg, which leaves out what is odd."""


@pytest.mark.parametrize(
    ("format", "size"),
    [*((format, size) for format in PLANAR for size in SIZES), *((format, SIZES[0]) for format in REPACKED)],
)
def test_luma_of_any_format_is_read_with_up_to_10_bits(format: str, size: tuple[int, int]) -> None:
    base = av.VideoFormat(REPACKED.get(format, format))
    bits, full = base.components[0].bits, format.startswith("yuvj")
    unit = 1 << (bits - 8)
    black, white = (0, (1 << bits) - 1) if full else (16 * unit, 235 * unit)
    codes = (black + (white - black) * levels_of(size)).round().astype(np.uint8 if bits == 8 else np.uint16)
    chroma = np.full((base.chroma_height(size[1]), base.chroma_width(size[0])), 128 * unit, codes.dtype)
    frame = planar(base.name, [codes, chroma, chroma], full_range=full)
    if format in REPACKED:
        frame = frame.reformat(format=format)
    expected = ((codes.astype(float) - black) / (white - black))[:, :, None]
    step = 1 / 876  # of 10 bits; to these FFmpeg cuts more of them, with a dither
    assert np.abs(rgb(camera_frame(frame)) - expected).max() <= (1e-5 if bits <= 10 else step)


def test_a_conversion_is_the_same_every_time() -> None:
    """FFmpeg's threads, a slice each, write beyond the end of an odd row into the next slice: pixels in 1 of 80."""
    codes = np.full((21, 33), 500, np.uint16)
    chroma = np.full((11, 33), 512, np.uint16)
    for _ in range(400):
        (luma, *_rest) = camera_frame(planar("yuv440p10le", [codes, chroma, chroma])).planes
        assert np.array_equal(luma, codes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", ["gray", "gray9le", "gray10le", "gray12le", "gray16le"])
def test_grey_is_read_with_its_bits(format: str, size: tuple[int, int]) -> None:
    bits = av.VideoFormat(format).components[0].bits
    peak = (1 << bits) - 1
    codes = (levels_of(size) * peak).round().astype(np.uint8 if bits == 8 else np.uint16)
    frame = planar(format, [codes], full_range=True)
    found = rgb(camera_frame(frame))
    assert np.abs(found - codes[:, :, None] / peak).max() < 1 / peak, "FFmpeg puts zeros below the bits"
    assert len(np.unique(found)) == len(np.unique(codes))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "format",
    ["rgb24", "bgr24", "bgr0", "bgra", "gbrp", "rgb565le", "rgba64be", "gbrp10le", "gbrp12le", "gbrap16le", "rgb48be"],
)
def test_rgb_of_any_format_is_read_with_its_bits(format: str, size: tuple[int, int]) -> None:
    levels = levels_of(size)
    grey = (levels * 65535).round().astype(np.uint16)[:, :, None].repeat(3, 2)
    frame = av.VideoFrame.from_ndarray(grey, format="rgb48le").reformat(format=format)
    bits = min(part.bits for part in frame.format.components)
    found = rgb(camera_frame(frame))
    assert np.abs(found - levels[:, :, None]).max() <= 2 / ((1 << bits) - 1), "FFmpeg's dither, and a rounding"


@pytest.mark.parametrize("space", [*range(17), 99])
def test_matrices_that_are_not_known_are_said(space: int) -> None:
    (frame,) = ramps(1)
    frame.colorspace = space
    matrix = camera_frame(frame).matrix
    said = [text for text in losses_of(frame) if "matrix" in text]
    assert matrix == {1: "bt709", 7: "bt709", 9: "bt2020", 10: "bt2020"}.get(space, "bt601")
    assert bool(said) == (space not in (0, 1, 2, 3, 5, 6, 9))
    assert all(f"{space} is read as {matrix}" in text for text in said)


def test_tags_that_no_encoder_knows_are_left_unsaid() -> None:
    (frame,) = ramps(1)
    for primaries, transfer, expected in ((9, 16, (9, 16)), (3, 0, (2, 2)), (22, 99, (2, 2)), (255, 255, (2, 2))):
        frame.color_primaries, frame.color_trc = primaries, transfer
        colours = colours_of(frame)
        assert (colours.primaries, colours.transfer) == expected
    frame.color_trc = 18
    assert colours_of(frame).curve == "HLG"


def test_a_picture_turned_by_its_exif_is_upright(tmp_path: Path) -> None:
    """Beside EXIF PyAV hands out no side data at all."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :8] = 200  # on the left, so on top once it is turned clockwise
    Image.fromarray(pixels).save(tmp_path / "in.jpg", exif=exif, quality=95)
    source = Source(str(tmp_path / "in.jpg"), None)
    assert source.size == (16, 32)
    assert rgb(source.first)[4].mean() > 0.7
    assert rgb(source.first)[12:].mean() < 0.1
    source.close()


def test_what_is_in_no_output_is_said() -> None:
    (frame,) = ramps(1, format="yuva420p")
    assert losses_of(frame) == ["transparency is left out"]
    (frame,) = ramps(1)
    assert losses_of(frame) == []
