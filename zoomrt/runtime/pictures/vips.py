"""16 bits a channel of colour, or of grey with alpha, through libvips: the extra `deep`. Pillow reads them at 8 bits.

libvips was taken because it reads right what others do not (OpenCV: planes apart, white is zero, grey with alpha), is
8 MB for every platform, and prints nothing. Its cache of operations is not used.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import MissingDependency
from zoomrt.runtime.pictures.formats import CLASSIC_TIFF_BYTES
from zoomrt.runtime.pictures.source import Planes, stretched

_LOADERS = {"AVIF": "heifload_source", "PNG": "pngload_source", "TIFF": "tiffload_source"}
_BAND_BYTES = 1 << 23


logging.getLogger("pyvips").addHandler(logging.NullHandler())  # else Python prints what nobody handles


@functools.cache
def available() -> bool:
    """Whether libvips can be loaded."""
    with contextlib.suppress(Exception):  # OSError where the binding is there and the library is not
        _vips()
        return True
    return False


def _vips() -> Any:
    try:
        import pyvips
    except (ImportError, OSError) as cause:
        raise MissingDependency(
            "cannot write 16 bits a channel of colour, or of grey with alpha",
            seen=cause,
            needed="libvips",
            remedy="Run: pip install 'zoomrt[deep]'",
        ) from cause
    return pyvips


def decode(stream: BinaryIO, form: str, size: tuple[int, int]) -> NDArray[np.uint16]:
    """All channels of a picture as it is stored, (H, W, channels), alpha straight and last.

    form : AVIF, PNG or TIFF. size : (height, width) that its header was read to say; anything else is an error.

    Raises MissingDependency, and ValueError or pyvips.Error for damaged data.
    """
    vips = _vips()
    with _opened(stream, vips) as source:
        image = getattr(vips.Image, _LOADERS[form])(source, access="sequential", fail_on="error")
        if (image.height, image.width) != size or image.format != "ushort":
            raise ValueError(f"{image.width}x{image.height} pixels of type {image.format}")
        result = np.empty((*size, image.bands), np.uint16)
        region, rows = vips.Region.new(image), max(1, _BAND_BYTES // (image.width * image.bands * 2))
        for top in range(0, size[0], rows):
            band = result[top : top + rows]
            band[...] = np.frombuffer(region.fetch(0, top, size[1], len(band)), np.uint16).reshape(band.shape)
    bits = image.get("bits-per-sample") if form == "AVIF" else 16
    return result if bits == 16 else stretched(result >> np.uint16(16 - bits), 2**bits - 1)


def split(values: NDArray[np.uint16], channels: int, alpha: bool) -> Planes:
    """RGB or grey, and alpha where the channel behind them is alpha. Raises ValueError where there are too few."""
    if values.shape[2] < channels + alpha:
        raise ValueError(f"{values.shape[2]} channels of {channels + alpha}")
    return values[..., 0] if channels == 1 else values[..., :3], values[..., channels] if alpha else None


@contextlib.contextmanager
def _opened(stream: BinaryIO, vips: Any) -> Iterator[Any]:
    """A stream for libvips, which moves the file's position below Python's buffer."""
    try:
        number = stream.fileno()
    except OSError:  # in memory
        stream.seek(0)
        yield vips.Source.new_from_memory(stream.read())
        return
    place = os.lseek(number, 0, os.SEEK_CUR)
    os.lseek(number, 0, os.SEEK_SET)
    try:
        yield vips.Source.new_from_descriptor(number)
    finally:
        os.lseek(number, place, os.SEEK_SET)


def encode(planes: Planes, form: str, stream: Any) -> None:
    """Write 16-bit pixels and alpha into a stream as PNG or TIFF, without metadata.

    stream : needs `write`, and for TIFF also `read` and `seek`. Raises MissingDependency, what the stream raises, and
    pyvips.Error.
    """
    vips = _vips()
    images = [_image(plane, vips) for plane in planes if plane is not None]
    image = images[0].bandjoin(images[1:]) if len(images) > 1 else images[0]
    image = image.copy(interpretation="grey16" if planes[0].ndim == 2 else "rgb16")
    with _target(stream, vips) as target:
        if form == "TIFF":
            big = image.width * image.height * image.bands * 2 > CLASSIC_TIFF_BYTES
            image.tiffsave_target(target, compression="deflate", predictor="horizontal", bigtiff=big)
        else:
            image.pngsave_target(target, filter="all", bitdepth=16)


def _image(plane: NDArray[Any], vips: Any) -> Any:
    height, width, bands = (*plane.shape, 1)[:3]
    return vips.Image.new_from_memory(np.ascontiguousarray(plane), width, height, bands, "ushort")


@contextlib.contextmanager
def _target(stream: Any, vips: Any) -> Iterator[Any]:
    """A stream for libvips. Exceptions must not pass through its C code, so they are raised behind it."""
    raised: list[BaseException] = []

    def guarded(call: Callable[..., Any], failed: int | None) -> Callable[..., Any]:
        def run(*words: Any) -> Any:
            try:
                return failed if raised else call(*words)
            except BaseException as cause:
                raised.append(cause)
                return failed

        return run

    target = vips.TargetCustom()
    target.on_write(guarded(stream.write, -1))
    if hasattr(stream, "seek"):
        target.on_seek(guarded(stream.seek, -1))
        target.on_read(guarded(stream.read, None))
    try:
        yield target
    except vips.Error:
        if not raised:
            raise
    if raised:
        raise raised[0]
