"""Picture files: read one, upscale it with its alpha, write it whole or not at all. Pillow does the formats.

What survives: ICC profile, alpha, resolution, and EXIF without orientation (which is applied to the pixels), thumbnail
and file layout. XMP, IPTC and comments do not. Pictures with several frames are an error, not a silent first frame;
an MPO, as phones write it, is read as the photograph it is, without its previews and gain maps.

What Pillow cannot: 16-bit colour. Such files are read at 8 bits, with a warning; 16-bit grey stays 16 bits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from zoomrt.errors import InputError, OutOfMemory, StorageError, ZoomrtError
from zoomrt.runtime.tiles import check_size

if TYPE_CHECKING:
    from zoomrt.runtime.upscaler import Upscaler

__all__ = ["WRITABLE", "Picture", "fill_hidden", "read_picture", "upscale_picture", "write_picture"]

Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture and what belongs to it.

    pixels : (H, W, 3) RGB or (H, W) grey; uint8 or uint16.
    alpha : (H, W) of the same type, straight (not premultiplied), or None for an opaque picture.
    icc : ICC profile of the pixels; None means sRGB, or grey with its curve.
    exif : EXIF block with the `Exif` header, without orientation.
    dpi : pixels per inch, horizontal and vertical.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Format:
    """What a file format can hold, and how it is written."""

    name: str
    alpha: bool
    deep: bool
    grey: bool
    max_side: int
    options: dict[str, Any]


_JPEG = _Format("JPEG", False, False, True, 65535, {"quality": 95, "subsampling": 0})
_PNG = _Format("PNG", True, True, True, 2**31 - 1, {})
_TIFF = _Format("TIFF", True, True, True, 2**31 - 1, {"compression": "tiff_adobe_deflate"})
_WEBP = _Format("WEBP", True, False, False, 16383, {"quality": 95})
_FORMATS = {".jpg": _JPEG, ".jpeg": _JPEG, ".png": _PNG, ".tif": _TIFF, ".tiff": _TIFF, ".webp": _WEBP}

WRITABLE: tuple[str, ...] = tuple(_FORMATS)
"""File endings that `write_picture` knows."""

# Pillow's modes of 8 bits a channel, and whether they are grey. CMYK and LAB are converted before.
_GREY_MODES = {"1", "L", "LA", "La"}
_COLOUR_MODES = {"P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"}
_DEEP_MODES = {"I;16", "I;16L", "I;16B", "I;16N", "I"}
# TIFF tags that describe the file and not the photograph: layout, resolution, colour coding, other metadata blocks.
_LAYOUT_TAGS = {*range(254, 270), *range(273, 305), *range(317, 348), *range(512, 533), 700, 33723, 34377, 34675}
_TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a picture file, turned upright.

    Takes 1-bit, grey, palette, RGB, CMYK and LAB, each with or without alpha. CMYK becomes sRGB through its own
    profile (relative colorimetric, black point compensated), or by Pillow's plain formula without one.

    Raises InputError for a file that is missing, unreadable, damaged, no picture, animated, of zero or too many pixels,
    or of 32 bits a channel; OutOfMemory.
    """
    file = Path(path)
    what = f"cannot read picture {str(file)!r}"
    _check_file(file, what)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                picture = _picture_from_image(image, what, notes)
    except ZoomrtError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as cause:
        needed, remedy = "fewer pixels", "Cut the picture into parts first, if you trust it."
        raise InputError(what, seen=cause, needed=needed, remedy=remedy) from cause
    except UnidentifiedImageError as cause:
        seen, remedy = "content of no known format", "Check that it is a picture and not a renamed file."
        raise InputError(what, seen=seen, needed="PNG, JPEG, TIFF, WebP or the like", remedy=remedy) from cause
    except MemoryError as cause:
        remedy = "Close other programs, or cut the picture into parts."
        raise OutOfMemory(what, seen="no room", needed="room for its pixels", remedy=remedy) from cause
    except PermissionError as cause:
        remedy = "Change its permissions."
        raise InputError(what, seen=cause.strerror, needed="a readable file", remedy=remedy) from cause
    except Exception as cause:  # decoders raise what they like on damaged data: OSError, SyntaxError, struct.error ...
        seen, remedy = f"damaged data ({cause})", "Copy the file again from where it came."
        raise InputError(what, seen=seen, needed="an intact picture", remedy=remedy) from cause
    for note in notes:
        warnings.warn(f"{str(file)!r}: {note}", stacklevel=2)
    return picture


def _check_file(file: Path, what: str) -> None:
    needed, remedy = "a picture file", "Check the path."
    try:
        size = file.stat().st_size
    except (OSError, ValueError) as cause:
        seen = "nothing there" if isinstance(cause, FileNotFoundError) else cause
        raise InputError(what, seen=seen, needed=needed, remedy=remedy) from cause
    if not file.is_file():
        seen = "a folder" if file.is_dir() else "something that is not a file"
        raise InputError(what, seen=seen, needed=needed, remedy="Name a file.")
    if size == 0:
        raise InputError(what, seen="an empty file", needed=needed, remedy="Copy it again from where it came.")


def _picture_from_image(image: ImageFile.ImageFile, what: str, notes: list[str]) -> Picture:
    check_size(image.height, image.width, what)
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        seen, remedy = f"{getattr(image, 'n_frames', 0)} frames", "Save the frames as pictures first."
        raise InputError(what, seen=seen, needed="one frame", remedy=remedy)
    coded_deep = any(";16" in str(part.args) for part in image.tile)  # `tile` is gone after loading
    turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    image.load()
    if coded_deep and image.mode not in _DEEP_MODES:
        notes.append("16-bit colour is read at 8 bits, Pillow cannot do more")
    pixels, alpha, icc = _planes(ImageOps.exif_transpose(image), what)
    dpi = _dpi(image.info.get("dpi"))
    return Picture(pixels, alpha, icc, _exif_from_image(image, notes), dpi[::-1] if dpi and turned else dpi)


def _planes(image: Image.Image, what: str) -> tuple[Pixels, Pixels | None, bytes | None]:
    """Pixels, alpha and ICC profile of an upright image, in the forms that `Picture` allows."""
    icc: bytes | None = image.info.get("icc_profile")
    if image.mode in _DEEP_MODES:
        return *_deep_planes(image, what), icc
    if image.mode in ("CMYK", "LAB"):
        image, icc = _srgb_from_image(image, icc, what), None
    if image.mode not in _GREY_MODES | _COLOUR_MODES:
        needed, remedy = "8 bits a channel, or 16-bit grey", "Convert it to 8 bits a channel first."
        raise InputError(what, seen=f"pixel format {image.mode}", needed=needed, remedy=remedy)
    alpha = image.has_transparency_data
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    values = np.asarray(image.convert(mode + "A" if alpha else mode))
    if not alpha:
        return values, None, icc
    return (values[..., 0] if mode == "L" else values[..., :3]), values[..., -1], icc


def _deep_planes(image: Image.Image, what: str) -> tuple[Pixels, Pixels | None]:
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        remedy = "Convert it to 16 bits first."
        raise InputError(what, seen=f"grey from {low} to {high}", needed="grey from 0 to 65535", remedy=remedy)
    pixels = values.astype(np.uint16)
    key = image.info.get("transparency")  # PNG: the one grey value that is transparent
    alpha = None if key is None else np.where(pixels == key, 0, 65535).astype(np.uint16)
    return pixels, alpha


def _srgb_from_image(image: Image.Image, icc: bytes | None, what: str) -> Image.Image:
    if image.mode == "CMYK" and icc is None:
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(icc)) if icc else ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(
            image,
            source,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as cause:
        remedy = "Convert it to RGB in an image editor first."
        needed = f"an ICC profile for {image.mode}"
        raise InputError(what, seen=f"a profile that fails ({cause})", needed=needed, remedy=remedy) from cause
    assert converted is not None  # only in-place conversion gives None
    return converted


def _dpi(value: Any) -> tuple[float, float] | None:
    """Pillow's `dpi` entry if it is two sane numbers; it may be zero or infinite, and is 1 where a TIFF has none."""
    try:
        across, down = (float(number) for number in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if 1 < across < 1e5 and 1 < down < 1e5 else None


def _exif_from_image(image: Image.Image, notes: list[str]) -> bytes | None:
    try:
        exif = image.getexif()
        for tag in _LAYOUT_TAGS.intersection(exif):
            del exif[tag]
        return exif.tobytes() if len(exif) else None
    except Exception as cause:  # EXIF is written by every camera's own reading of the standard
        notes.append(f"EXIF cannot be kept, it is damaged ({cause})")
        return None


def upscale_picture(upscaler: Upscaler, picture: Picture, on_tile: Callable[[int, int], None] | None = None) -> Picture:
    """Upscale pixels with the model and alpha by bicubic interpolation; resolution and EXIF sizes follow.

    Colour under alpha 0 is replaced by that of its visible surroundings first, so that it does not bleed out.
    Raises what `Upscaler.upscale` raises.
    """
    pixels, alpha, scale = picture.pixels, picture.alpha, upscaler.scale
    if alpha is not None:
        pixels = fill_hidden(pixels, alpha)
    large = upscaler.upscale(pixels, on_tile=on_tile)
    return replace(
        picture,
        pixels=large,
        alpha=None if alpha is None else _bicubic(alpha, scale),
        exif=None if picture.exif is None else _exif_with_size(picture.exif, large.shape[0], large.shape[1]),
        dpi=None if picture.dpi is None else _dpi(number * scale for number in picture.dpi),
    )


def fill_hidden(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Replace colour under alpha 0 by an average of the nearest visible pixels, coarse to fine.

    pixels : (H, W, 3) or (H, W); alpha : (H, W). Returns pixels of the same type; visible ones are unchanged.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels
    colours = pixels.reshape(*alpha.shape, -1)
    weight = visible[:, :, None].astype(np.float32)
    filled = _fill(colours * weight, weight)
    result = np.where(visible[:, :, None], colours, np.rint(filled).astype(pixels.dtype))
    return result.reshape(pixels.shape)


def _fill(total: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weighted mean where there is weight; elsewhere that of the 2x2, 4x4 ... block which has some."""
    if weight.all():
        return total / weight
    high, wide = weight.shape[:2]
    coarse = _fill(_halve(total), _halve(weight)).repeat(2, 0).repeat(2, 1)[:high, :wide]
    return np.where(weight > 0, total / np.maximum(weight, 1), coarse)


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of 2x2 blocks; odd sides are padded with zeros."""
    high, wide = values.shape[:2]
    values = np.pad(values, ((0, high % 2), (0, wide % 2), (0, 0)))
    return values[::2, ::2] + values[1::2, ::2] + values[::2, 1::2] + values[1::2, 1::2]


def _bicubic(alpha: Pixels, scale: int) -> Pixels:
    size = (alpha.shape[1] * scale, alpha.shape[0] * scale)
    if alpha.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(alpha)).resize(size, Image.Resampling.BICUBIC))
    large = np.asarray(Image.fromarray(alpha.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))
    rounded: Pixels = np.rint(np.clip(large, 0, np.iinfo(alpha.dtype).max)).astype(alpha.dtype)
    return rounded


def _exif_with_size(data: bytes, height: int, width: int) -> bytes:
    """The same EXIF, with the picture size corrected where it is stated."""
    exif = Image.Exif()
    exif.load(data)
    details = exif.get_ifd(ExifTags.IFD.Exif)
    for tag, value in ((ExifTags.Base.ExifImageWidth, width), (ExifTags.Base.ExifImageHeight, height)):
        if tag in details:
            details[tag] = value
    return exif.tobytes()


def write_picture(picture: Picture, path: str | os.PathLike[str]) -> None:
    """Write a picture in the format of the file's ending, one of `WRITABLE`. An older file there is replaced.

    The file appears whole or not at all: it is written beside its place and renamed. JPEG and WebP at quality 95.

    Raises StorageError when the place cannot be written or the format cannot hold the picture (nothing is dropped
    in silence: alpha in JPEG, 16 bits in JPEG or WebP, 16-bit colour anywhere); OutOfMemory.
    """
    file = Path(path)
    what = f"cannot write picture {str(file)!r}"
    form = _FORMATS.get(file.suffix.lower())
    if form is None:
        needed, remedy = "one of " + ", ".join(WRITABLE), "Choose one of these endings."
        raise StorageError(what, seen=f"ending {file.suffix!r}", needed=needed, remedy=remedy)
    _check_fits(picture, form, what)
    carried = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    options = form.options | {key: value for key, value in carried.items() if value is not None}
    if form is _TIFF and picture.exif is not None:
        del options["compression"]  # libtiff, which compresses, cannot write EXIF's inner directories
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        image = Image.fromarray(_interleaved(picture))
        with scratch.open("x+b") as stream:
            image.save(stream, format=form.name, **options)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(scratch, file)
    except MemoryError as cause:
        remedy = "Close other programs, or cut the picture into parts."
        raise OutOfMemory(what, seen="no room", needed="room to encode it", remedy=remedy) from cause
    except Exception as cause:  # encoders raise OSError, ValueError, struct.error ...
        seen = (cause.strerror if isinstance(cause, OSError) else None) or cause
        remedy = "Choose another place, or make room and set its permissions."
        raise StorageError(what, seen=seen, needed="a writable place with room", remedy=remedy) from cause
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _check_fits(picture: Picture, form: _Format, what: str) -> None:
    name, longest = form.name, max(picture.pixels.shape[:2])
    opaque, deep = picture.alpha is None, picture.pixels.dtype != np.uint8
    plain_grey = opaque and picture.pixels.ndim == 2
    # A profile says grey in its header (ICC.1 7.2.6); WebP stores grey as colour, for which it would be wrong.
    grey_profile = picture.icc is not None and picture.icc[16:20] == b"GRAY"
    grey_needed, to_8_bit = "8 bits, or 16-bit grey without alpha", "Convert the pixels to uint8 first."
    rules = (
        ("an alpha channel", f"an opaque picture for {name}", "Write .png, .tiff or .webp.", opaque or form.alpha),
        ("16 bits a channel", f"8 bits for {name}", "Write .png or .tiff.", not deep or form.deep),
        ("16-bit colour or alpha", grey_needed, to_8_bit, not deep or plain_grey),
        ("grey with its profile", f"colour for {name}", "Write .png, .jpg or .tiff.", form.grey or not grey_profile),
        (f"side {longest}", f"at most {form.max_side} for {name}", "Write .png or .tiff.", longest <= form.max_side),
    )
    for seen, needed, remedy, holds in rules:
        if not holds:
            raise StorageError(what, seen=seen, needed=needed, remedy=remedy)


def _interleaved(picture: Picture) -> Pixels:
    if picture.alpha is None:
        return np.ascontiguousarray(picture.pixels)
    return np.dstack([picture.pixels, picture.alpha])
