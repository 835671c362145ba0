"""Picture files that are sound: every pixel format, orientation, profile, alpha and metadata, there and back."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import picture_files
import pytest
from PIL import ExifTags, Image, ImageCms, ImageOps
from runtime_helpers import facts, fake_upscaler, photograph

from zoomrt.runtime.pictures.images import Picture, PictureWarning, read_picture, upscale_picture, write_picture

LOSSLESS = [".png", ".tif", ".tiff"]


def profile(name: str = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def saved(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize(
    ("shape", "dtype", "alpha"),
    [
        ((20, 31), np.uint8, False),
        ((20, 31), np.uint8, True),
        ((20, 31), np.uint16, False),
        ((20, 31, 3), np.uint8, False),
        ((20, 31, 3), np.uint8, True),
    ],
)
def test_what_is_written_is_read_again(
    tmp_path: Path, rng: np.random.Generator, suffix: str, shape: tuple[int, ...], dtype: type, alpha: bool
) -> None:
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top, shape, dtype, endpoint=True)
    plane = rng.integers(0, top, shape[:2], dtype, endpoint=True) if alpha else None
    path = tmp_path / f"a{suffix}"
    icc = picture_files.grey_profile() if len(shape) == 2 else profile()
    write_picture(Picture(pixels, plane, icc=icc, dpi=(300.0, 150.0)), path)
    read = read_picture(path)
    assert read.pixels.dtype == dtype
    assert np.array_equal(read.pixels, pixels)
    assert (read.alpha is None) if plane is None else np.array_equal(read.alpha, plane)
    assert read.icc == icc
    assert read.dpi == pytest.approx((300, 150), rel=1e-3)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_lossy_formats_come_back_nearly_the_same(tmp_path: Path, suffix: str) -> None:
    photo = photograph(100, 140)
    path = tmp_path / f"a{suffix}"
    icc = profile()
    write_picture(Picture(photo, icc=icc), path)
    read = read_picture(path)
    assert np.abs(read.pixels.astype(int) - photo).mean() < 3
    assert read.icc == icc


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_orientation_is_applied_to_the_pixels_and_then_gone(tmp_path: Path, suffix: str, orientation: int) -> None:
    # four quarters of plain grey tell every orientation and survive JPEG
    stored = np.kron(np.uint8([[10, 90], [160, 240], [60, 120]]), np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Model] = "Camera 1"
    source = saved(tmp_path / f"in{suffix}", np.dstack([stored] * 3), exif=exif, dpi=(200, 100))
    # what each value means (EXIF 2.3, 4.6.4): where row 0 and column 0 of the stored picture lie
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored[::-1].T,
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }[orientation]
    picture = read_picture(source)
    assert picture.pixels.shape[:2] == upright.shape
    assert np.abs(picture.pixels[..., 0].astype(int) - upright).max() <= 6
    if suffix != ".webp":
        assert picture.dpi == pytest.approx((200, 100) if orientation < 5 else (100, 200), rel=1e-3)

    write_picture(picture, tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        written = image.getexif()
        assert written.get(ExifTags.Base.Orientation, 1) == 1
        assert written[ExifTags.Base.Model] == "Camera 1"
        shown = ImageOps.exif_transpose(image)
    assert np.abs(np.asarray(shown)[..., 0].astype(int) - upright).max() <= 6


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_keeps_the_camera_and_corrects_the_size(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    exif[ExifTags.Base.Copyright] = "Someone"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 30, 20
    details[ExifTags.Base.ExposureTime] = 0.25
    details[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 30.0)
    source = saved(tmp_path / f"in{suffix}", photograph(20, 30), exif=exif.tobytes())
    upscaler, _ = fake_upscaler(facts())
    write_picture(upscale_picture(upscaler, read_picture(source)), tmp_path / f"out{suffix}")
    with Image.open(tmp_path / f"out{suffix}") as image:
        assert image.size == (120, 80)
        read = image.getexif()
        assert (read[ExifTags.Base.Make], read[ExifTags.Base.Copyright]) == ("Maker", "Someone")
        details = read.get_ifd(ExifTags.IFD.Exif)
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (120, 80)
        assert details[ExifTags.Base.ExposureTime] == 0.25
        assert details[ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
        assert read.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (48.0, 8.0, 30.0)


def test_the_layout_of_a_tiff_does_not_reach_a_jpeg(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.tif", photograph(20, 30), compression="tiff_lzw", software="Scanner")
    write_picture(read_picture(source), tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert dict(image.getexif()) == {ExifTags.Base.Software: "Scanner"}


def test_resolution_grows_with_the_picture(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jpg", photograph(20, 30), dpi=(72, 72))
    upscaler, _ = fake_upscaler(facts())
    write_picture(upscale_picture(upscaler, read_picture(source)), tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.info["dpi"] == (288, 288)


def test_one_bit_palette_and_transparency_by_key(tmp_path: Path, rng: np.random.Generator) -> None:
    bits = rng.random((9, 13)) < 0.5
    read = read_picture(saved(tmp_path / "bits.png", Image.fromarray(bits)))
    assert np.array_equal(read.pixels, np.where(bits, 255, 0))

    indices = rng.integers(0, 3, (9, 13), np.uint8)
    palette = np.uint8([[250, 10, 20], [1, 2, 3], [90, 80, 70]])
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    read = read_picture(saved(tmp_path / "palette.png", image))
    assert read.alpha is None
    assert np.array_equal(read.pixels, palette[indices])
    read = read_picture(saved(tmp_path / "clear.png", image, transparency=bytes([255, 0, 128])))
    assert np.array_equal(read.pixels, palette[indices])
    assert np.array_equal(read.alpha, np.uint8([255, 0, 128])[indices])
    read = read_picture(saved(tmp_path / "clear.gif", image, transparency=1))
    assert np.array_equal(read.alpha, np.uint8([255, 0, 255])[indices])

    grey = rng.integers(0, 4, (9, 13), np.uint8)
    read = read_picture(saved(tmp_path / "key.png", grey, transparency=2))
    assert np.array_equal(read.pixels, grey)
    assert np.array_equal(read.alpha, np.where(grey == 2, 0, 255))
    deep = rng.integers(0, 4, (9, 13), np.uint16) * 9999
    read = read_picture(saved(tmp_path / "deep.png", deep, transparency=9999))
    assert np.array_equal(read.pixels, deep)
    assert np.array_equal(read.alpha, np.where(deep == 9999, 0, 65535))


def test_16_bit_grey_of_every_kind(tmp_path: Path, rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (9, 13), np.uint16)
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_picture(saved(tmp_path / name, deep)).pixels, deep)
    (tmp_path / "a.pgm").write_bytes(b"P5\n13 9\n65535\n" + deep.astype(">u2").tobytes())
    read = read_picture(tmp_path / "a.pgm")
    assert read.pixels.dtype == np.uint16
    assert np.array_equal(read.pixels, deep)
    saved(tmp_path / "big.tif", Image.fromarray(deep.astype(">u2").astype(np.int32)))
    assert np.array_equal(read_picture(tmp_path / "big.tif").pixels, deep)


def test_cmyk_without_a_profile(tmp_path: Path) -> None:
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 0] = 255
    source = saved(tmp_path / "a.tif", Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes()))
    read = read_picture(source)
    assert read.pixels.shape == (8, 8, 3)
    assert read.pixels[0, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    """Inks that are there or not, whose colours a profile made for this test states, against sRGB by its formulas.

    Black is L* 0 there, so that black point compensation has nothing to do.
    """
    lab = rng.uniform([20, -20, -20], [90, 20, 20], (2, 2, 2, 2, 3))
    lab[0, 0, 0, 0], lab[1, 1, 1, 1] = (100, 0, 0), (0, 0, 0)
    corners = np.array(list(np.ndindex(2, 2, 2, 2)))
    inks = np.kron(corners.reshape(4, 4, 4), np.ones((16, 16, 1))).astype(np.uint8) * 255
    image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
    read = read_picture(saved(tmp_path / f"a{suffix}", image, icc_profile=picture_files.cmyk_profile(lab), quality=100))
    expected = srgb_from_lab(np.rint(lab.reshape(4, 4, 3) * [2.55, 1, 1]) / [2.55, 1, 1])
    assert np.abs(read.pixels[8::16, 8::16] - expected).max() <= (2 if suffix == ".tif" else 6)
    assert read.icc is None


def srgb_from_lab(lab: np.ndarray) -> np.ndarray:
    """CIE 1976 to IEC 61966-2-1, in float64: codes 0 to 255, clipped."""
    lightness, a, b = np.moveaxis(lab, -1, 0)
    y = (lightness + 16) / 116
    roots = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2) * [0.9642, 1.0, 0.8249]
    matrix = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])  # from D50
    linear = np.clip(xyz @ matrix.T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_broken_cmyk_profile_is_left_out_with_a_warning(tmp_path: Path) -> None:
    cmyk = Image.fromarray(photograph(16, 16)).convert("CMYK")
    plain = read_picture(saved(tmp_path / "plain.tif", cmyk))
    with pytest.warns(PictureWarning, match="CMYK is read without its ICC profile, which is damaged") as told:
        read = read_picture(saved(tmp_path / "a.tif", cmyk, icc_profile=b"not a profile" * 20))
    assert len(told) == 1
    assert np.array_equal(read.pixels, plain.pixels)


def test_lab_becomes_srgb(tmp_path: Path) -> None:
    photo = Image.fromarray(photograph(40, 40))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(photo, to_lab)
    read = read_picture(saved(tmp_path / "a.tif", lab))
    assert np.abs(read.pixels.astype(int) - np.asarray(photo)).mean() < 2


def test_fully_opaque_alpha_stays_opaque(tmp_path: Path) -> None:
    picture = Picture(photograph(9, 9), np.full((9, 9), 255, np.uint8))
    upscaler, _ = fake_upscaler(facts())
    write_picture(upscale_picture(upscaler, picture), tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png").alpha == 255).all()


def test_metadata_survives_the_whole_way(tmp_path: Path, rng: np.random.Generator) -> None:
    icc = profile()
    rgba = rng.integers(1, 256, (20, 30, 4), np.uint8)
    source = saved(tmp_path / "a.png", rgba, icc_profile=icc, dpi=(100, 100))
    upscaler, _ = fake_upscaler(facts())
    done: list[tuple[int, int]] = []
    write_picture(upscale_picture(upscaler, read_picture(source), lambda *at: done.append(at)), tmp_path / "b.webp")
    assert done == [(1, 1)]
    with Image.open(tmp_path / "b.webp") as image:
        assert (image.mode, image.size, image.info["icc_profile"]) == ("RGBA", (120, 80), icc)


def test_a_phone_picture_with_a_preview_is_read_as_its_photograph(tmp_path: Path) -> None:
    photo = Image.fromarray(photograph(40, 60))
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[photo.resize((15, 10))])
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert read_picture(tmp_path / "a.jpg").pixels.shape == (40, 60, 3)


def test_reading_gives_no_warning_and_closes_the_file(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.png", photograph(8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_picture(source)
    os.rename(source, tmp_path / "b.png")


def test_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    buffer = BytesIO()
    Image.fromarray(photograph(30, 30)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    for name in ("b.png", "c.png"):
        write_picture(read_picture(tmp_path / "a.png"), tmp_path / name)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
