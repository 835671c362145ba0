"""Pictures through Pillow: a fixed list of formats, sizes checked before anything is decoded, no line on stderr.

Pixels are copied out a few rows at a time, so that besides Pillow's own copy (4 bytes a pixel of colour, 1 of grey)
there is only the result.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import math
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import (  # each registers the format that it reads, and no other
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageCms,
    ImageFile,
    Jpeg2KImagePlugin,  # noqa: F401
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
    _imaging,
)

from zoomrt.errors import InputError
from zoomrt.runtime.pictures import png, vips
from zoomrt.runtime.pictures.formats import FORMATS
from zoomrt.runtime.pictures.source import AT_8_BITS, TURNED, PictureFacts, Planes, Raw, Source, stretched, upright
from zoomrt.runtime.sizes import MAX_PIXELS, bands, check_size

_NAMES = [form.name for form in FORMATS if form.name != "HEIF"]
# Pillow's modes of 8 bits a channel, and whether they are grey. CMYK and LAB are converted to sRGB.
_GREY_MODES = {"1", "L", "LA", "La"}
_COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "CMYK", "LAB"}
_DEEP_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I"}
_BAND_PIXELS = 1 << 21
_SIGNED = 2  # SampleFormat, TIFF 6.0 section 19
_WHITE_IS_ZERO = 0  # PhotometricInterpretation
_BOXES = 1 << 16  # bytes in which the headers of an AVIF or JPEG 2000 lie
_DAMAGED = "its metadata is not kept, it is damaged"

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Python prints what nobody handles


def open_with_pillow(stream: BinaryIO, what: str, notes: list[str]) -> Source:
    """The picture in `stream`, in any format but HEIF. what : opens the messages of errors.

    notes : gets a line for what cannot be read as it is.
    Raises InputError, and whatever Pillow raises for damaged data.
    """
    image = _opened(stream, notes)
    form = "JPEG" if image.format == "MPO" else str(image.format)
    check_size(image.height, image.width, what)
    if form not in ("JPEG", "TIFF") and getattr(image, "is_animated", False):  # a phone's JPEG holds previews
        remedy = "Save the frames as pictures first."
        raise InputError(what, seen="several frames", needed="one frame", remedy=remedy)
    _check_pixels(image, what)
    depth, maximum = _coded_bits(image, stream), _ppm_maximum(image)
    by_vips = depth > 8 and form in ("AVIF", "PNG") and image.mode not in _DEEP_MODES and vips.available()
    deep = by_vips or image.mode in _DEEP_MODES or maximum > 255
    if depth > 8 and not deep:
        notes.append(AT_8_BITS if form in ("AVIF", "PNG", "TIFF") else "its 16 bits a channel are read as 8")
    grey = image.mode in _GREY_MODES | _DEEP_MODES
    if by_vips and "LA;16B" in str(image.tile[0].args):  # which Pillow reads as RGBA
        grey = True
    channels, alpha = 1 if grey else 3, image.has_transparency_data
    orientation, stored = _orientation(image), (image.height, image.width)
    # of a TIFF Pillow tells the upright size, and turns it
    size = stored[::-1] if orientation in TURNED and form != "TIFF" else stored
    holder: list[Image.Image] = [image]  # of the metadata

    def decode(notes: list[str]) -> Planes:
        if by_vips and form == "AVIF":  # libheif turns
            return vips.split(vips.decode(stream, form, size), channels, alpha)
        if by_vips:
            holder[0] = _opened_metadata(stream, notes)
            return upright(vips.split(vips.decode(stream, form, stored), channels, alpha), orientation)
        if maximum:
            return upright(_ppm_planes(image, stream, maximum), orientation)
        loaded = holder[0] = _loaded(image, stream, notes)
        return upright(_planes(loaded, what, notes), _orientation(loaded))

    def raw() -> Raw:
        kept = {"icc_profile": None} if image.mode in ("CMYK", "LAB") else {}  # it was of the old colours
        found = holder[0]
        return Raw({**found.info, **kept}, lambda: _exif(found), getattr(image, "tag_v2", {}))

    return Source(PictureFacts(*size, channels, deep, alpha), orientation, decode, raw)


_lock = threading.Lock()
_readers = 0
_theirs: int | None = None
"""The limit on pixels that Pillow had before the first of those who read now."""


@contextlib.contextmanager
def _limit() -> Iterator[None]:
    """Pillow's own limit on pixels, lifted to ours while we read, for all threads: it would refuse 200 megapixels."""
    global _readers, _theirs
    with _lock:
        if _readers == 0:
            _theirs = Image.MAX_IMAGE_PIXELS
            if _theirs is not None:
                Image.MAX_IMAGE_PIXELS = max(_theirs, MAX_PIXELS)
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                Image.MAX_IMAGE_PIXELS = _theirs


def _opened(stream: BinaryIO, notes: list[str]) -> ImageFile.ImageFile:
    """The image with its header read; without its metadata where Pillow refuses a PNG for it."""
    _silence_libtiff()
    try:
        with _limit():
            return Image.open(stream, formats=_NAMES)
    except (OSError, SyntaxError, ValueError):
        if not _is_png(stream):
            raise
        with _limit():
            image = Image.open(png.pixels_only(stream), formats=["PNG"])
    notes.append(_DAMAGED)
    return image


def _loaded(image: ImageFile.ImageFile, stream: BinaryIO, notes: list[str]) -> ImageFile.ImageFile:
    """The image with its pixels decoded; of a PNG with damaged text behind them, without it."""
    try:
        with _limit():
            image.load()
        return image
    except (OSError, SyntaxError, ValueError):
        if not _is_png(stream) or _DAMAGED in notes:
            raise
        with _limit():
            image = Image.open(png.pixels_only(stream), formats=["PNG"])
            image.load()
    notes.append(_DAMAGED)
    return image


def _opened_metadata(stream: BinaryIO, notes: list[str]) -> Image.Image:
    try:
        image = Image.open(png.metadata_only(stream), formats=["PNG"])
        image.load()
    except (OSError, SyntaxError, ValueError):
        notes.append(_DAMAGED)
        return Image.new("L", (1, 1))
    return image


def _is_png(stream: BinaryIO) -> bool:
    stream.seek(0)
    return stream.read(len(png.SIGNATURE)) == png.SIGNATURE


@functools.cache
def _silence_libtiff() -> None:
    """libtiff prints what goes wrong, besides reporting it. Where it is not a library of its own, in Pillow for
    Windows, its lines stay."""
    with contextlib.suppress(OSError, AttributeError):
        handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)


def _check_pixels(image: ImageFile.ImageFile, what: str) -> None:
    signed = image.mode == "L" and getattr(image, "tag_v2", {}).get(ExifTags.Base.SampleFormat, (1,))[0] == _SIGNED
    if signed or image.mode not in _GREY_MODES | _COLOUR_MODES | _DEEP_MODES:
        seen = "signed 8-bit pixels" if signed else f"pixel format {image.mode}"
        needed, remedy = "8 or 16 bits a channel, unsigned", "Convert it to 8 or 16 bits a channel first."
        raise InputError(what, seen=seen, needed=needed, remedy=remedy)


def _orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8, or XMP's where EXIF has none; 1 where neither makes sense."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # `metadata_of` says so
        return 1
    return value if value in range(1, 9) else 1


def _exif(image: Image.Image) -> Image.Exif:
    """Parsed again: Pillow's own answers with none, and no error, after a first attempt failed."""
    if not image.info.get("exif"):
        return image.getexif()
    exif = Image.Exif()
    exif.load(image.info["exif"])
    return exif


def _coded_bits(image: ImageFile.ImageFile, stream: BinaryIO) -> int:
    """Bits a channel in the file, of which Pillow may read 8; more than 8 is all that matters."""
    if image.format in ("AVIF", "JPEG2000"):
        stream.seek(0)
        head = stream.read(_BOXES)
        if image.format == "AVIF":  # AV1 Codec ISO Media File Format Binding, section 2.3.3: high_bitdepth
            place = head.find(b"av1C")
            return 10 if place >= 0 and head[place + 6] & 0x40 else 8
        place = head.find(b"\xff\x4f\xff\x51")  # start of codestream, then its size marker (T.800 A.5.1)
        return (head[place + 42] & 0x7F) + 1 if place >= 0 else 8
    return 16 if any(";16" in str(part.args) for part in image.tile) else 8


def _ppm_maximum(image: ImageFile.ImageFile) -> int:
    """White in a PPM or PGM whose white is not 255, which Pillow reads one number after the other, colour at 8 bits; 0
    for any other picture."""
    if not image.tile or image.tile[0].codec_name != "ppm":
        return 0
    words: Any = image.tile[0].args
    return int(words[1])


def _ppm_planes(image: ImageFile.ImageFile, stream: BinaryIO, maximum: int) -> Planes:
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    kind = np.dtype(">u2" if maximum > 255 else "u1")
    length, start = math.prod(shape) * kind.itemsize, image.tile[0].offset
    if stream.seek(0, 2) - start < length:
        raise ValueError("it is truncated")
    stream.seek(start)
    stored = np.frombuffer(stream.read(length), kind).reshape(shape)
    return stretched(stored.astype(kind.newbyteorder("=")), maximum), None


def _planes(image: Image.Image, what: str, notes: list[str]) -> Planes:
    """Pixels and alpha of a loaded image."""
    if image.mode in _DEEP_MODES:
        return _deep_planes(image, what)
    alpha = image.has_transparency_data
    mode = ("L" if image.mode in _GREY_MODES else "RGB") + "A" * alpha
    convert = _to_srgb(image, notes) if image.mode in ("CMYK", "LAB") else lambda part: part.convert(mode)
    values = np.empty((image.height, image.width, len(mode)), np.uint8)
    for rows, part in _parts(image):
        values[rows] = np.asarray(convert(part)).reshape(values[rows].shape)
    pixels = values[..., 0] if mode[0] == "L" else values[..., :3]
    return pixels, values[..., -1] if alpha else None


def _parts(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """A few rows of an image at a time."""
    for rows in bands(image.height, _BAND_PIXELS // image.width):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def _deep_planes(image: Image.Image, what: str) -> Planes:
    pixels = np.empty((image.height, image.width), np.uint16)
    for rows, part in _parts(image):
        values = np.asarray(part)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            remedy = "Convert it to 16 bits first."
            raise InputError(what, seen=f"grey from {low} to {high}", needed="grey from 0 to 65535", remedy=remedy)
        pixels[rows] = values
    key = image.info.get("transparency")  # PNG: the one grey value that is transparent
    alpha = None if key is None else np.where(pixels == key, 0, 65535).astype(np.uint16)
    tags = getattr(image, "tag_v2", {})
    stretched(pixels, 2 ** min(16, tags.get(ExifTags.Base.BitsPerSample, (16,))[0]) - 1)  # a TIFF may have 12
    if tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
        np.subtract(65535, pixels, out=pixels)
    return pixels, alpha


def _to_srgb(image: Image.Image, notes: list[str]) -> Callable[[Image.Image], Image.Image]:
    """What converts parts of a CMYK or LAB image: its profile, relative colorimetric with black point compensation, or
    Pillow's plain formula for CMYK without a profile that can be used."""
    icc = image.info.get("icc_profile") if image.mode == "CMYK" else None
    if image.mode == "LAB" or icc:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(icc)) if icc else ImageCms.createProfile("LAB")
            transform = ImageCms.buildTransform(
                source,
                ImageCms.createProfile("sRGB"),
                image.mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except (ImageCms.PyCMSError, OSError) as cause:
            notes.append(f"its CMYK is read without its ICC profile, which is damaged ({cause})")
        else:
            return lambda part: ImageCms.applyTransform(part, transform) or part
    return lambda part: part.convert("RGB")
