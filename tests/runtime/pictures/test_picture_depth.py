"""16 bits a channel: every file that has them against its writer, and what is written against other readers."""

from __future__ import annotations

import itertools
import logging
import struct
import warnings
from pathlib import Path

import numpy as np
import picture_files
import pytest
import pyvips
import tifffile
from PIL import Image, ImageOps
from runtime_helpers import facts, fake_upscaler

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.pictures import images
from zoomrt.runtime.pictures import vips as picture_vips
from zoomrt.runtime.pictures.images import (
    Picture,
    PictureWarning,
    inspect_picture,
    read_picture,
    upscale_picture,
    write_picture,
)
from zoomrt.runtime.pictures.source import eight_bits, stretched

H, W = 21, 34


def joined(picture: Picture) -> np.ndarray:
    pixels = picture.pixels if picture.pixels.ndim == 3 else picture.pixels[:, :, None]
    return pixels if picture.alpha is None else np.dstack([pixels, picture.alpha])


def check_read(path: Path, expected: np.ndarray) -> None:
    """Pixels, and alpha behind them, exactly; and what the header says of them."""
    read, told = read_picture(path), inspect_picture(path)
    assert read.pixels.dtype == np.uint16
    assert np.array_equal(joined(read), expected)
    channels, alpha = divmod(expected.shape[2] - 1, 2)
    assert told == images.PictureFacts(*expected.shape[:2], 1 + 2 * channels, True, bool(alpha))


def samples(rng: np.random.Generator, channels: int) -> np.ndarray:
    return rng.integers(0, 65536, (H, W, channels), np.uint16)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png(tmp_path: Path, rng: np.random.Generator, channels: int, interlaced: bool) -> None:
    values = samples(rng, channels)
    (tmp_path / "a.png").write_bytes(
        picture_files.png(values[..., 0] if channels == 1 else values, interlaced=interlaced)
    )
    check_read(tmp_path / "a.png", values)


def test_png_with_a_colour_that_is_transparent(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 2, (H, W, 3), np.uint16) * 9999
    key = picture_files.chunk(b"tRNS", np.array([9999, 0, 9999], ">u2").tobytes())
    (tmp_path / "a.png").write_bytes(picture_files.png(values, before=key))
    hidden = (values == [9999, 0, 9999]).all(axis=2)
    assert hidden.any()
    check_read(tmp_path / "a.png", np.dstack([values, np.where(hidden, 0, 65535)]))


KINDS = {
    "grey": (1, "minisblack"),
    "negative": (1, "miniswhite"),
    "grey and alpha": (2, "minisblack"),
    "rgb": (3, "rgb"),
    "rgba": (4, "rgb"),
}
PACKINGS = ({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff(tmp_path: Path, rng: np.random.Generator, kind: str, order: str) -> None:
    """In strips and tiles, plain and deflated with and without a predictor, big and classic."""
    channels, photometric = KINDS[kind]
    for number, (packing, tile, big) in enumerate(itertools.product(PACKINGS, (None, (16, 16)), (False, order == "<"))):
        values = samples(rng, channels)
        extra = {"extrasamples": ["unassalpha"]} if channels in (2, 4) else {}
        layout = {"byteorder": order, "tile": tile, "bigtiff": big, "rowsperstrip": None if tile else 5}
        data = values if channels > 1 else values[..., 0]
        path = tmp_path / f"{number}.tif"
        tifffile.imwrite(path, data, photometric=photometric, metadata=None, **layout, **packing, **extra)
        check_read(path, 65535 - values if kind == "negative" else values)


@pytest.mark.parametrize("channels", [3, 4])
def test_tiff_with_channels_apart(tmp_path: Path, rng: np.random.Generator, channels: int) -> None:
    """Pillow reads such a file as noise. In tiles libvips does not read it either: then it is refused."""
    values = samples(rng, channels)
    planes = np.ascontiguousarray(values.transpose(2, 0, 1))
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", metadata=None, **extra)
    check_read(tmp_path / "a.tif", values)
    tifffile.imwrite(tmp_path / "b.tif", planes, photometric="rgb", planarconfig="separate", tile=(16, 16), **extra)
    with pytest.raises(InputError, match="planes of their own"):
        read_picture(tmp_path / "b.tif")


def test_tiff_with_premultiplied_alpha(tmp_path: Path, rng: np.random.Generator) -> None:
    """Against the division in float64. libvips divides in FP32 and cuts the fraction off: a code, and FP32's rounding.

    Where alpha is small, a code of the product is many codes of the colour.
    """
    straight, alpha = samples(rng, 3), rng.integers(6000, 65536, (H, W, 1), np.uint16)
    product = np.rint(straight.astype(np.float64) * alpha / 65535).astype(np.uint16)
    values = np.dstack([product, alpha])
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["assocalpha"], metadata=None)
    read = read_picture(tmp_path / "a.tif")
    assert np.array_equal(read.alpha, alpha[..., 0])
    expected = np.minimum(product.astype(np.float64) * 65535 / alpha, 65535)
    assert np.abs(read.pixels - expected).max() <= 1 + 65535 * 2**-21


def test_tiff_with_more_channels_than_it_says_what_they_are(tmp_path: Path, rng: np.random.Generator) -> None:
    values = samples(rng, 4)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unspecified"], metadata=None)
    check_read(tmp_path / "a.tif", values[..., :3])


def test_12_bit_grey_is_spread_over_16(tmp_path: Path, rng: np.random.Generator) -> None:
    """Pillow gives 0 to 4095, a nearly black picture."""
    values = rng.integers(0, 4096, (H, W), np.uint16)
    values[0, :2] = 0, 4095
    nibbles = np.stack([values >> 8, values >> 4 & 15, values & 15], axis=2).reshape(H, -1).astype(np.uint8)
    data = (nibbles[:, ::2] << 4 | nibbles[:, 1::2]).tobytes()
    tags = [(256, W), (257, H), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, H), (279, len(data))]
    entries = b"".join(
        np.array([tag, 3], "<u2").tobytes() + np.array([1, value], "<u4").tobytes() for tag, value in tags
    )
    place = 8 + len(data)
    header = b"II*\0" + place.to_bytes(4, "little") + data + len(tags).to_bytes(2, "little")
    (tmp_path / "a.tif").write_bytes(header + entries + b"\0\0\0\0")
    assert np.abs(read_picture(tmp_path / "a.tif").pixels - values * (65535 / 4095)).max() <= 0.5


@pytest.mark.parametrize(("magic", "channels"), [(b"P6", 3), (b"P5", 1)])
@pytest.mark.parametrize("white", [65535, 1023, 255, 100])
def test_ppm_of_any_white(tmp_path: Path, rng: np.random.Generator, magic: bytes, channels: int, white: int) -> None:
    values = rng.integers(0, white + 1, (H, W, channels)).astype(">u2" if white > 255 else "u1")
    (tmp_path / "a.ppm").write_bytes(b"%b\n# raw\n%d %d\n%d\n" % (magic, W, H, white) + values.tobytes())
    read = read_picture(tmp_path / "a.ppm").pixels.reshape(values.shape)
    assert read.dtype == (np.uint16 if white > 255 else np.uint8)
    assert np.abs(read - values * (np.iinfo(read.dtype).max / white)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_10_bit_avif(tmp_path: Path, rng: np.random.Generator, orientation: int) -> None:
    ten = rng.integers(0, 1024, (48, 64, 3), np.uint16)
    image = pyvips.Image.new_from_memory(ten << np.uint16(6), 64, 48, 3, "ushort").copy(interpretation="rgb16")
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image.heifsave(str(tmp_path / "a.avif"), compression="av1", bitdepth=10, lossless=True)
    shown = np.rot90(ten, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    read, told = read_picture(tmp_path / "a.avif").pixels, inspect_picture(tmp_path / "a.avif")
    assert (told.height, told.width, told.deep) == (*shown.shape[:2], True)
    assert np.abs(read - shown * (65535 / 1023)).max() <= 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_orientation(tmp_path: Path, rng: np.random.Generator, suffix: str, orientation: int) -> None:
    """As Pillow turns the same picture of 8 bits."""
    values = samples(rng, 3)
    exif = Image.Exif()
    exif[274] = orientation
    if suffix == ".png":
        chunk = picture_files.chunk(b"eXIf", exif.tobytes()[6:])
        (tmp_path / "a.png").write_bytes(picture_files.png(values, before=chunk))
    else:
        tag = (274, 3, 1, orientation, True)
        tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", metadata=None, extratags=[tag])
    turned = [np.empty(0)] * 2
    for number, part in enumerate((values >> 8, values & 255)):
        image = Image.fromarray(part.astype(np.uint8))
        image.getexif()[274] = orientation
        turned[number] = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
    check_read(tmp_path / f"a{suffix}", turned[0] << 8 | turned[1])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("shape", "alpha"), [((H, W), True), ((H, W, 3), False), ((H, W, 3), True)])
def test_what_is_written_is_read_by_others(
    tmp_path: Path, rng: np.random.Generator, suffix: str, shape: tuple[int, ...], alpha: bool
) -> None:
    pixels = rng.integers(0, 65536, shape, np.uint16)
    picture = Picture(pixels, rng.integers(0, 65536, shape[:2], np.uint16) if alpha else None, dpi=(300.0, 150.0))
    write_picture(picture, tmp_path / f"a{suffix}")
    check_read(tmp_path / f"a{suffix}", joined(picture))
    if suffix == ".tif":
        with tifffile.TiffFile(tmp_path / "a.tif") as file:
            page = file.pages.first
            assert (page.bitspersample, len(file.pages)) == (16, 1)
            assert np.array_equal(page.asarray(), joined(picture))
            assert tifffile.imread(tmp_path / "a.tif").dtype == np.uint16
    else:
        with Image.open(tmp_path / "a.png") as image:  # the high bytes
            assert image.mode == ("RGBA" if alpha else "RGB")
            high = joined(picture) >> 8
            grey = high.shape[2] == 2
            shown = high[..., [0, 0, 0, 1]] if grey else high
            assert np.array_equal(np.asarray(image), shown)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_resolution_that_nobody_gave_is_not_written(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    """libvips has one for every image."""
    write_picture(Picture(samples(rng, 3)), tmp_path / f"a{suffix}")
    assert read_picture(tmp_path / f"a{suffix}").dpi is None
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.getexif().get(282) is None
        assert image.info.get("dpi", (1, 1)) == (1, 1)


def test_nothing_that_libvips_has_to_say_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rng: np.random.Generator
) -> None:
    """A tag whose length reaches beyond the file: it logs a warning, which Python prints where nobody listens."""
    values = samples(rng, 3)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", metadata=None, software="abcdefgh")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    place = data.index(struct.pack("<HHI", 305, 2, 9))
    data[place + 4 : place + 8] = struct.pack("<I", 10**9)
    (tmp_path / "a.tif").write_bytes(data)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's
    said: list[str] = []
    monkeypatch.setattr(logging.getLogger("pyvips"), "filters", [lambda record: said.append(record.msg) or True])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PictureWarning)
        assert np.array_equal(read_picture(tmp_path / "a.tif").pixels, values)
    assert said
    assert capfd.readouterr() == ("", "")


def test_a_gradient_keeps_its_levels(tmp_path: Path) -> None:
    """From file to file through the network's floats; read at 8 bits there would be 256."""
    ramp = np.linspace(0, 65535, 256 * 96).round().astype(np.uint16).reshape(96, 256)
    (tmp_path / "a.png").write_bytes(picture_files.png(np.dstack([ramp, ramp[::-1], ramp[:, ::-1]])))
    upscaler, _ = fake_upscaler(facts())
    write_picture(upscale_picture(upscaler, read_picture(tmp_path / "a.png")), tmp_path / "b.tif")
    result = tifffile.imread(tmp_path / "b.tif")
    assert result.shape == (384, 1024, 3)
    assert len(np.unique(result[..., 0])) == 256 * 96
    assert np.abs(result[::4, ::4, 0].astype(int) - ramp).max() <= 1, "nearest neighbour, through float32 in [-1, 1]"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated(tmp_path: Path, rng: np.random.Generator, share: float) -> None:
    values = rng.integers(0, 65536, (200, 300, 3), np.uint16)
    write_picture(Picture(values), tmp_path / "whole.png")
    tifffile.imwrite(tmp_path / "whole.tif", values, photometric="rgb", compression="zlib", rowsperstrip=8)
    for name in ("whole.png", "whole.tif"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / "a").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match="damaged data"):
            read_picture(tmp_path / "a")


def test_codes_are_rounded_to_the_nearest() -> None:
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(eight_bits(every), np.rint(every / 257.0))
    for white in (1, 15, 255, 1023, 4095, 65535):
        codes = np.arange(white + 1, dtype=np.uint16)
        assert np.abs(stretched(codes.copy(), white) - codes * (65535.0 / white)).max() <= 0.5


@pytest.fixture
def without_libvips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyvips", None)
    picture_vips.available.cache_clear()
    yield
    picture_vips.available.cache_clear()


@pytest.mark.usefixtures("without_libvips")
def test_without_libvips_colour_is_read_at_8_bits_and_the_warning_names_the_extra(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    values = samples(rng, 3)
    (tmp_path / "a.png").write_bytes(picture_files.png(values))
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", metadata=None)
    (tmp_path / "a.ppm").write_bytes(b"P6\n%d %d\n65535\n" % (W, H) + values.astype(">u2").tobytes())
    for name in ("a.png", "a.tif", "a.ppm"):
        with pytest.warns(
            PictureWarning, match=r"16 bits a channel are read as 8.*pip install 'zoomrt\[deep\]'"
        ) as told:
            read = read_picture(tmp_path / name)
        assert len(told) == 1
        assert read.pixels.dtype == np.uint8
        assert np.abs(read.pixels.astype(int) - values / 257).max() <= 1
        assert not inspect_picture(tmp_path / name).deep
    grey = samples(rng, 1)[..., 0]
    write_picture(Picture(grey), tmp_path / "grey.png")
    assert np.array_equal(read_picture(tmp_path / "grey.png").pixels, grey)
    tifffile.imwrite(tmp_path / "negative.tif", grey, photometric="miniswhite", metadata=None)
    assert np.array_equal(read_picture(tmp_path / "negative.tif").pixels, 65535 - grey)


@pytest.mark.usefixtures("without_libvips")
def test_without_libvips_what_pillow_reads_wrong_or_not_at_all_names_the_extra(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    planes = np.ascontiguousarray(samples(rng, 3).transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", metadata=None)
    tifffile.imwrite(tmp_path / "b.tif", samples(rng, 2), photometric="minisblack", extrasamples=["unassalpha"])
    for name in ("a.tif", "b.tif"):
        with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[deep\]'"):
            read_picture(tmp_path / name)
    with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[deep\]'"):
        write_picture(Picture(samples(rng, 3)), tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_format_of_8_bits_takes_16_rounded_with_a_warning(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 16, 3), 40000, np.uint16)
    with pytest.warns(PictureWarning, match="16 bits a channel are written as 8"):
        write_picture(Picture(flat), tmp_path / f"a{suffix}")
    assert np.abs(read_picture(tmp_path / f"a{suffix}").pixels.astype(int) - round(40000 / 257)).max() <= 1
