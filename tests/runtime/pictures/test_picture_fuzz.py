"""Damaged pictures of every format, many in one process: a picture or an InputError, and not a line from any library.

The inputs follow the run's seed. `ZOOMRT_FUZZ=2000 pytest tests/runtime/pictures/test_picture_fuzz.py` damages
more of each.
"""

from __future__ import annotations

import collections
import logging
import os
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import picture_files
import pytest
import tifffile
from PIL import Image
from runtime_helpers import facts, fake_upscaler, photograph

from zoomrt.errors import InputError
from zoomrt.runtime.pictures.images import PictureWarning, inspect_picture, read_picture, upscale_picture, write_picture

COUNT = int(os.environ.get("ZOOMRT_FUZZ", "25"))
PHOTO = photograph(48, 64)
DEEP = PHOTO.astype(np.uint16) * 257


def by_pillow(form: str, mode: str = "RGB", **options: Any) -> bytes:
    stream, exif = BytesIO(), Image.Exif()
    exif[271], exif[274] = "Maker", 6
    if form in ("JPEG", "PNG", "TIFF", "WEBP", "AVIF"):
        options["exif"] = exif.tobytes()
    Image.fromarray(PHOTO).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def by_tifffile(values: np.ndarray, **options: Any) -> bytes:
    stream = BytesIO()
    tifffile.imwrite(stream, values, metadata=None, **options)
    return stream.getvalue()


def heic() -> bytes:
    import pillow_heif

    stream = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PHOTO)).save(stream, quality=80)
    return stream.getvalue()


def avif_of_10_bits() -> bytes:
    import pyvips

    image = pyvips.Image.new_from_memory(DEEP, 64, 48, 3, "ushort").copy(interpretation="rgb16")
    return bytes(image.heifsave_buffer(compression="av1", bitdepth=10))


MAKERS: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: by_pillow("PNG"),
    "PNG, 16 bits": lambda: picture_files.png(DEEP),
    "JPEG": lambda: by_pillow("JPEG"),
    "JPEG, progressive CMYK": lambda: by_pillow("JPEG", "CMYK", progressive=True),
    "TIFF": lambda: by_pillow("TIFF"),
    "TIFF, LZW": lambda: by_pillow("TIFF", compression="tiff_lzw"),
    "TIFF, deflate": lambda: by_pillow("TIFF", compression="tiff_adobe_deflate"),
    "TIFF, JPEG": lambda: by_pillow("TIFF", compression="jpeg"),
    "TIFF, fax": lambda: by_pillow("TIFF", "1", compression="group4"),
    "TIFF, 16 bits": lambda: by_tifffile(DEEP, photometric="rgb", compression="zlib", predictor=True),
    "TIFF, 16 bits in tiles": lambda: by_tifffile(DEEP, photometric="rgb", tile=(16, 16), byteorder=">"),
    "WEBP": lambda: by_pillow("WEBP"),
    "AVIF": lambda: by_pillow("AVIF"),
    "AVIF, 10 bits": avif_of_10_bits,
    "HEIC": heic,
    "GIF": lambda: by_pillow("GIF", "P"),
    "BMP": lambda: by_pillow("BMP"),
    "JPEG2000": lambda: by_pillow("JPEG2000"),
    "PPM, 16 bits": lambda: b"P6 64 48 65535\n" + DEEP.astype(">u2").tobytes(),
}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, some bytes changed anywhere or in the first 400, a number set to an extreme, or a piece repeated."""
    content, kind = bytearray(data), rng.integers(5)
    if kind == 0:
        return bytes(content[: rng.integers(len(content))])
    if kind == 1:
        for place in rng.integers(0, len(content), 6):
            content[place] = rng.integers(256)
    elif kind == 2:
        for place in rng.integers(0, min(len(content), 400), 4):
            content[place] = rng.integers(256)
    elif kind == 3:
        place = rng.integers(0, min(len(content), 400))
        content[place : place + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"][rng.integers(3)]
    else:
        first, second = sorted(rng.integers(0, len(content), 2))
        content[second:second] = content[first:second]
    return bytes(content)


@pytest.mark.parametrize("name", MAKERS)
def test_damage_is_an_input_error_or_a_picture(
    tmp_path: Path,
    rng: np.random.Generator,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    data, path, outcomes = MAKERS[name](), tmp_path / "damaged", collections.Counter[str]()
    path.write_bytes(data)
    assert read_picture(path).pixels.size, "it was sound"
    upscaler, _ = fake_upscaler(facts(scale=2))
    refusal: InputError | None = None
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's, without which Python prints what is logged
    for _ in range(COUNT):
        path.write_bytes(damaged(data, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", PictureWarning)  # and no other warning may come
            try:
                told = inspect_picture(path)
                if told.height * told.width > 10**7:
                    outcomes["large"] += 1  # a header may say so; what it takes is told before the work
                    continue
                read = read_picture(path)
                assert read.pixels.shape[:2] == (told.height, told.width)
                assert read.pixels.dtype == (np.uint16 if told.deep else np.uint8)
                assert (read.pixels.ndim == 3) == (told.channels == 3)
                assert (read.alpha is not None) == told.alpha
                outcomes["picture"] += 1
                result = upscale_picture(upscaler, read)
                write_picture(result, tmp_path / "out.tif")
            except InputError as caught:
                refusal = caught
                outcomes["refused"] += 1
        assert "\n" not in str(refusal)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    print(name, dict(outcomes))
    assert outcomes["refused"]
