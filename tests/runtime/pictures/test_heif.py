"""HEIC as phones write it: pixels, depth, alpha, turns and metadata, and what is said where it cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageCms
from runtime_helpers import facts, fake_upscaler, photograph

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.pictures import vips as picture_vips
from zoomrt.runtime.pictures.heif import is_heif
from zoomrt.runtime.pictures.images import (
    PictureFacts,
    PictureWarning,
    inspect_picture,
    read_picture,
    upscale_picture,
    write_picture,
)

H, W = 48, 64
LOSSLESS: dict[str, Any] = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
"""RGB as it is, without a step to YUV that would round."""


def heic(path: Path, values: np.ndarray, **options: Any) -> Path:
    """values : (H, W, 3 or 4) uint8, or uint16 with 10 bits."""
    mode = {3: "RGB", 4: "RGBA"}[values.shape[2]]
    deep = values.dtype == np.uint16
    data = (values << np.uint16(6)).tobytes() if deep else values.tobytes()
    size = values.shape[1::-1]
    pillow_heif.from_bytes(mode + ";16" * deep, size, data).save(path, **LOSSLESS | options)
    return path


def test_8_bits_with_and_without_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    rgba = np.dstack([photograph(H, W), rng.integers(0, 256, (H, W), np.uint8)])
    read = read_picture(heic(tmp_path / "a.heic", rgba[..., :3]))
    assert np.array_equal(read.pixels, rgba[..., :3])
    assert read.alpha is None
    read = read_picture(heic(tmp_path / "b.heic", rgba))
    assert np.array_equal(np.dstack([read.pixels, read.alpha]), rgba)
    assert inspect_picture(tmp_path / "b.heic") == PictureFacts(H, W, 3, False, True)


def test_10_bits_become_16_with_white_at_65535(tmp_path: Path, rng: np.random.Generator) -> None:
    ten = rng.integers(0, 1024, (H, W, 3), np.uint16)
    ten[0, 0], ten[0, 1] = 0, 1023
    path = heic(tmp_path / "a.heic", ten, bit_depth=10)
    assert np.abs(read_picture(path).pixels - ten * (65535 / 1023)).max() <= 0.5
    assert inspect_picture(path).deep


def test_10_bits_without_libvips_are_read_at_8(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ten = rng.integers(0, 1024, (H, W, 3), np.uint16)
    path = heic(tmp_path / "a.heic", ten, bit_depth=10)
    monkeypatch.setattr(picture_vips, "available", lambda: False)
    with pytest.warns(PictureWarning, match=r"read as 8.*zoomrt\[deep\]"):
        read = read_picture(path).pixels
    assert np.abs(read - ten * (255 / 1023)).max() <= 0.5 + 0.002, "rounded twice"
    assert not inspect_picture(path).deep


def test_the_file_turns_the_picture_and_not_its_exif(tmp_path: Path) -> None:
    """pillow-heif writes EXIF's turn as one of the file, and leaves it in EXIF, as phones do."""
    stored = photograph(H, W)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "Phone"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = W
    pillow_heif.from_pillow(Image.fromarray(stored)).save(tmp_path / "a.heic", exif=exif.tobytes(), **LOSSLESS)
    read = read_picture(tmp_path / "a.heic")
    assert np.array_equal(read.pixels, np.rot90(stored, -1))
    assert (inspect_picture(tmp_path / "a.heic").height, inspect_picture(tmp_path / "a.heic").width) == (W, H)
    write_picture(read, tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.size == (H, W)
        kept = image.getexif()
        assert (kept.get(ExifTags.Base.Orientation, 1), kept[ExifTags.Base.Make]) == (1, "Phone")
        assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == H


def test_metadata_goes_to_the_result(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">Someone</x:xmpmeta>'
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "Phone 1"
    image = pillow_heif.from_pillow(Image.fromarray(photograph(H, W)))
    image.info["icc_profile"], image.info["icc_profile_type"] = icc, "prof"
    image.save(tmp_path / "a.heic", exif=exif.tobytes(), xmp=xmp)
    upscaler, _ = fake_upscaler(facts())
    write_picture(upscale_picture(upscaler, read_picture(tmp_path / "a.heic")), tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as result:
        assert result.size == (4 * W, 4 * H)
        assert (result.info["icc_profile"], result.info["xmp"]) == (icc, xmp)
        assert result.getexif()[ExifTags.Base.Model] == "Phone 1"


def test_high_dynamic_range_is_told(tmp_path: Path) -> None:
    path = heic(tmp_path / "a.heic", photograph(H, W), color_primaries=9, transfer_characteristics=16)
    with pytest.warns(PictureWarning, match="high dynamic range is read as if it were standard range"):
        read_picture(path)
    heic(path, photograph(H, W), color_primaries=12, transfer_characteristics=13)
    with pytest.warns(PictureWarning, match="no profile for primaries 12"):
        read_picture(path)


def test_without_pillow_heif_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = heic(tmp_path / "a.jpg", photograph(H, W))  # the content counts, not the name
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (read_picture, inspect_picture):
        with pytest.raises(MissingDependency, match=r"HEIC.*Run: pip install 'zoomrt\[heic\]'"):
            read(path)


def test_damaged_heic(tmp_path: Path) -> None:
    data = heic(tmp_path / "a.heic", photograph(H, W)).read_bytes()
    for cut in (40, 300, len(data) // 2, len(data) - 50):
        (tmp_path / "b.heic").write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_picture(tmp_path / "b.heic")


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        (b"heic\0\0\0\0mif1heic", True),
        (b"mif1\0\0\0\0mif1heix", True),
        (b"heix\0\0\0\0", True),
        (b"mif1\0\0\0\0mif1avif", False),
        (b"avif\0\0\0\0mif1", False),
        (b"isom\0\0\0\0mp42", False),
    ],
)
def test_brands(brands: bytes, expected: bool) -> None:
    """ISO/IEC 14496-12, 4.3: length, `ftyp`, brand, version, compatible brands."""
    head = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08heic"
    assert is_heif(head.ljust(512, b"\0")) is expected
