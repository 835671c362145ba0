"""Video in and out with PyAV, which is FFmpeg: files, numbered pictures, cameras. Sound is copied, not encoded again.

A decoded frame becomes a `CameraFrame` over FFmpeg's own planes where the format is one that the runtime reads; others
are converted by FFmpeg first. Time counts from the first picture, and pictures keep their own times, also where their
rate varies. A result is written beside its place and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.filter
import av.logging
import numpy as np

from zoomrt.errors import InputError, StorageError
from zoomrt.runtime.pixel_formats import CameraFrame, Matrix, PixelFormat, Siting, plane_shapes

__all__ = ["Source", "VideoWriter", "camera_frame"]

_READ: dict[str, PixelFormat] = {
    "yuv420p": "i420",
    "yuvj420p": "i420",
    "nv12": "nv12",
    "nv21": "nv21",
    "p010le": "p010",
    "rgb24": "rgb",
    "bgr24": "bgr",
}
"""FFmpeg's name -> ours, where the planes are the same."""
_REPACKED = {"yuv420p10le": "p010le"}
"""FFmpeg's names of the same codes in another order."""
_MATRICES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""AVCOL_SPC_* of libavutil/pixfmt.h (values of ITU-T H.273, table 4)."""
_SPACES: dict[str, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
_SITINGS: dict[str, Siting] = {"center": "center", "topleft": "top-left"}
"""FFmpeg's name of AVCHROMA_LOC_* -> ours. Left is for all others: it is what is meant where nothing is said."""
_HDR = {16: "PQ", 18: "HLG"}
"""AVCOL_TRC_* of high dynamic range (H.273, table 3)."""
_HD_LINES = 720
"""Lines from which an untagged video is taken for BT.709 and not BT.601, as players do."""
DEFAULT_RATE = Fraction(30)
_CLOCK = Fraction(1, 60000)
"""Seconds to which pictures are placed in time: MPEG-4 counts in at most 65535 parts of a second."""
_VARIABLE_RATE = 0x0400  # AVFMT_VARIABLE_FPS of libavformat/avformat.h
_EDIT_LISTS = {"mp4", "mov", "ipod", "3gp"}
"""Containers that hold sound from before the first picture and say that it is not to be heard."""


class Source:
    """An opened video, picture sequence or camera.

    name : a file, a pattern with %d, or what the device is called. device : FFmpeg's name of the device's kind
    (v4l2, avfoundation, dshow, lavfi), None for files. like : the first picture; it says how colours are meant.
    colours : its primaries and transfer, FFmpeg's numbers. loss : what of it a video of 8 bits does not show, or None.

    Raises InputError for what cannot be opened or has no picture.
    """

    def __init__(self, name: str, device: str | None, rate: Fraction | None = None) -> None:
        options = {"framerate": str(rate)} if rate and (device or "%" in Path(name).name) else {}
        try:
            self.container = av.open(name, format=device, options=options)
        except (OSError, ValueError, av.FFmpegError) as cause:
            raise _unreadable(name, cause) from cause
        self._name = name
        if not self.container.streams.video:
            self.container.close()
            raise _unreadable(name, "no video in it")
        self.video = self.container.streams.video[0]
        self.video.thread_type = "AUTO"
        self.audio = None if device else next(iter(self.container.streams.audio), None)
        self.rate = Fraction(self.video.average_rate or rate or DEFAULT_RATE)
        self._rest = self._read()
        self._first: list[tuple[Any, Any]] = []  # sound may come before the first picture
        while not self._first or self._first[-1][0] is None:
            try:
                self._first.append(next(self._rest))
            except (StopIteration, InputError) as cause:
                self.container.close()
                raise cause if isinstance(cause, InputError) else _unreadable(name, "no pictures in it") from None
        first = self._first[-1][0]
        self._start = Fraction(0) if first.pts is None else first.pts * first.time_base
        self._siting = _siting(first)
        self.like = self.camera_frame(first)
        self.colours = int(first.color_primaries), int(first.color_trc)
        self.loss = _loss(first)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as it is shown: a phone's portrait is stored lying, with a note to turn it."""
        height, width = self.like.size
        return width, height

    @property
    def seconds(self) -> float | None:
        """How long it lasts; None for a camera."""
        if self.video.duration and self.video.time_base:
            return float(self.video.duration * self.video.time_base)
        if self.container.duration and self.container.duration > 0:
            return float(self.container.duration / av.time_base)
        return float(self.video.frames / self.rate) if self.video.frames else None

    def packets(self) -> Iterator[tuple[Any, Any]]:
        """(frame, None) for each picture and (None, packet) for each piece of sound, as they lie in the file.

        Times count from the first picture; sound from before it has times below 0.
        Raises InputError where the file is damaged.
        """
        first, self._first = self._first, []
        for frame, sound in itertools.chain(first, self._rest):
            timed = sound if frame is None else frame
            if timed.pts is not None:
                timed.pts -= round(self._start / timed.time_base)
            if sound is not None and sound.dts is not None:
                sound.dts -= round(self._start / sound.time_base)
            yield frame, sound

    def camera_frame(self, frame: Any) -> CameraFrame:
        """`camera_frame`, with chroma where this video has it."""
        return camera_frame(frame, self._siting)

    def _read(self) -> Iterator[tuple[Any, Any]]:
        streams = [self.video, *([self.audio] if self.audio else [])]
        try:
            for packet in self.container.demux(streams):
                if packet.stream is self.video:
                    for frame in packet.decode():
                        yield frame, None
                elif packet.dts is not None:
                    yield None, packet
        except av.FFmpegError as cause:
            raise _unreadable(self._name, cause) from cause

    def close(self) -> None:
        self.container.close()


def camera_frame(frame: Any, siting: Siting = "left") -> CameraFrame:
    """A decoded `av.VideoFrame` as planes in place, turned as it is to be shown; valid as long as the frame is."""
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    matrix = _MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= _HD_LINES else "bt601")
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    if frame.width % 2 or frame.height % 2 or quarters:
        frame = frame.reformat(format="rgb24")  # turned chroma would lie where no format has it
    elif frame.format.name not in _READ:
        frame = frame.reformat(format=_REPACKED.get(frame.format.name, "rgb24"))
    form = _READ[frame.format.name]
    planes = tuple(np.rot90(plane, quarters) for plane in _planes(frame, form)) if quarters else _planes(frame, form)
    return CameraFrame(planes, form, matrix, full, siting)


def _siting(frame: Any) -> Siting:
    """Where a picture's chroma lies. PyAV does not hand this out; FFmpeg's filter `showinfo` says it in the log."""
    level = av.logging.get_level()
    said: list[tuple[int, str, str]] = []
    with contextlib.suppress(av.FFmpegError, ValueError):
        graph = av.filter.Graph()
        base = frame.time_base or _CLOCK
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
        info, sink = graph.add("showinfo"), graph.add("buffersink")
        source.link_to(info)
        info.link_to(sink)
        graph.configure()
        try:
            av.logging.set_level(av.logging.INFO)
            with av.logging.Capture() as said:
                graph.push(frame)
                graph.pull()
        finally:
            av.logging.set_level(level)
    found = re.search(r"\bcl:(\w+)", " ".join(text for _, _, text in said))
    return _SITINGS.get(found[1], "left") if found else "left"


def _loss(frame: Any) -> str | None:
    """What of a picture's values is not in an output of 8 bits."""
    bits = max((component.bits for component in frame.format.components), default=8)
    curve = _HDR.get(int(frame.color_trc))
    lost = [f"{bits} bits become 8"] if bits > 8 else []
    return ", ".join([*lost, f"HDR ({curve}) is carried on as it is and not tone-mapped"] if curve else lost) or None


def _planes(frame: Any, form: PixelFormat) -> tuple[Any, ...]:
    dtype = np.dtype(np.uint16 if form == "p010" else np.uint8)
    shapes = plane_shapes(form, frame.height, frame.width)
    planes = []
    for shape, plane in zip(shapes, frame.planes, strict=True):
        inner = (dtype.itemsize * shape[2], dtype.itemsize) if len(shape) == 3 else (dtype.itemsize,)
        planes.append(np.ndarray(shape, dtype, plane, strides=(plane.line_size, *inner)))
    return tuple(planes)


class VideoWriter:
    """A video file under way; `with` it, and it is renamed into place at the end or removed after an error.

    size : (width, height), even. rate : frames a second, a hint where the container takes each picture's own time.
    like : how YUV is meant; chroma is written to the left, where players look for it. audio : a stream whose packets
    will be copied. colours : primaries and transfer, FFmpeg's numbers; 2 is unknown.

    Raises StorageError.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        like: CameraFrame,
        audio: Any = None,
        colours: tuple[int, int] = (2, 2),
    ) -> None:
        self._path = path
        self._video: Any
        self._scratch = path.with_name(f".{path.stem}.part-{os.getpid()}{path.suffix}")
        try:
            self._container = av.open(str(self._scratch), "w")
            if self._container.format.no_file:
                raise ValueError("a format of single pictures")
            self._video = self._container.add_stream(_codec(), rate=rate)
            self._audio = self._container.add_stream_from_template(audio) if audio is not None else None
        except (OSError, ValueError, av.FFmpegError) as cause:
            self._scratch.unlink(missing_ok=True)
            raise _unwritable(path, cause) from cause
        self._video.width, self._video.height, self._video.pix_fmt = *size, "yuv420p"
        if self._video.codec_context.name == "libx264":
            self._video.options = {"crf": "16", "preset": "veryfast"}
        else:
            self._video.codec_context.bit_rate = size[0] * size[1] * 12
        self._like, self._size, self._colours = like, size, colours
        self._tag(self._video.codec_context)
        self._rate, self._last = rate, -1
        form = self._container.format
        self._clock = _CLOCK if form.flags & _VARIABLE_RATE else 1 / rate
        self._video.codec_context.time_base = self._video.time_base = self._clock
        self._early_sound = form.name in _EDIT_LISTS

    def canvas(self) -> tuple[Any, CameraFrame]:
        """An empty FFmpeg frame and its planes, to be filled and handed to `write`."""
        frame = av.VideoFrame(*self._size, "yuv420p")
        self._tag(frame)
        return frame, CameraFrame(_planes(frame, "i420"), "i420", self._like.matrix, self._like.full_range)

    def _tag(self, target: Any) -> None:
        target.colorspace = _SPACES[self._like.matrix]
        target.color_range = _FULL if self._like.full_range else _LIMITED
        target.color_primaries, target.color_trc = self._colours

    def write(self, frame: Any, seconds: Fraction) -> None:
        """Encode a frame that is shown from `seconds` on, 0 or more; it is put behind the one before in any case."""
        self._last = max(round(seconds / self._clock), self._last + 1)
        frame.pts, frame.time_base = self._last, self._clock
        with self._storage():
            self._container.mux(self._video.encode(frame))

    def copy_sound(self, packet: Any) -> None:
        """Pass on a packet of the audio stream; one from before the first picture only where that may be."""
        if packet.pts is not None and packet.pts < 0 and not self._early_sound:
            return
        packet.stream = self._audio
        with self._storage():
            self._container.mux(packet)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with self._storage():
                    self._container.mux(self._video.encode())
                    self._container.close()
                    os.replace(self._scratch, self._path)
        finally:
            with contextlib.suppress(OSError, ValueError, av.FFmpegError):
                self._container.close()
            self._scratch.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, av.FFmpegError) as cause:
            raise _unwritable(self._path, cause) from cause


def _codec() -> str:
    return "libx264" if "libx264" in av.codecs_available else "mpeg4"


def _unreadable(name: str, cause: object) -> InputError:
    remedy = "Check the name, and with ffprobe whether FFmpeg can read it; for a camera give --device-kind."
    return InputError(f"cannot read video {name!r}", seen=cause, needed="a file or device of FFmpeg", remedy=remedy)


def _unwritable(path: Path, cause: object) -> StorageError:
    remedy = "Choose another name with -o, ending in .mp4, .mkv or .mov, and make room."
    needed = "a place and a container that take this video and its sound"
    return StorageError(f"cannot write video {str(path)!r}", seen=cause, needed=needed, remedy=remedy)
