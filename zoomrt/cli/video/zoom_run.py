"""A zoom under way: each picture of a source through a session, into a video or numbered pictures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from zoomrt.cli._common import Advance
from zoomrt.cli.options.numbered import numbered
from zoomrt.cli.video.clip import Source
from zoomrt.cli.video.writer import Recording, video_writer
from zoomrt.cli.video.zoom_path import ZoomPath
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.pictures.images import Picture, write_picture
from zoomrt.runtime.zoom.session import ZoomSession


class Progress:
    """Share of the input done, with the time that is left; the number of frames where the length is not known."""

    def __init__(self, advance: Advance, name: str, seconds: float | None) -> None:
        self._advance, self._name, self._seconds = advance, name, seconds
        self._started = time.monotonic()

    def show(self, at_seconds: float, frames: int) -> None:
        if not self._seconds:
            self._advance(f"{self._name}: frame {frames}", 0.0)
            return
        share = min(at_seconds / self._seconds, 1.0)
        left = (time.monotonic() - self._started) * (1 - share) / share if share > 0 else 0.0
        self._advance(f"{self._name}: frame {frames}, {int(left) // 60}:{int(left) % 60:02d} left", share)


@dataclass(eq=False)
class ZoomRun:
    """until : seconds of input after which nothing is wanted. side_by_side : bicubic on the left of a canvas.
    counts : frames so far, and tiles `computed`, `reused` and `bicubic`."""

    source: Source
    session: ZoomSession
    path: ZoomPath
    progress: Progress
    until: float | None
    side_by_side: bool
    counts: Counter[str] = field(default_factory=Counter)

    def video(self, path: Path, recording: Recording) -> None:
        """Write a video file, with all that its recording keeps of the source."""
        with video_writer(path, recording) as writer:
            for frame, packet, at in self._packets():
                if frame is None:
                    writer.copy(packet)
                    continue
                target, canvas = writer.canvas()
                self._render(frame, at, canvas)
                writer.write(target, at)

    def pictures(self, pattern: Path, size: tuple[int, int], *, deep: bool) -> None:
        """Write numbered pictures of (width, height), counted from 1; each is whole or not there.

        deep : 16 bits a channel.
        """
        for frame, _, at in self._packets():
            if frame is not None:
                picture = np.empty((size[1], size[0], 3), np.uint16 if deep else np.uint8)
                self._render(frame, at, CameraFrame((picture,), "rgb48" if deep else "rgb"))
                write_picture(Picture(picture), numbered(pattern, self.counts["frames"]))

    def _packets(self) -> Iterator[tuple[Any, Any, Fraction]]:
        """(frame, None, seconds) or (None, packet, 0)."""
        for frame, packet in self.source.packets(self.until):
            at = Fraction(0)
            if frame is not None:
                at = self.counts["frames"] / self.source.rate if frame.pts is None else frame.pts * frame.time_base
                if self.until is not None and at >= self.until:
                    return  # pictures without times, which the source cannot tell the end of
            yield frame, packet, at

    def _render(self, frame: Any, at: Fraction, canvas: CameraFrame) -> None:
        at_seconds, picture = float(at), self.source.camera_frame(frame)
        zoom, centre = self.path.at(at_seconds)
        out = canvas
        if self.side_by_side:
            out = half(canvas, right=True)
            self.session.bicubic(picture, zoom, centre, out=half(canvas, right=False))
        result = self.session.process(picture, zoom, centre, out=out)
        self.counts["frames"] += 1
        for name in ("computed", "reused", "bicubic"):
            self.counts[name] += getattr(result, name)
        self.progress.show(at_seconds, self.counts["frames"])


def half(canvas: CameraFrame, *, right: bool) -> CameraFrame:
    """The left or right half of a frame of even halves, in place."""
    planes = []
    for plane in canvas.planes:
        middle = plane.shape[1] // 2
        planes.append(plane[:, middle:] if right else plane[:, :middle])
    return CameraFrame(tuple(planes), canvas.format, canvas.matrix, canvas.full_range, canvas.siting)
