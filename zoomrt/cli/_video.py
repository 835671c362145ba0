"""Video in and out with PyAV, which is FFmpeg: files, numbered pictures, cameras. Sound is copied, not encoded again.

A decoded frame becomes a `CameraFrame` over FFmpeg's own planes where the format is one that the runtime reads; others
are converted by FFmpeg first. A result is written beside its place and renamed, so that it is whole or not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from zoomrt.errors import InputError, StorageError
from zoomrt.runtime.pixel_formats import CameraFrame, Matrix, PixelFormat, plane_shapes

__all__ = ["Source", "VideoWriter", "camera_frame", "is_pattern"]

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
_MATRICES: dict[int, Matrix] = {1: "bt709", 5: "bt601", 6: "bt601", 9: "bt2020"}
"""AVCOL_SPC_* of libavutil/pixfmt.h (values of ITU-T H.273, table 4)."""
_SPACES: dict[str, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
_HD_LINES = 720
"""Lines from which an untagged video is taken for BT.709 and not BT.601, as players do."""
DEFAULT_RATE = Fraction(30)


def is_pattern(path: str | Path) -> bool:
    """Whether a name stands for numbered pictures, such as `frames/%04d.png`."""
    return "%" in Path(path).name


class Source:
    """An opened video, picture sequence or camera.

    name : a file, a pattern with %d, or what the device is called. device : FFmpeg's name of the device's kind
    (v4l2, avfoundation, dshow, lavfi), None for files. like : the first picture; it says how colours are meant.

    Raises InputError for what cannot be opened or has no picture.
    """

    def __init__(self, name: str, device: str | None, rate: Fraction | None = None) -> None:
        options = {"framerate": str(rate)} if rate and (device or is_pattern(name)) else {}
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
        self.like = camera_frame(self._first[-1][0])

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

        Raises InputError where the file is damaged.
        """
        yield from self._first
        self._first.clear()
        yield from self._rest

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


def camera_frame(frame: Any) -> CameraFrame:
    """A decoded `av.VideoFrame` as planes in place, turned as it is to be shown; valid as long as the frame is."""
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    if frame.format.name not in _READ or frame.width % 2 or frame.height % 2 or quarters:
        frame = frame.reformat(format="rgb24")  # also turned chroma would lie where no format has it
    form = _READ[frame.format.name]
    matrix = _MATRICES.get(int(frame.colorspace), "bt709" if frame.height >= _HD_LINES else "bt601")
    full = int(frame.color_range) == _FULL or frame.format.name.startswith("yuvj")
    planes = tuple(np.rot90(plane, quarters) for plane in _planes(frame, form)) if quarters else _planes(frame, form)
    return CameraFrame(planes, form, matrix, full)


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

    size : (width, height), even. like : how colours are meant. audio : a stream whose packets will be copied.

    Raises StorageError.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction, like: CameraFrame, audio: Any = None) -> None:
        self._path = path
        self._video: Any
        self._scratch = path.with_name(f".{path.stem}.part-{os.getpid()}{path.suffix}")
        try:
            self._container = av.open(str(self._scratch), "w")
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
        self._like, self._size = like, size
        self._video.codec_context.colorspace = _SPACES[like.matrix]
        self._video.codec_context.color_range = _FULL if like.full_range else _LIMITED
        self._count, self._rate = 0, rate

    def canvas(self) -> tuple[Any, CameraFrame]:
        """An empty FFmpeg frame and its planes, to be filled and handed to `write`."""
        frame = av.VideoFrame(*self._size, "yuv420p")
        frame.colorspace = _SPACES[self._like.matrix]
        frame.color_range = _FULL if self._like.full_range else _LIMITED
        planes = _planes(frame, "i420")
        return frame, CameraFrame(planes, "i420", self._like.matrix, self._like.full_range, self._like.siting)

    def write(self, frame: Any, time: tuple[int, Fraction] | None) -> None:
        """Encode a frame. time : (pts, time base) of the picture it was made from; None counts at the frame rate."""
        pts, base = time if time is not None else (self._count, 1 / self._rate)
        frame.pts, frame.time_base = pts, base
        self._count += 1
        with self._storage():
            self._container.mux(self._video.encode(frame))

    def copy_sound(self, packet: Any) -> None:
        """Pass on a packet of the audio stream."""
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
