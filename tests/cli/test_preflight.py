"""What headers say is told before the first picture is upscaled, for the whole run; the rest of it goes on."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cli_helpers import repeated, tree, write_noise
from picture_files import png, png_of_size
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from zoomrt.cli import upscale
from zoomrt.cli._common import run
from zoomrt.runtime.pictures import images
from zoomrt.runtime.pictures import room as picture_room


def saved(values: np.ndarray) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(values).save(path)


def heic(path: Path) -> None:
    import pillow_heif

    pillow_heif.from_pillow(Image.new("RGB", (64, 64))).save(path)


VIDEO = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\x08moov" * 40
# name of the input, how it is made, name of the result, exit code, words of the message
CASES: dict[str, tuple[str, Callable[[Path], object], str, int, str]] = {
    "alpha in JPEG": ("a.png", saved(np.zeros((5, 5, 4), np.uint8)), "a.jpg", 13, "an alpha channel.*opaque.*JPEG"),
    "a side beyond WebP": ("a.png", saved(np.zeros((1, 4097), np.uint8)), "a.webp", 13, "side 16388.*at most 16383"),
    "a side beyond JPEG": ("a.png", saved(np.zeros((1, 16376), np.uint8)), "a.jpg", 13, "side 65504.*at most 65500"),
    "a video": ("a.mp4", lambda path: path.write_bytes(VIDEO), "a.png", 3, "a video.*Use trt-zoom"),
    "no picture": ("a.png", lambda path: path.write_text("a list"), "a.png", 3, "content of no known format"),
    "missing": ("a.png", lambda _: None, "a.png", 3, "nothing there"),
    "a bomb": ("a.png", lambda path: path.write_bytes(png_of_size(60000, 60000)), "a.png", 3, "pixels"),
    "HEIC without its extra": ("a.heic", heic, "a.png", 14, r"HEIC.*pip install 'zoomrt\[heic\]'"),
    "no memory": ("a.png", saved(np.zeros((300, 300), np.uint8)), "a.png", 11, "need 0.0 GB for 300x300 pixels"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_told_before_the_work_and_the_others_go_on(
    nearest_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], case: str
) -> None:
    name, make, result, code, words = CASES[case]
    folder = tmp_path / "in"
    good = write_noise(folder / "b.png", (9, 9))
    make(folder / name)
    if case == "HEIC without its extra":
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    if case == "no memory":
        monkeypatch.setattr(picture_room, "available_bytes", lambda: 100_000)
    told: list[str] = []
    plain = images.read_picture

    def reading(path: Path) -> images.Picture:
        told.append(capfd.readouterr().err)
        return plain(path)

    monkeypatch.setattr(images, "read_picture", reading)
    output = ["-o", str(tmp_path / "out"), "--format", Path(result).suffix[1:]]
    assert run(upscale.cli, [str(nearest_bundle), str(good), str(folder / name), *output]) == code
    assert len(told) == 1, "only the good one is read"
    assert told[0].count("\n") == 1
    assert re.search(rf"error: .*/a\..*{words}", told[0]), told[0]
    assert list(tree(tmp_path / "out")) == ["b" + Path(result).suffix]


def test_a_tiff_of_many_pages_is_refused_by_its_second(
    nearest_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """40,000 directories, each of one pixel; two are looked at."""
    tags = [(256, 1), (257, 1), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    size = 2 + len(entries) + 4
    pages = (struct.pack("<H", len(tags)) + entries + struct.pack("<I", 10 + size * (i + 1)) for i in range(40000))
    data = b"II*\0" + struct.pack("<I", 10) + b"\x80\0" + b"".join(pages)
    (tmp_path / "a.tif").write_bytes(data[:-4] + b"\0\0\0\0")
    loads: list[int] = []
    plain = ImageFileDirectory_v2.load
    monkeypatch.setattr(ImageFileDirectory_v2, "load", lambda self, stream: loads.append(1) or plain(self, stream))
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "a.tif"), "-o", str(tmp_path / "x.png")]) == 3
    assert "got several pages, need one page" in capfd.readouterr().err
    assert len(loads) <= 2


def test_postscript_called_png_starts_no_program(
    nearest_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With a `gs` on the path that leaves a trace; Pillow alone would run it."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\necho ran >> {tmp_path / 'trace'}\necho 10.0\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    source = tmp_path / "a.png"
    source.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    with contextlib.suppress(OSError), Image.open(source) as image:
        image.load()
    assert (tmp_path / "trace").exists(), "the trap works"
    (tmp_path / "trace").unlink()
    assert run(upscale.cli, [str(nearest_bundle), str(source), "-o", str(tmp_path / "x.png")]) == 3
    assert "content of no known format" in capfd.readouterr().err
    assert not (tmp_path / "trace").exists()


def test_sixteen_bits_of_colour_from_file_to_file(
    nearest_bundle: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    values = rng.integers(0, 65536, (9, 12, 3), np.uint16)
    (tmp_path / "a.png").write_bytes(png(values))
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "a.png"), "-o", str(tmp_path / "b.tif")]) == 0
    result = tifffile.imread(tmp_path / "b.tif").astype(int)
    assert np.abs(result - values.repeat(4, 0).repeat(4, 1)).max() <= 1


def test_heic_becomes_png_unless_told_otherwise(nearest_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    heic(tmp_path / "in" / "a.heic")
    write_noise(tmp_path / "in" / "b.png")
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert list(tree(tmp_path / "out")) == ["a.png", "b.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png")), repeated(tmp_path / "in" / "b.png"))
