"""EXIF, XMP, IPTC, ICC profile and resolution: kept where a format has a place, true of the pixels, read by others;
damaged ones cost a warning and never the picture."""

from __future__ import annotations

import itertools
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import picture_files
import pytest
import pyvips
import tifffile
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from runtime_helpers import facts, fake_upscaler, photograph

from zoomrt.runtime.pictures import vips as picture_vips
from zoomrt.runtime.pictures import writer as picture_writer
from zoomrt.runtime.pictures.images import Picture, PictureWarning, read_picture, upscale_picture, write_picture

HOLDERS = [".jpg", ".png", ".tif", ".webp"]
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
 xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"
 tiff:Orientation="6" exif:PixelXDimension="30" tiff:ImageWidth="30"><tiff:ImageLength>20</tiff:ImageLength>
<exif:PixelYDimension>20</exif:PixelYDimension><dc:rights>\xc2\xa9 Someone</dc:rights>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""
IPTC = b"".join(
    struct.pack(">BBBH", 0x1C, 2, number, len(text)) + text for number, text in ((5, b"Title"), (80, b"Author"))
)


def exif_block(orientation: int = 1, size: tuple[int, int] = (30, 20)) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Orientation] = "Maker", orientation
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = size
    details[ExifTags.Base.FocalPlaneXResolution] = 1000.0
    details[0x9214] = (15, 10, 4, 4)  # SubjectArea, in pixels
    details[ExifTags.Base.MakerNote] = bytes(range(200))
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 30.0)
    return exif.tobytes()


def with_metadata(path: Path, orientation: int = 1, values: np.ndarray | None = None) -> Path:
    """A picture of 30 x 20 with all metadata that its format holds, written by Pillow alone."""
    image = Image.fromarray(photograph(20, 30) if values is None else values)
    options: dict[str, Any] = {"exif": exif_block(orientation), "icc_profile": ICC, "dpi": (300, 150)}
    if path.suffix == ".jpg":
        body = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)
        options |= {"xmp": XMP, "extra": b"\xff\xed" + struct.pack(">H", 2 + len(body)) + body}
    elif path.suffix == ".png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        options |= {"pnginfo": text}
    elif path.suffix == ".tif":
        exif = Image.Exif()
        exif.load(options["exif"])
        exif[700], exif[33723] = XMP, IPTC
        options |= {"exif": exif}
    else:
        options |= {"xmp": XMP, "lossless": True}
    image.save(path, **options)
    return path


def seen_by_libvips(path: Path) -> dict[str, bytes]:
    image = pyvips.Image.new_from_file(str(path), revalidate=True)
    names = {"exif": "exif-data", "xmp": "xmp-data", "iptc": "iptc-data", "icc": "icc-profile-data"}
    return {name: bytes(image.get(field)) for name, field in names.items() if field in image.get_fields()}


@pytest.mark.parametrize(("source", "target"), list(itertools.product(HOLDERS, HOLDERS)))
def test_metadata_goes_from_every_format_to_every_other(tmp_path: Path, source: str, target: str) -> None:
    upscaler, _ = fake_upscaler(facts())
    picture = read_picture(with_metadata(tmp_path / f"in{source}"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        write_picture(upscale_picture(upscaler, picture), tmp_path / f"out{target}")
    has_iptc, takes_iptc = source in (".jpg", ".tif"), target in (".jpg", ".tif")
    assert ["IPTC is not kept" in str(one.message) for one in told] == [True] * (has_iptc and not takes_iptc)

    path = tmp_path / f"out{target}"
    seen = seen_by_libvips(path)
    assert seen["icc"] == ICC
    assert (IPTC in seen.get("iptc", b"")) == (has_iptc and takes_iptc)
    xmp = seen["xmp"].decode()
    assert 'tiff:Orientation="6"' not in xmp
    for words in ('PixelXDimension="120"', 'tiff:ImageWidth="120"', "<tiff:ImageLength>80<"):
        assert words in xmp
    for words in ("<exif:PixelYDimension>80<", "<dc:rights>\u00a9 Someone<"):
        assert words in xmp
    with Image.open(path) as image:
        exif = image.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif)
        assert (exif[ExifTags.Base.Make], exif.get(ExifTags.Base.Orientation, 1)) == ("Maker", 1)
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (120, 80)
        assert details[ExifTags.Base.FocalPlaneXResolution] == 4000
        assert 0x9214 not in details
        assert details[ExifTags.Base.MakerNote] == bytes(range(200))
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] == (48.0, 8.0, 30.0)
        if source != ".webp":  # which has no place for it outside of EXIF
            found = [exif[tag] for tag in (282, 283)] if target == ".webp" else image.info["dpi"]
            assert found == pytest.approx((1200, 600), rel=1e-3)


@pytest.mark.parametrize("suffix", HOLDERS)
def test_sizes_follow_the_turn_too(tmp_path: Path, suffix: str) -> None:
    picture = read_picture(with_metadata(tmp_path / f"a{suffix}", orientation=6))
    assert picture.pixels.shape == (30, 20, 3)
    exif = Image.Exif()
    exif.load(picture.exif)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == (20, 30)
    assert b'exif:PixelXDimension="20"' in picture.xmp
    assert picture.dpi is None if suffix == ".webp" else picture.dpi == pytest.approx((150, 300), rel=1e-3)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("deep", [False, True])
def test_a_tiff_has_its_metadata_where_others_look(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, deep: bool, big: bool
) -> None:
    if big:
        for module in (picture_vips, picture_writer):
            monkeypatch.setattr(module, "CLASSIC_TIFF_BYTES", 0)
    pixels = rng.integers(0, 65536, (20, 30, 3), np.uint16) if deep else photograph(20, 30)
    picture = Picture(pixels, icc=ICC, exif=exif_block(), xmp=XMP, iptc=IPTC, dpi=(300.0, 150.0))
    write_picture(picture, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page, tags = file.pages.first, file.pages.first.tags
        assert file.is_bigtiff == big
        assert np.array_equal(page.asarray(), pixels)
        packed = deep or not big  # Pillow writes large ones as they are
        assert page.compression == tifffile.COMPRESSION[("NONE", "ADOBE_DEFLATE")[packed]]
        assert (tags[34675].value, tags[700].value, tags[33723].value) == (ICC, XMP, IPTC)
        assert (tags[282].value, tags[296].value) == ((300, 1), 2)
        assert (tags[271].value, tags[34665].value["PixelXDimension"]) == ("Maker", 30)
        assert tags[34853].value["GPSLatitude"] == (48, 1, 8, 1, 30, 1)
    read = read_picture(tmp_path / "a.tif")
    assert (read.icc, read.xmp, read.iptc, read.dpi) == (ICC, XMP.replace(b'"6"', b'"1"'), IPTC, (300, 150))
    assert b"Maker" in read.exif


@pytest.mark.parametrize("deep", [False, True])
def test_png_metadata_behind_the_pixels(tmp_path: Path, rng: np.random.Generator, deep: bool) -> None:
    """Where exiftool and Lightroom put it."""
    values = rng.integers(0, 65536 if deep else 256, (20, 30, 3)).astype(np.uint16 if deep else np.uint8)
    packet = picture_files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    exif = picture_files.chunk(b"eXIf", exif_block()[6:])
    (tmp_path / "a.png").write_bytes(picture_files.png(values, after=packet + exif))
    read = read_picture(tmp_path / "a.png")
    assert np.array_equal(read.pixels, values)
    assert b"Someone" in read.xmp
    assert b"Maker" in read.exif


def test_previews_of_the_old_picture_are_left_out(tmp_path: Path) -> None:
    """A thumbnail in EXIF, in XMP and in a TIFF's further directory, and Photoshop's layers."""
    thumbnail = BytesIO()
    Image.fromarray(photograph(20, 30)).save(thumbnail, "JPEG")
    data = thumbnail.getvalue()
    first = b"II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 271, 2, 4, b"Abc\0", 26)
    second = struct.pack("<HHHIIHHIII", 2, 513, 4, 1, 26 + 30, 514, 4, 1, len(data), 0)
    xmp = XMP.replace(b"<dc:rights>", b"<xmp:Thumbnails>\nqwerty==\n</xmp:Thumbnails><dc:rights>")
    Image.fromarray(photograph(20, 30)).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + first + second + data, xmp=xmp)
    assert (tmp_path / "a.jpg").read_bytes().count(b"\xff\xd8") == 2, "the thumbnail is there"
    write_picture(read_picture(tmp_path / "a.jpg"), tmp_path / "b.jpg")
    written = (tmp_path / "b.jpg").read_bytes()
    assert written.count(b"\xff\xd8") == 1
    assert b"Abc" in written
    assert b"qwerty" not in written
    assert b"Someone" in written

    page, small = photograph(40, 60), photograph(20, 30)
    with tifffile.TiffWriter(tmp_path / "c.tif") as file:
        file.write(page, photometric="rgb", extratags=[(37724, 7, 9, b"my layers", True)])
        file.write(small, photometric="rgb", subfiletype=1)
    read = read_picture(tmp_path / "c.tif")
    assert np.array_equal(read.pixels, page)
    assert b"my layers" not in (read.exif or b"")


GARBAGE = np.random.default_rng(3).bytes(3000)
LOOP = b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x8769, 4, 1, 8, 8)
HUGE = b"II*\0\x08\0\0\0" + struct.pack("<HHHIIHHIII", 2, 271, 2, 2**32 - 1, 8, 274, 3, 2**31 - 1, 8, 0)
ZERO = b"II*\0\x08\0\0\0" + struct.pack("<HHHIIIII", 1, 282, 5, 1, 26, 0, 0, 0)
BAD = {
    "exif of garbage": {"exif": b"Exif\0\0" + GARBAGE},
    "exif cut short": {"exif": exif_block()[:60]},
    "exif in a circle": {"exif": b"Exif\0\0" + LOOP},
    "exif of gigabytes": {"exif": b"Exif\0\0" + HUGE},
    "exif that divides by zero": {"exif": b"Exif\0\0" + ZERO},
    "profile of garbage": {"icc": GARBAGE},
    "profile cut short": {"icc": ICC[:200]},
    "profile for other colours": {"icc": ICC[:16] + b"CMYK" + ICC[20:]},
    "profile of 10 MB": {"icc": np.random.default_rng(4).bytes(10_000_000)},
    "xmp of garbage": {"xmp": GARBAGE},
    "xmp that grows": {"xmp": b'<!DOCTYPE x [<!ENTITY a "aaaa">]>' + XMP.replace(b'"6"', b'"1"')},
    "xmp about a gain map": {"xmp": XMP.replace(b'"6"', b'"1"').replace(b"dc:rights", b"hdrgm:Version")},
}
HARMLESS = {"exif in a circle", "exif of gigabytes", "exif that divides by zero"}
"""From which Pillow reads what is sound."""


def badly_described(path: Path, photo: np.ndarray, block: dict[str, bytes]) -> Path:
    """By hand where encoders refuse such blocks."""
    if path.suffix == ".png":
        chunks = {
            "exif": lambda data: picture_files.chunk(b"eXIf", data[6:]),
            "icc": lambda data: picture_files.chunk(b"iCCP", b"x\0\0" + zlib.compress(data)),
            "xmp": lambda data: picture_files.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data),
        }
        path.write_bytes(picture_files.png(photo, before=b"".join(chunks[name](data) for name, data in block.items())))
        return path
    image, options = (
        Image.fromarray(photo),
        {"lossless": True} if path.suffix == ".webp" else {"quality": 100, "subsampling": 0},
    )
    if path.suffix == ".tif":
        tags = {"icc": 34675, "xmp": 700, "exif": 34665}
        info = {tags[name]: data if name != "exif" else 4_000_000_000 for name, data in block.items()}
        image.save(path, tiffinfo=info)
    else:
        names = {"icc": "icc_profile", "xmp": "xmp", "exif": "exif"}
        image.save(path, **{names[name]: data for name, data in block.items()}, **options)
    return path


@pytest.mark.parametrize(("suffix", "case"), list(itertools.product(HOLDERS, BAD)))
def test_bad_metadata_costs_a_warning_and_not_the_picture(tmp_path: Path, suffix: str, case: str) -> None:
    photo = photograph(20, 30)
    path = badly_described(tmp_path / f"a{suffix}", photo, BAD[case])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read = read_picture(path)
        assert len(told) <= 1
        write_picture(read, tmp_path / "out.png")
        assert len(told) <= 1, "what is dropped is dropped when reading"
    assert told or case in HARMLESS
    assert all(one.category is PictureWarning and "\n" not in str(one.message) for one in told)
    assert np.abs(read.pixels.astype(int) - photo).max() <= (8 if suffix == ".jpg" else 0)
    assert {"exif": read.exif, "icc": read.icc, "xmp": read.xmp}[next(iter(BAD[case]))] is None or case in HARMLESS
    assert np.array_equal(read_picture(tmp_path / "out.png").pixels, read.pixels)


def test_a_profile_with_more_behind_it_is_cut_to_its_length(tmp_path: Path) -> None:
    Image.fromarray(photograph(8, 8)).save(tmp_path / "a.tif", icc_profile=ICC + b"\0" * 10_000_000)
    assert read_picture(tmp_path / "a.tif").icc == ICC


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("after", [False, True])
def test_damaged_text_in_a_png_costs_only_the_metadata(
    tmp_path: Path, rng: np.random.Generator, after: bool, dtype: type
) -> None:
    """A wrong checksum, text that unpacks to 20 MB, and a profile that does not unpack: Pillow refuses the file."""
    values = rng.integers(0, np.iinfo(dtype).max, (20, 30, 3), dtype)
    bad = picture_files.chunk(b"tEXt", b"Author\0Someone")[:-1] + b"?"
    bomb = picture_files.chunk(b"zTXt", b"Author\0\0" + zlib.compress(b"a" * 20_000_000))
    profile = picture_files.chunk(b"iCCP", b"x\0\0" + zlib.compress(ICC)[:-20])
    for number, text in enumerate((bad, bomb, profile)):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture_files.png(values, **{"after" if after else "before": text}))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert np.array_equal(read_picture(path).pixels, values)
        assert len(told) <= 1


@pytest.mark.parametrize(("suffix", "what"), [(".jpg", "EXIF"), (".jpg", "XMP"), (".webp", "IPTC"), (".png", "IPTC")])
def test_what_a_format_has_no_room_for_is_said_in_one_warning(tmp_path: Path, suffix: str, what: str) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = GARBAGE * 30
    blocks = {"EXIF": {"exif": exif.tobytes()}, "XMP": {"xmp": XMP + b" " * 70000}, "IPTC": {"iptc": IPTC}}
    with pytest.warns(PictureWarning, match=f"{what} is not kept") as told:
        write_picture(Picture(photograph(9, 9), **blocks[what]), tmp_path / f"a{suffix}")
    assert len(told) == 1
    assert read_picture(tmp_path / f"a{suffix}").pixels.shape == (9, 9, 3)


@pytest.mark.parametrize("dpi", [(0, 0), (1e9, 1e9), (float("nan"), 72)])
def test_a_resolution_without_sense_is_dropped(dpi: tuple[float, float]) -> None:
    upscaler, _ = fake_upscaler(facts())
    assert upscale_picture(upscaler, Picture(np.zeros((2, 2), np.uint8), dpi=dpi)).dpi is None


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_resolution_stands_in_exif_where_a_format_has_no_place(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[282], exif[283], exif[296] = 100.0, 50.0, 3  # over a centimetre
    Image.fromarray(photograph(20, 30)).save(tmp_path / f"a{suffix}", exif=exif.tobytes())
    assert read_picture(tmp_path / f"a{suffix}").dpi == pytest.approx((254, 127))


@pytest.mark.parametrize(
    ("icc", "grey", "suffix", "kept"),
    [
        (picture_files.grey_profile(), True, ".png", True),
        (picture_files.grey_profile(), True, ".jpg", True),
        (picture_files.grey_profile(), True, ".webp", False),
        (picture_files.grey_profile(), False, ".tif", False),
        (ICC, True, ".png", False),
        (ICC, True, ".jpg", True),
    ],
)
def test_a_profile_is_kept_beside_pixels_that_it_is_for(
    tmp_path: Path, icc: bytes, grey: bool, suffix: str, kept: bool
) -> None:
    photo = photograph(20, 30)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        write_picture(Picture(photo[..., 0] if grey else photo, icc=icc), tmp_path / f"a{suffix}")
    assert ["ICC profile is not kept, it is for" in str(one.message) for one in told] == [True] * (not kept)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.info.get("icc_profile") == (icc if kept else None)
    assert read_picture(tmp_path / f"a{suffix}").icc == (icc if kept else None)


def test_xmp_that_goes_on_elsewhere_in_a_jpeg_says_so_no_more(tmp_path: Path) -> None:
    """XMP specification part 3, 1.1.3.1."""
    packet = XMP.replace(b' tiff:Orientation="6"', b' xmpNote:HasExtendedXMP="A0B1"')
    Image.fromarray(photograph(20, 30)).save(tmp_path / "a.jpg", xmp=packet)
    with pytest.warns(PictureWarning, match="XMP is kept without its extension"):
        read = read_picture(tmp_path / "a.jpg")
    assert b"Someone" in read.xmp
    assert b"HasExtendedXMP" not in read.xmp
