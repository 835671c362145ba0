"""Pixels and metadata into a stream, in each format that is written. JPEG and WebP at quality 95, JPEG without chroma
subsampling, PNG and TIFF lossless and compressed. The same picture gives the same bytes."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image

from zoomrt.runtime.pictures import vips
from zoomrt.runtime.pictures.formats import CLASSIC_TIFF_BYTES
from zoomrt.runtime.pictures.metadata import Metadata, photoshop_segment
from zoomrt.runtime.pictures.png import AfterHeader
from zoomrt.runtime.pictures.source import Planes
from zoomrt.runtime.pictures.tiff import add_metadata

_QUALITY = 95
_HORIZONTAL = 2  # TIFF's predictor: differences of neighbours, which deflate better


def encode(planes: Planes, metadata: Metadata, form: str, stream: BinaryIO) -> None:
    """Write a picture that the format can hold, with metadata that `metadata.fitting` gave.

    stream : an empty file, open for reading and writing.
    Raises MissingDependency for 16 bits of colour, or of grey with alpha, without the extra `deep`, and whatever
    encoders and the file system raise.
    """
    if form == "JPEG":
        options = _given(exif=metadata.exif, icc_profile=metadata.icc, xmp=metadata.xmp, dpi=metadata.dpi)
        extra = b"" if metadata.iptc is None else photoshop_segment(metadata.iptc)
        _image(planes).save(stream, "JPEG", quality=_QUALITY, subsampling=0, extra=extra, **options)
    elif form == "WEBP":
        options = _given(exif=metadata.exif, icc_profile=metadata.icc, xmp=metadata.xmp)
        _image(planes).save(stream, "WEBP", quality=_QUALITY, **options)
    elif form == "PNG":
        _lossless(planes, "PNG", AfterHeader(stream, metadata))
    else:
        big = sum(plane.nbytes for plane in planes if plane is not None) > CLASSIC_TIFF_BYTES
        packed = {"compression": "tiff_adobe_deflate", "tiffinfo": {ExifTags.Base.Predictor: _HORIZONTAL}}
        _lossless(planes, "TIFF", stream, **({"big_tiff": True} if big else packed))  # of 8 bits: one or the other
        add_metadata(stream, metadata)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _lossless(planes: Planes, form: str, stream: Any, **options: Any) -> None:
    """Pillow writes 8 bits, and 16 bits of grey alone."""
    pixels, alpha = planes
    if pixels.dtype == np.uint16 and (pixels.ndim == 3 or alpha is not None):
        vips.encode(planes, form, stream)
    else:
        _image(planes).save(stream, form, **options)


def _image(planes: Planes) -> Image.Image:
    """Pillow's copy: 4 bytes a pixel of colour."""
    pixels, alpha = planes
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if alpha is not None:
        image.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return image
