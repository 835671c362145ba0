"""What a zoom session hands back for a frame: the picture, and what was done for it."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from zoomrt.errors import RuntimeFault
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.zoom.deadline import Mode


@dataclass(frozen=True, eq=False)
class ZoomResult:
    """One view and how it came about."""

    frame: CameraFrame | None
    """The picture; None where a newer frame took this one's place before its turn."""
    mode: Mode
    """`full`: all that the zoom asks for; `centre_first`: some tiles are bicubic; `bicubic`: all are; `dropped`."""
    tiles: int = 0
    """Tiles that the crop needs; 0 up to one output pixel per frame pixel, where the network is not needed."""
    computed: int = 0
    """Tiles that were computed for this view."""
    reused: int = 0
    """Tiles that were there from views before."""
    latency_ms: float = 0.0
    """From `submit` or `process` to the finished picture."""
    problem: BaseException | None = None
    """What a tile that was refined in the background failed with since the frame before."""

    @property
    def bicubic(self) -> int:
        """Tiles that are missing and show as bicubic."""
        return self.tiles - self.computed - self.reused

    @property
    def pixels(self) -> NDArray[Any]:
        """The picture's first plane: all of it where the output is rgb or bgr. RuntimeFault for a dropped frame."""
        if self.frame is None:
            remedy = "Look at `mode` first, or submit fewer frames."
            raise RuntimeFault("no picture", seen="a dropped frame", needed="an answered one", remedy=remedy)
        return self.frame.pixels


Ticket = Future[ZoomResult]
"""A promise of a result; `asyncio.wrap_future` makes it awaitable."""
