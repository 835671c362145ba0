"""Picture files: look at one, read it, upscale it with its alpha, write it whole or not at all.

What survives: 8 or 16 bits a channel, alpha, ICC profile, resolution, EXIF, XMP and IPTC, where the format holds them
(`formats`); what cannot be kept is said in one warning a picture. Orientation is applied to the pixels.
Pictures with several frames are an error, not a silent first frame; an MPO, as phones write it, is read as the
photograph it is, without its previews and gain maps.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zoomrt import files
from zoomrt.errors import InputError, OutOfMemory, StorageError, ZoomrtError
from zoomrt.runtime.pictures import heif as picture_heif
from zoomrt.runtime.pictures import tiff as picture_tiff
from zoomrt.runtime.pictures import vips
from zoomrt.runtime.pictures.formats import WRITABLE, Holds, format_of
from zoomrt.runtime.pictures.metadata import Metadata, fitting, metadata_of, resized
from zoomrt.runtime.pictures.pillow import open_with_pillow
from zoomrt.runtime.pictures.source import AT_8_BITS, PictureFacts, Source, eight_bits
from zoomrt.runtime.pictures.writer import encode
from zoomrt.runtime.tiles.alpha import fill_hidden, resize_alpha

if TYPE_CHECKING:
    from zoomrt.runtime.upscaler import Upscaler

Pixels = NDArray[Any]
_HEAD = 512  # bytes that tell a format


class PictureWarning(UserWarning):
    """Something of a picture could not be kept; the text says what, and begins with the file's name."""


@dataclass(frozen=True, eq=False)
class Picture(Metadata):
    """An upright picture with its metadata.

    pixels : (H, W, 3) RGB or (H, W) grey; uint8 or uint16.
    alpha : (H, W) of the same type, straight (not premultiplied), or None for an opaque picture.
    """

    pixels: Pixels
    alpha: Pixels | None = None


def inspect_picture(path: str | os.PathLike[str]) -> PictureFacts:
    """Read a picture file's header; nothing is decoded. Raises what `read_picture` does, but for damaged pixels."""
    with _reading(Path(path)) as (stream, what, notes):
        return _facts(_opened(stream, what, notes))


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture file, turned upright. Its content decides the format, not its name.

    Takes 1-bit, grey, palette, RGB, CMYK and LAB, each with or without alpha. CMYK becomes sRGB through its own
    profile (relative colorimetric, black point compensated), or by a plain formula without one. 16 bits a channel stay
    16 where the extra `deep` is installed; those of grey without alpha always do.

    Raises InputError for a file that is missing, unreadable, damaged, no picture, animated, of zero or too many pixels,
    or of 32 bits a channel; MissingDependency for HEIC without the extra `heic`; OutOfMemory. PictureWarning says what
    was not kept.
    """
    with _reading(Path(path)) as (stream, what, notes):
        source = _opened(stream, what, notes)
        pixels, alpha = source.decode(notes)
        if pixels.dtype != np.uint8 and not _facts(source).deep:
            notes.append(AT_8_BITS)
            pixels, alpha = eight_bits(pixels), None if alpha is None else eight_bits(alpha)
        metadata = metadata_of(source.raw(), source.orientation, pixels.shape[:2], notes)
    _warn(path, notes)
    return Picture(pixels, alpha, **vars(metadata))


def read_rgb8(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a picture file: grey as three equal channels, 16 bits rounded, alpha left out. Raises what
    `read_picture` does."""
    pixels = eight_bits(read_picture(path).pixels)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def _facts(source: Source) -> PictureFacts:
    """`deep` only where it could be written too."""
    facts = source.facts
    deep = facts.deep and (vips.available() or (facts.channels == 1 and not facts.alpha))
    return replace(facts, deep=deep)


def _opened(stream: BinaryIO, what: str, notes: list[str]) -> Source:
    """The picture in a file, by the mark with which its content begins."""
    head = stream.read(_HEAD)
    if picture_heif.is_heif(head):
        return picture_heif.open_with_libheif(stream, what, notes)
    if head.startswith(picture_tiff.SIGNATURES):
        picture_tiff.check_one_page(stream, what)
        if (deep := picture_tiff.deep_source(stream, what)) is not None:
            return deep
    try:
        return open_with_pillow(stream, what, notes)
    except UnidentifiedImageError as cause:
        if _is_video(head):
            seen, remedy = "a video", "Use trt-zoom, which takes videos."
        elif head.startswith(picture_tiff.SIGNATURES):
            seen, remedy = "a damaged TIFF, or one of a rare kind", "Convert it to RGB or grey of 8 bits first."
        else:
            seen, remedy = "content of no known format", "Check that it is a picture and not a renamed file."
        needed = "PNG, JPEG, TIFF, WebP, HEIC or the like"
        raise InputError(what, seen=seen, needed=needed, remedy=remedy) from cause


def _is_video(head: bytes) -> bool:
    """MP4 and QuickTime, Matroska and WebM, AVI, MPEG program and transport streams."""
    brand = head[8:12].startswith((b"3g", b"M4V", b"MSNV", b"XAVC", b"avc", b"dash", b"f4v", b"iso", b"mp4", b"qt"))
    riff, transport = head[:4] == b"RIFF" and head[8:12] == b"AVI ", head[:1] == head[188:189] == b"\x47"
    atoms = (head[4:8] == b"ftyp" and brand) or head[4:8] in (b"moov", b"mdat")
    return atoms or riff or transport or head.startswith((b"\x1a\x45\xdf\xa3", b"\x00\x00\x01\xba"))


def _warn(path: str | os.PathLike[str], notes: list[str]) -> None:
    if notes:
        text = "; ".join(dict.fromkeys(" ".join(note.split()) for note in notes))
        warnings.warn(f"{files.shown(path)}: {text}", PictureWarning, stacklevel=3)


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[tuple[BinaryIO, str, list[str]]]:
    """The open file, how messages about it begin, and a list for notes.

    Whatever a decoder raises becomes an error of ours, and what Pillow has to say a note.
    """
    what, notes = f"cannot read picture {files.shown(file)}", list[str]()
    with files.open_file(file, needed="a picture file") as stream, warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            if files.size_of(file) == 0:
                remedy = "Copy it again from where it came."
                raise InputError(what, seen="an empty file", needed="a picture file", remedy=remedy)
            yield stream, what, notes
        except ZoomrtError:
            raise
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as cause:
            needed, remedy = "fewer pixels", "Cut the picture into parts first, if you trust it."
            raise InputError(what, seen=cause, needed=needed, remedy=remedy) from cause
        except MemoryError as cause:
            remedy = "Close other programs, or cut the picture into parts."
            raise OutOfMemory(what, seen="no room", needed="room for its pixels", remedy=remedy) from cause
        except Exception as cause:  # decoders raise what they like on damaged data: OSError, struct.error ...
            seen, remedy = f"damaged data ({cause})", "Copy the file again from where it came."
            raise InputError(what, seen=seen, needed="an intact picture", remedy=remedy) from cause
        notes += [f"it is damaged in part ({remark.message})" for remark in remarks]


def upscale_picture(
    upscaler: Upscaler,
    picture: Picture,
    on_tile: Callable[[int, int], None] | None = None,
    *,
    size: tuple[int, int] | None = None,
) -> Picture:
    """Upscale pixels with the model and alpha by bicubic interpolation; resolution and sizes in metadata follow.

    size : (width, height) of the result, as for `Upscaler.upscale`; None is the model's scale times the picture's.
    Colour under alpha 0 is replaced by that of its visible surroundings first, so that it does not bleed out.
    Raises what `Upscaler.upscale` raises.
    """
    pixels, alpha = picture.pixels, picture.alpha
    if alpha is not None:
        pixels = fill_hidden(pixels, alpha)
    large = upscaler.upscale(pixels, size=size, on_tile=on_tile)
    height, width = large.shape[:2]
    alpha = None if alpha is None else resize_alpha(alpha, (height, width))
    return replace(resized(picture, (height, width), width / pixels.shape[1]), pixels=large, alpha=alpha)


def write_picture(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of the file's ending, one of `WRITABLE`. An older file there is replaced.

    The file appears whole or not at all: it is written beside its place and renamed. JPEG and WebP at quality 95.

    Raises StorageError when the place cannot be written or the format cannot hold the picture (`check_fits`),
    MissingDependency for 16 bits of colour, or of grey with alpha, without the extra `deep`; OutOfMemory.
    PictureWarning says what the format cannot hold and is left out: 16 bits are rounded to 8, metadata dropped.
    """
    file, notes = Path(path), list[str]()
    what = f"cannot write picture {files.shown(file)}"
    pixels, alpha = picture.pixels, picture.alpha
    height, width = pixels.shape[:2]
    deep = pixels.dtype == np.uint16
    name, holds = check_fits(PictureFacts(height, width, 1 if pixels.ndim == 2 else 3, deep, alpha is not None), file)
    if deep and not holds.deep:
        notes.append(f"its 16 bits a channel are written as 8, {name} holds no more")
        pixels, alpha = eight_bits(pixels), None if alpha is None else eight_bits(alpha)
    metadata = fitting(picture, pixels.ndim == 2, name, holds, notes)
    try:
        with files.atomic_file(file) as stream:
            encode((pixels, alpha), metadata, name, stream)
    except ZoomrtError:
        raise
    except MemoryError as cause:
        remedy = "Close other programs, or cut the picture into parts."
        raise OutOfMemory(what, seen="no room", needed="room to encode it", remedy=remedy) from cause
    except Exception as cause:  # encoders raise struct.error, RuntimeError, libvips' own ...
        remedy = "Choose another format, and report this with the picture."
        raise StorageError(what, seen=cause, needed="an encoder that takes it", remedy=remedy) from cause
    _warn(file, notes)


def check_fits(facts: PictureFacts, path: str | os.PathLike[str]) -> tuple[str, Holds]:
    """Name and limits of the format that `path` ends in.

    Raises StorageError for an ending that is not one of `WRITABLE`, and where the format cannot hold such a picture:
    alpha in JPEG, sides beyond its limit.
    """
    file = Path(path)
    what = f"cannot write picture {files.shown(file)}"
    form = format_of(file)
    if form is None:
        needed, remedy = "one of " + ", ".join(WRITABLE), "Choose one of these endings."
        raise StorageError(what, seen=f"ending {file.suffix!r}", needed=needed, remedy=remedy)
    name, holds = form
    if facts.alpha and not holds.alpha:
        needed, remedy = f"an opaque picture for {name}", "Write .png, .tiff or .webp."
        raise StorageError(what, seen="an alpha channel", needed=needed, remedy=remedy)
    longest = max(facts.height, facts.width)
    if longest > holds.max_side:
        needed, remedy = f"at most {holds.max_side} for {name}", "Write .png or .tiff."
        raise StorageError(what, seen=f"side {longest}", needed=needed, remedy=remedy)
    return form
