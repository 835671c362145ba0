"""What belongs to a photograph beside its pixels: EXIF, XMP, IPTC, ICC profile and resolution.

A block that is damaged is dropped with a note, never the picture with it. What is kept is true of the pixels:
orientation is gone (it was applied), sizes follow, previews and statements about what else the old file held are left
out.
"""

from __future__ import annotations

import math
import numbers
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any, TypeVar

from PIL import ExifTags, Image, ImageCms

from zoomrt.runtime.pictures.formats import Holds
from zoomrt.runtime.pictures.source import TURNED, Raw

NAMES = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "icc": "its ICC profile"}

_PROFILE_BYTES = 128  # the header, ICC.1 7.2
# Tags of the first directory that describe the photograph. All others are the layout of a file, previews, layers.
_KEPT = {
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Rating,
    ExifTags.Base.RatingPercent,
    ExifTags.Base.Copyright,
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
    ExifTags.IFD.Exif,
    ExifTags.IFD.GPSInfo,
}
_PLACES = (0x9214, 0xA214)  # SubjectArea, SubjectLocation: in pixels of the old picture
_IPTC_RESOURCE = 0x0404  # Photoshop's number for IPTC, as JPEG and TIFF carry it
_IPTC_TAG = 33723
_INCHES, _CENTIMETRES = 2, 3  # EXIF's and TIFF's units of resolution


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """icc : ICC profile of the pixels; None means sRGB, or grey with its curve. exif : with the `Exif` header, without
    orientation. xmp : an XML packet. iptc : IIM records. dpi : pixels per inch, horizontal and vertical."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None


_M = TypeVar("_M", bound=Metadata)


class _Unusable(ValueError):
    """A block that is read and not kept; the text says why."""


def metadata_of(raw: Raw, orientation: int, size: tuple[int, int], notes: list[str]) -> Metadata:
    """What can be kept for pixels that were turned by `orientation` to (height, width) `size`.

    notes : gets a line for each block that cannot be kept.
    """
    info = raw.info
    packet = info.get("xmp") or info.get("XML:com.adobe.xmp")
    records = info.get("photoshop") or raw.tags.get(_IPTC_TAG)
    dpi = info.get("dpi")
    try:
        exif = raw.exif()
        dpi = dpi or _exif_dpi(exif)
    except Exception as cause:
        exif = Image.Exif()
        notes.append(f"EXIF is not kept, it is damaged ({cause})")
    found: dict[str, Callable[[], bytes | None]] = {
        "icc": lambda: usable_profile(info.get("icc_profile")),
        "exif": lambda: _exif_with_size(_clean_exif(exif), size, 1),
        "xmp": lambda: _xmp_with_size(_clean_xmp(packet, notes), size),
        "iptc": lambda: _clean_iptc(records, getattr(raw.tags, "prefix", b"")),
    }
    blocks: dict[str, bytes | None] = {}
    for name, read in found.items():
        try:
            blocks[name] = read()
        except _Unusable as cause:
            notes.append(f"{NAMES[name]} is not kept, {cause}")
        except Exception as cause:  # every camera and editor has its own reading of these standards
            notes.append(f"{NAMES[name]} is not kept, it is damaged ({cause})")
    resolution = _dpi(dpi, notes)
    return Metadata(**blocks, dpi=resolution[::-1] if resolution and orientation in TURNED else resolution)


def usable_profile(raw: bytes | None) -> bytes | None:
    """A profile for RGB or grey that can be used, without what follows it. Raises ValueError and OSError."""
    if not raw:
        return None
    length, space = int.from_bytes(raw[:4], "big"), raw[16:20]
    if not _PROFILE_BYTES <= length <= len(raw):
        raise ValueError(f"{len(raw)} bytes that state {length}")
    mode = {b"RGB ": "RGB", b"GRAY": "L"}.get(space)
    if mode is None:
        raise _Unusable(f"it is for {space.decode('ascii', 'replace').strip()} pixels")
    try:
        ImageCms.buildTransform(ImageCms.ImageCmsProfile(BytesIO(raw)), ImageCms.createProfile("sRGB"), mode, "RGB")
    except ImageCms.PyCMSError as cause:
        raise ValueError(str(cause)) from cause
    return raw[:length]


def _clean_exif(exif: Image.Exif) -> bytes | None:
    for tag in set(exif) - _KEPT:
        del exif[tag]
    for tag in _PLACES:
        _details(exif).pop(tag, None)
    for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if tag in exif and not exif.get_ifd(tag):  # it leads nowhere
            del exif[tag]
    exif.bigtiff = False  # of the file that it was in
    return exif.tobytes() if len(exif) else None


def _details(exif: Image.Exif) -> dict[int, Any]:
    """The directory of EXIF proper; changes count only where there is one."""
    return exif.get_ifd(ExifTags.IFD.Exif) if ExifTags.IFD.Exif in exif else {}


def _clean_xmp(raw: Any, notes: list[str]) -> bytes | None:
    if not raw:
        return None
    packet = raw.encode() if isinstance(raw, str) else bytes(raw)
    packet = packet.rstrip(b"\0")
    if b"rdf:RDF" not in packet and b"x:xmpmeta" not in packet:
        raise _Unusable("it is none")
    if re.search(rb"<!(DOCTYPE|ENTITY)", packet):
        raise _Unusable("it declares entities")
    if re.search(rb"hdrgm:|Container:Directory|GCamera:M", packet):
        raise _Unusable("it is about a gain map or a video behind the picture, which are not kept either")
    packet, further = re.subn(rb"\sxmpNote:HasExtendedXMP=(\"[^\"]*\"|'[^']*')", b"", packet)
    if further:
        notes.append("XMP is kept without its extension")
    packet = re.sub(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", b"", packet, flags=re.DOTALL)
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>)\s*)\d", rb"\g<1>1", packet)


def _clean_iptc(raw: Any, prefix: bytes) -> bytes | None:
    if isinstance(raw, dict):  # Photoshop's resources in a JPEG
        raw = raw.get(_IPTC_RESOURCE)
    if isinstance(raw, tuple):  # a TIFF that has them as 32-bit numbers
        raw = struct.pack(f"{'>' if prefix == b'MM' else '<'}{len(raw)}I", *raw)
    if not raw:
        return None
    if raw[:1] != b"\x1c":  # the mark that begins each record, IIM 4.2 section 1.5
        raise _Unusable("it is none")
    return bytes(raw)


def _dpi(value: Any, notes: list[str]) -> tuple[float, float] | None:
    """Pillow's `dpi` entry if it is two sane numbers. 0 and 1 stand for none, in JPEG and in TIFF."""
    try:
        across, down = (float(number) for number in value or (0, 0))
    except (TypeError, ValueError, ZeroDivisionError):
        across = down = -1.0
    if 1 < across < 1e5 and 1 < down < 1e5:
        return across, down
    if (across, down) not in ((0, 0), (1, 1)):
        notes.append("its resolution is not kept, it makes no sense")
    return None


def _exif_dpi(exif: Image.Exif) -> tuple[float, float] | None:
    """Where a format has no place of its own for resolution."""
    factor = {_INCHES: 1.0, _CENTIMETRES: 2.54}.get(exif.get(ExifTags.Base.ResolutionUnit, _INCHES), 0.0)
    across, down = (float(exif.get(tag, 0)) for tag in (ExifTags.Base.XResolution, ExifTags.Base.YResolution))
    return across * factor, down * factor


def resized(metadata: _M, size: tuple[int, int], factor: float) -> _M:
    """The metadata of the same picture at (height, width) `size`, `factor` times as large."""
    dpi = metadata.dpi and _dpi([number * factor for number in metadata.dpi], [])
    exif, xmp = _exif_with_size(metadata.exif, size, factor), _xmp_with_size(metadata.xmp, size)
    return replace(metadata, exif=exif, xmp=xmp, dpi=dpi)


def _exif_with_size(data: bytes | None, size: tuple[int, int], factor: float) -> bytes | None:
    if data is None:
        return None
    exif = with_tags(data, {})
    details = _details(exif)
    for tag, value in ((ExifTags.Base.ExifImageWidth, size[1]), (ExifTags.Base.ExifImageHeight, size[0])):
        if tag in details:
            details[tag] = value
    for tag in (ExifTags.Base.FocalPlaneXResolution, ExifTags.Base.FocalPlaneYResolution):  # pixels over the sensor
        if isinstance(number := details.get(tag), numbers.Real) and math.isfinite(number):
            details[tag] = number * factor
    return exif.tobytes()


def _xmp_with_size(packet: bytes | None, size: tuple[int, int]) -> bytes | None:
    for names, value in (
        ("tiff:ImageWidth|exif:PixelXDimension", size[1]),
        ("tiff:ImageLength|exif:PixelYDimension", size[0]),
    ):
        stated = re.compile(rf"((?:{names})(?:=[\"']|>)\s*)\d+".encode())
        packet = packet and stated.sub(rb"\g<1>%d" % value, packet)
    return packet


# --- into a file ----------------------------------------------------------------------------------------------------


def fitting(metadata: Metadata, grey: bool, name: str, holds: Holds, notes: list[str]) -> Metadata:
    """What a format, by its name and limits, can hold of it beside pixels that are grey or not.

    notes : gets a line for each block that cannot be kept.
    """
    kept: dict[str, Any] = {}
    for block, label in NAMES.items():
        content, limit = getattr(metadata, block), holds.blocks.get(block, 0)
        why = None
        if content is not None and len(content) > limit:
            why = f"{len(content)} bytes are too many for {name}" if limit else f"{name} has no place for it"
        elif content is not None and block == "icc":
            why = _misfit(content[16:20], grey, name, holds)
        if why is not None:
            notes.append(f"{label} is not kept, {why}")
            content = None
        kept[block] = content
    if metadata.dpi and not holds.dpi:
        kept["exif"] = with_tags(kept["exif"], _resolution(metadata.dpi)).tobytes()
    return Metadata(**kept, dpi=metadata.dpi)


def _misfit(space: bytes, grey: bool, name: str, holds: Holds) -> str | None:
    """Why pixels cannot have a profile for this colour space (ICC.1 7.2.6)."""
    if space == b"GRAY" and not (grey and holds.grey):
        return f"it is for grey, and {'its pixels are' if not grey else f'{name} has'} colour"
    if space == b"RGB " and grey and name == "PNG":  # PNG specification, 11.3.2.3
        return "it is for colour, which PNG does not allow beside grey"
    return None


def with_tags(exif: bytes | None, tags: dict[int, Any]) -> Image.Exif:
    """EXIF, or none, with more tags in its first directory."""
    result = Image.Exif()
    if exif is not None:
        result.load(exif)
    for tag, value in tags.items():
        result[tag] = value
    return result


def tiff_tags(metadata: Metadata) -> dict[int, Any]:
    """What a TIFF has of it beside EXIF, in its first directory."""
    tags: dict[int, Any] = _resolution(metadata.dpi) if metadata.dpi else {}
    blocks = ((700, metadata.xmp), (_IPTC_TAG, metadata.iptc), (34675, metadata.icc))
    return tags | {tag: content for tag, content in blocks if content is not None}


def _resolution(dpi: tuple[float, float]) -> dict[int, Any]:
    return {
        ExifTags.Base.XResolution: dpi[0],
        ExifTags.Base.YResolution: dpi[1],
        ExifTags.Base.ResolutionUnit: _INCHES,
    }


def photoshop_segment(iptc: bytes) -> bytes:
    """IPTC as a JPEG carries it: segment APP13 with Photoshop's resource 0x0404 in it."""
    resource = b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc)) + iptc + b"\0" * (len(iptc) % 2)
    body = b"Photoshop 3.0\0" + resource
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
