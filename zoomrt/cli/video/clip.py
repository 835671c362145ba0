"""Video in with PyAV, which is FFmpeg: files, numbered pictures, cameras; pictures decoded, all else as packets.

Time counts from the first picture, and pictures keep their own times, also where their rate varies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Discard, Disposition

from zoomrt.cli.video.frames import bits_of, camera_frame, chroma_step, colours_of, losses_of, siting_of
from zoomrt.errors import InputError
from zoomrt.files import exists, shown
from zoomrt.runtime.frames.pixel_formats import CameraFrame

_MIN_RATE, _MAX_RATE = Fraction(1, 1000), Fraction(10_000)
"""Pictures a second, beyond which a file's rate is taken for a slip."""
_MAX_SECONDS = 2**31
"""68 years, far from where a clock of 1/60000 s overflows 64 bits."""
_DEFAULT_RATE = Fraction(30)
_INTERLEAVED = 10
"""Seconds by which streams of a file may be apart in it; players and FFmpeg's muxers reckon with so much too."""


class Source:
    """An opened video, picture sequence or camera.

    name : a file, a pattern with %d, or what the device is called. device : FFmpeg's name of the device's kind
    (v4l2, avfoundation, dshow, lavfi), None for files.

    Raises InputError for what cannot be opened or has no picture.
    """

    def __init__(self, name: str, device: str | None, rate: Fraction | None = None) -> None:
        options = {"framerate": str(rate)} if rate and (device or "%" in Path(name).name) else {}
        self.name, self.damaged, self._damage = name, 0, ""
        try:
            local = device is None and exists(name)  # or a colon in its name would be that of a protocol
            url = f"file:{name}" if local else name
            self.container = av.open(url, format=device, options=options, metadata_errors="replace")
        except (OSError, ValueError, av.FFmpegError) as cause:
            raise self._unreadable(reason(cause)) from cause
        try:
            self._open(device, rate)
        except BaseException:
            self.container.close()
            raise

    def _open(self, device: str | None, rate: Fraction | None) -> None:
        video: Any = self.container.streams.best("video")
        if video is None or Disposition.attached_pic in video.disposition:
            raise self._unreadable("no video in it" if video is None else "no video in it but a cover")
        self.video = video
        if video.codec_context is None:
            raise self._unreadable("a video that this FFmpeg has no decoder for")
        video.thread_type = "AUTO"
        others = [] if device else [stream for stream in self.container.streams if stream is not video]
        self.others = [stream for stream in others if stream.discard != Discard.all]  # tracks of chapters and the like
        """Streams that may be copied."""
        found = video.average_rate
        known = found if found and _MIN_RATE <= found <= _MAX_RATE else rate or _DEFAULT_RATE
        self.rate = known.limit_denominator(100_000)  # FFmpeg holds 32 bits
        self._rest = self._read()
        self._before: list[tuple[Any, Any]] = []  # packets of other streams may come before the first picture
        for frame, packet in self._rest:
            self._before.append((frame, packet))
            if frame is not None:
                break
        else:
            raise self._unreadable(f"no pictures in it{self._damage}")
        self._start = Fraction(0) if frame.pts is None else frame.pts * frame.time_base
        aspect = video.sample_aspect_ratio or Fraction(1)
        plausible = 1 / 64 <= aspect <= 64
        self._pixel_aspect = float(aspect) if plausible else 1.0
        self._siting = siting_of(frame)
        self.first = self.camera_frame(frame)
        """It says how colours and sizes are meant."""
        self.bits, self.chroma_step = bits_of(frame.format), chroma_step(frame.format)
        self.colours, self.losses = colours_of(frame), losses_of(frame)
        if not plausible:
            self.losses.append(f"its pixels of {aspect.numerator}:{aspect.denominator} are taken for square ones")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture as it is shown, turned and in square pixels: the coarser axis gets more."""
        (height, width), aspect = self.first.shape, self.first.pixel_aspect
        if aspect > 1:
            width = 2 * round(width * aspect / 2)
        elif aspect < 1:
            height = 2 * round(height / aspect / 2)
        return width, height

    @property
    def seconds(self) -> float | None:
        """How long it lasts; None for a camera."""
        if self.video.duration and self.video.time_base:
            seconds = float(self.video.duration * self.video.time_base)
        elif self.container.duration:
            seconds = float(self.container.duration / av.time_base)
        else:
            seconds = float(self.video.frames / self.rate)
        return seconds if 0 < seconds <= _MAX_SECONDS else None

    @property
    def lead(self) -> Fraction:
        """Seconds by which something else, such as sound, begins before the first picture."""
        begins = self.container.start_time
        lead = self._start - Fraction(begins, av.time_base) if begins is not None and self.others else Fraction(0)
        return lead if 0 < lead <= _MAX_SECONDS else Fraction(0)

    def packets(self, until: float | None = None) -> Iterator[tuple[Any, Any]]:
        """(frame, None) for each picture and (None, packet) for each piece of the other streams, in the file's order.

        Times count from the first picture; what lies before it has times below 0.
        until : seconds from which on nothing is wanted; streams may be some seconds apart in a file, and each is handed
            out up to there.

        What cannot be decoded is left out and counted in `damaged`. Raises InputError where the file cannot be read on,
        and for times that no clock holds.
        """
        before, self._before = self._before, []
        for frame, packet in itertools.chain(before, self._rest):
            timed = packet if frame is None else frame
            begins = self._moved(timed)
            if until is None or begins is None or begins < until:
                yield frame, packet
            elif begins >= until + (_INTERLEAVED if self.others else 0):
                return

    def camera_frame(self, frame: Any) -> CameraFrame:
        """`frames.camera_frame`, with chroma where this video has it and pixels of its shape."""
        return camera_frame(frame, self._siting, self._pixel_aspect)

    def close(self) -> None:
        self.container.close()

    def _moved(self, timed: Any) -> Fraction | None:
        """Count a picture's or packet's times from the first picture; returns its own in seconds, if it has one."""
        start = round(self._start / timed.time_base) if timed.time_base else 0
        if timed.pts is not None:
            timed.pts -= start
        if isinstance(timed, av.Packet) and timed.dts is not None:
            timed.dts -= start
        at = timed.pts if timed.pts is not None else timed.dts if isinstance(timed, av.Packet) else None
        if at is None or not timed.time_base:
            return None
        seconds = at * Fraction(timed.time_base)
        if abs(seconds) > _MAX_SECONDS:
            raise self._unreadable(f"a time of {float(seconds):.3g} s")
        return seconds

    def _read(self) -> Iterator[tuple[Any, Any]]:
        try:
            for packet in self.container.demux([self.video, *self.others]):
                if packet.stream is not self.video:
                    if packet.size:
                        yield None, packet
                    continue
                try:
                    frames = packet.decode()
                except av.FFmpegError as cause:
                    self.damaged += 1
                    self._damage = f", {reason(cause)}"
                    continue
                for frame in frames:
                    yield frame, None
        except (OSError, ValueError, av.FFmpegError) as cause:
            raise self._unreadable(reason(cause)) from cause

    def _unreadable(self, why: str) -> InputError:
        needed = "pictures that FFmpeg reads"
        remedy = "Check the name, and with ffprobe whether FFmpeg can read it; for a camera give --device-kind."
        return InputError(f"cannot read video {shown(self.name)}", seen=why, needed=needed, remedy=remedy)


def reason(cause: BaseException) -> str:
    """What FFmpeg says, without its numbers and calls."""
    return str(getattr(cause, "strerror", None) or cause)
