"""The colour step: brings the whole finished picture back to the colours of its input, once and globally.

`bundle.ColourFacts` says how, as each model's authors do it: by which method, on values that were cut to [0, 1] or not,
and whose colours. Per tile it would make seams. `adain` needs the mean and deviation of the whole picture before it can
change a pixel, so the picture waits, in floats or nearly; `wavelet` follows the blocks as they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import Bundle, ColourFacts, ColourMethod
from zoomrt.errors import unknown_name
from zoomrt.runtime.sizes import bands
from zoomrt.runtime.tiles.blocks import Block
from zoomrt.runtime.tiles.moments import Moments, matching_affine
from zoomrt.runtime.tiles.pixels import FIXED_WHITE, empty, to_codes
from zoomrt.runtime.tiles.reference import Reference
from zoomrt.runtime.tiles.wavelet import match_low_frequencies

METHODS: tuple[str, ...] = get_args(ColourMethod)
_BAND_PIXELS = 1 << 16  # pixels worked on at a time


def check_method(method: str) -> None:
    """UsageError unless it is one of `METHODS`."""
    if method not in METHODS:
        raise unknown_name("colour step", method, METHODS)


def with_method(bundle: Bundle, method: str) -> Bundle:
    """The same bundle with another method, one of `METHODS`. Where values are cut and whose colours they take stays."""
    tile = bundle.manifest.tile
    colour = msgspec.structs.replace(tile.colour, method=method)
    tile = msgspec.structs.replace(tile, colour=colour)
    return Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, tile=tile))


def takes_codes(colour: ColourFacts) -> bool:
    """Whether the step may look at pixels that are stored already, cut and rounded, as whole frames on a GPU are."""
    return colour.method == "none" or colour.clamp == "first"


def waiting_bytes(colour: ColourFacts, *, deep: bool) -> int:
    """Bytes that `corrected` holds for each value of a uint8, or `deep` uint16, picture until it knows all of it."""
    return (4 if deep else 2) if colour.method == "adain" else 0


def corrected(blocks: Iterable[Block], reference: Reference, out: NDArray[Any], colour: ColourFacts) -> Iterator[Block]:
    """The picture of `blocks`, which is going to be stored in `out`, with the colours of the reference.

    reference : of the same size. out : (H, W, 3) or (H, W); float32 keeps what `adain` has to wait with, for others
    room of its own is made, 2 bytes for each of uint8 and 4 for each of uint16. Raises OutOfMemory then.
    """
    channels, size = 1 if out.ndim == 2 else 3, (out.shape[0], out.shape[1])
    if colour.clamp == "first":
        blocks = ((rows, columns, np.clip(block, 0, 1)) for rows, columns, block in blocks)
    if colour.method == "wavelet":
        return match_low_frequencies(blocks, reference, channels, size)
    if colour.method == "adain":
        return _match_moments(blocks, reference.moments(), out, colour.epsilon)
    return iter(blocks)


def _match_moments(blocks: Iterable[Block], wanted: Moments, out: NDArray[Any], epsilon: float) -> Iterator[Block]:
    waiting = _room_for(out)
    fixed = waiting.dtype.kind == "i"
    channels, height, width = waiting.shape
    found = Moments(channels)
    for rows, columns, block in blocks:
        found.add(block)
        if fixed:
            to_codes(block * np.float32(FIXED_WHITE), waiting[:, rows, columns])
        else:
            waiting[:, rows, columns] = block
    gain, bias = (each[:, None, None] for each in matching_affine(wanted, found, epsilon))
    gain /= FIXED_WHITE if fixed else 1
    for rows in bands(height, _BAND_PIXELS // width):
        block = waiting[:, rows] * gain.astype(np.float32)
        block += bias.astype(np.float32)
        yield rows, slice(0, width), block


def _room_for(out: NDArray[Any]) -> NDArray[Any]:
    """Where a picture waits, (channels, H, W): `out` itself where it holds floats."""
    if out.dtype.kind == "f":
        return out[None] if out.ndim == 2 else out.transpose(2, 0, 1)
    return empty(
        (1 if out.ndim == 2 else 3, *out.shape[:2]),
        np.dtype(np.int16 if out.dtype == np.uint8 else np.float32),
        what="cannot match the colours",
        use="until the colours of the whole picture are known",
        remedy="Cut the picture into parts first, close other programs, or choose the colour step none or wavelet.",
    )
