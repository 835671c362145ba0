"""One frame that a zoom session is asked for: checked as it comes in, and where its view goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoomrt.errors import InputError
from zoomrt.runtime.frames.buffers import host_array
from zoomrt.runtime.frames.pixel_formats import CameraFrame, PixelFormat, empty_like
from zoomrt.runtime.sizes import check_size
from zoomrt.runtime.zoom.crop import checked_zoom


@dataclass(frozen=True, eq=False)
class Request:
    """Arguments of `ZoomSession.submit`, and when it was called, by `time.perf_counter`."""

    frame: CameraFrame
    zoom: float
    centre: tuple[float, float]
    out: CameraFrame | None
    arrival: float

    def target(self, shape: tuple[int, int], form: PixelFormat | None) -> CameraFrame:
        """Where the view goes: the caller's frame, or a new one. Raises InputError for one that does not fit."""
        out = self.out
        if out is None:
            return empty_like(self.frame, shape, form)
        writable = all(plane.flags.writeable for plane in out.planes)
        if out.shape != shape or (form and out.format != form) or not writable:
            seen = f"{out.format} {out.shape[1]}x{out.shape[0]}" + ("" if writable else ", read-only")
            needed = f"a writable {form or ''} frame of {shape[1]}x{shape[0]}"
            raise InputError("cannot write the view", seen=seen, needed=needed, remedy="Make `out` like that.")
        return out


def request_of(frame: object, zoom: object, centre: object, out: object, arrival: float) -> Request:
    """A request that makes sense: everything is checked but for the fit of `out`. Raises InputError, UsageError."""
    if not isinstance(frame, CameraFrame):
        frame = _rgb_frame(frame)
    check_size(*frame.shape, "cannot zoom into this frame")
    if isinstance(out, np.ndarray):
        out = _rgb_frame(out)
    if not (out is None or isinstance(out, CameraFrame)):
        needed, remedy = "a CameraFrame or a numpy array", "Make it of the planes to be written to."
        raise InputError("cannot write the view", seen=type(out).__name__, needed=needed, remedy=remedy)
    return Request(frame, *checked_zoom(zoom, centre), out, arrival)


def _rgb_frame(pixels: object) -> CameraFrame:
    """(H, W, 3) RGB of 8 or 16 bits as a frame."""
    array = host_array(pixels)
    return CameraFrame((array,), "rgb48" if array.dtype == np.uint16 else "rgb")
