"""The directories of a TIFF (TIFF 6.0): pages, 16-bit pixels that Pillow does not read, and metadata that it does not
write beside compressed pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import PREFIXES, ImageFileDirectory_v2

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.pictures import vips
from zoomrt.runtime.pictures.metadata import Metadata, tiff_tags, with_tags
from zoomrt.runtime.pictures.source import TURNED, PictureFacts, Planes, Raw, Source, upright
from zoomrt.runtime.sizes import check_size

SIGNATURES = tuple(PREFIXES)
_THUMBNAILS = 8
"""Most smaller versions of a picture that a file may hold beside it."""
_REDUCED = 1  # NewSubfileType, bit 0
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples
_UNSIGNED = (1,)  # SampleFormat
_BLACK_IS_ZERO = 1
_COLOURS = {0: 1, _BLACK_IS_ZERO: 1, 2: 3}
"""PhotometricInterpretation -> channels, of those that are read at 16 bits: white is zero, black is zero, RGB."""
_SEPARATE = 2  # PlanarConfiguration
_XMP, _DNG_VERSION = 700, 50706
_RESOLUTION = {ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit}
_BIG = 43  # in the place of 42: a BigTIFF


def _directories(stream: BinaryIO) -> Iterator[tuple[int, ImageFileDirectory_v2]]:
    """Place and tags of each page's directory; the tags are good until the next one is asked for."""
    stream.seek(0)
    header = stream.read(8)
    directory = ImageFileDirectory_v2(header + (stream.read(8) if header[2] == _BIG else b""))
    places = set[int]()
    while (place := directory.next) and place not in places:
        places.add(place)
        stream.seek(place)
        directory.load(stream)
        yield place, directory


def check_one_page(stream: BinaryIO, what: str) -> None:
    """InputError for several pages, and for a page that is only a preview.

    Pages are not counted; smaller versions of the first do not make it several.
    """
    stream.seek(0)
    if stream.read(4) == b"MM\0%c" % _BIG:
        needed, remedy = "little-endian, or below 4 GB a classic TIFF", "Convert it first."
        raise InputError(what, seen="a big-endian BigTIFF", needed=needed, remedy=remedy)
    for index, (_, directory) in enumerate(_directories(stream)):
        smaller = directory.get(ExifTags.Base.NewSubfileType, 0) & _REDUCED
        if index == 0 and (smaller or _DNG_VERSION in directory):
            needed, remedy = "a developed picture", "Develop it in a RAW converter first."
            raise InputError(what, seen="the preview of a camera's RAW file", needed=needed, remedy=remedy)
        if index > _THUMBNAILS or (index and not smaller):
            remedy = "Save the pages as pictures first."
            raise InputError(what, seen="several pages", needed="one page", remedy=remedy)


def deep_source(stream: BinaryIO, what: str) -> Source | None:
    """A TIFF of 16-bit RGB, grey with alpha, or grey whose white is 0, by libvips; None for what Pillow is to read.

    Raises InputError, MissingDependency, and anything for a damaged directory.
    """
    place, tags = next(_directories(stream))
    photometric = tags.get(ExifTags.Base.PhotometricInterpretation, 0)
    channels, samples = _COLOURS.get(photometric, 0), tags.get(ExifTags.Base.SamplesPerPixel, 1)
    bits, kind = set(tags.get(ExifTags.Base.BitsPerSample, (1,))), set(tags.get(ExifTags.Base.SampleFormat, _UNSIGNED))
    plain_grey = samples == 1 and photometric == _BLACK_IS_ZERO  # which Pillow reads
    if not channels or plain_grey or bits != {16} or kind != set(_UNSIGNED):
        return None
    height, width = tags.get(ExifTags.Base.ImageLength, 0), tags.get(ExifTags.Base.ImageWidth, 0)
    check_size(height, width, what)
    separate = tags.get(ExifTags.Base.PlanarConfiguration, 1) == _SEPARATE
    if not vips.available():
        if (channels == 3 and not separate) or (samples == 1 and tags.prefix == b"II"):
            return None  # Pillow reads 8 bits of the one, and the other
        needed, remedy = "the extra deep", "Run: pip install 'zoomrt[deep]'"
        raise MissingDependency(what, seen="16 bits a channel, and no libvips", needed=needed, remedy=remedy)
    if separate and (channels == 1 or ExifTags.Base.TileWidth in tags):
        remedy = "Save it with interleaved channels first."
        raise InputError(what, seen="16-bit channels in planes of their own", needed="interleaved ones", remedy=remedy)
    extra = tags.get(ExifTags.Base.ExtraSamples, (0 if samples > channels + 1 else _STRAIGHT,))
    alpha = samples > channels and extra[0] in (_PREMULTIPLIED, _STRAIGHT)
    orientation = tags.get(ExifTags.Base.Orientation, 1)

    def decode(_: list[str]) -> Planes:
        return upright(vips.split(vips.decode(stream, "TIFF", (height, width)), channels, alpha), orientation)

    def exif() -> Image.Exif:
        result = Image.Exif()
        stream.seek(0)
        head = stream.read(4)
        result.endian, result.bigtiff = "<" if head[:2] == b"II" else ">", head[2] == _BIG
        result.load_from_fp(stream, place)
        return result

    def raw() -> Raw:  # the resolution is in EXIF
        return Raw({"icc_profile": tags.get(ExifTags.Base.InterColorProfile), "xmp": tags.get(_XMP)}, exif, tags)

    size = (width, height) if orientation in TURNED else (height, width)
    return Source(PictureFacts(*size, channels, True, alpha), orientation, decode, raw)


def add_metadata(stream: BinaryIO, metadata: Metadata) -> None:
    """Add metadata to a finished TIFF of one page: a new directory at its end, which the header then points to.

    stream : open for reading and writing. The old directory's entries are copied as they are: what they point to stays
    where it is.
    """
    exif = with_tags(metadata.exif, tiff_tags(metadata))
    stream.seek(0)
    header = stream.read(8)
    order = "<" if header[:2] == b"II" else ">"
    big = header[2] == _BIG  # big-endian ones are not written
    exif.endian, exif.bigtiff = order, big
    count, entry, place, pointer = ("Q", 20, "Q", 8) if big else ("H", 12, "I", 4)
    header_bytes = pointer + struct.calcsize(order + place)

    def entries(source: BinaryIO) -> dict[int, bytes]:
        (number,) = struct.unpack(order + count, source.read(struct.calcsize(order + count)))
        rows = (source.read(entry) for _ in range(number))
        return {struct.unpack(order + "H", row[:2])[0]: row for row in rows}

    stream.seek(pointer)
    (old_place,) = struct.unpack(order + place, stream.read(struct.calcsize(order + place)))
    stream.seek(old_place)
    old = {tag: row for tag, row in entries(stream).items() if tag not in _RESOLUTION}  # libvips makes one up
    new_place = stream.seek(0, 2)
    new_place += stream.write(b"\0" * (-new_place % 8))  # directories begin at even places
    data = exif.tobytes(new_place)[len(b"Exif\0\0") + header_bytes :]
    stream.write(data + b"\0" * (-len(data) % 8))
    merged = sorted((old | entries(BytesIO(data))).items())
    directory = stream.tell()
    stream.write(struct.pack(order + count, len(merged)) + b"".join(row for _, row in merged))
    stream.write(struct.pack(order + place, 0))
    stream.seek(pointer)
    stream.write(struct.pack(order + place, directory))
    stream.seek(0, 2)
