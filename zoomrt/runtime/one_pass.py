"""One pass of a frame through the network: tiles, blend, size, colours, pixels, in blocks from the first to the last.

    frame -> tiles -> network -> blend -> [resized] -> [colour step] -> frame of the result

Execution only, for `Upscaler`: `tiles` says what to read and with what weight, a session turns tiles into pixels,
`blend` adds them up, `blocks` resamples, `colour` corrects, `pixels` converts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.runtime.frames.rgb_view import Picture, peak_of
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.session import Session
from zoomrt.runtime.sizes import bands
from zoomrt.runtime.tiles import noise, pixels
from zoomrt.runtime.tiles.blend import Blender
from zoomrt.runtime.tiles.blocks import Block, resized
from zoomrt.runtime.tiles.colour import corrected, takes_codes, waiting_bytes
from zoomrt.runtime.tiles.plan import plan
from zoomrt.runtime.tiles.reference import InputReference, planes_of

_BAND_PIXELS = 1 << 16


def upscale_once(
    session: Session,
    facts: TileFacts,
    frame: Picture,
    out: NDArray[Any],
    *,
    on_part: Callable[[int, int], None],
    evaluations: list[int] | None,
) -> None:
    """Upscale a frame into `out`, of its rank, and of any type and size.

    on_part : called with (tiles done, tiles in all). evaluations : where the network's evaluations of each tile are
        added; None for a model with one step.
    """
    size, natural = (out.shape[0], out.shape[1]), (frame.shape[0] * facts.scale, frame.shape[1] * facts.scale)
    channels = 1 if out.ndim == 2 else 3
    colour, resizes = facts.colour, size != natural
    tiles = len(plan(frame.shape[0], frame.shape[1], facts))
    straight = not resizes and colour.method == "none"
    white = peak_of(out.dtype) if straight else 1.0
    with contextlib.ExitStack() as open_runs:
        blocks: Iterable[Block]
        by_bytes = not resizes and out.dtype == np.uint8 and takes_codes(colour)
        device = session if isinstance(session, DeviceSession) and by_bytes else None
        if device is not None and device.run_frame(frame, out):
            on_part(tiles, tiles)
            if straight:
                return
            height, width = size  # the finished frame once more
            blocks = ((rows, slice(0, width), planes_of(out[rows])) for rows in bands(height, _BAND_PIXELS // width))
        else:
            blended = _tile_by_tile(session, frame, facts, on_part, evaluations)
            open_runs.enter_context(contextlib.closing(blended))
            blocks = (
                (rows, columns, pixels.values_of(block, facts, channels, white)) for rows, columns, block in blended
            )
        if resizes:
            blocks = resized(blocks, channels, natural, size)
        if colour.method != "none":
            blocks = corrected(blocks, InputReference(frame, size, colour), out, colour)
        for rows, columns, block in blocks:
            pixels.store(block, out[rows, columns], white)


def working_bytes(facts: TileFacts, results: Sequence[tuple[int, int]], channels: int, *, deep: bool) -> int:
    """Most bytes that passes through the network hold beside the frame and its result, tiles and strips left out:
    frames between them, and what the colour step waits with.

    results : (height, width) of each pass. channels, deep : of the frame, 1 or 3 of uint8 or uint16.
    """
    most = before = 0
    for number, (height, width) in enumerate(results):
        last = number == len(results) - 1
        values = height * width * channels
        own = 0 if last else 2 * values
        most = max(most, before + own + values * waiting_bytes(facts.colour, deep=deep or not last))
        before = own
    return most


def _tile_by_tile(
    session: Session,
    frame: Picture,
    facts: TileFacts,
    on_part: Callable[[int, int], None],
    evaluations: list[int] | None,
) -> Generator[Block, None, None]:
    tiles = plan(frame.shape[0], frame.shape[1], facts)
    blender = Blender(tiles)

    def fill(chosen: range, inputs: NDArray[np.float32]) -> None:
        for tile, index in zip(inputs, chosen, strict=True):
            pixels.gather(frame, tiles, index, facts, tile[:3])
            if facts.noise is not None:
                noise.gather(facts.noise, tiles, index, tile[3:])

    with contextlib.closing(session.run_tiles(len(tiles), fill, tiles.name)) as batches:
        for chosen, outputs in batches:
            if evaluations is not None:
                evaluations += [session.evaluations] * len(chosen)
            for index, tile in zip(chosen, outputs, strict=True):
                yield blender.add(index, tile)
            for index in chosen:  # after the batch, so that a callback may use the session again
                on_part(index + 1, len(tiles))
