"""Video out with PyAV: which encoder and form, decided and tried out before the work, and the file that is written.

8 bits are H.264, 10 bits and HDR are HEVC (Main 10) or AV1; chroma is of half size (4:2:0), which every player takes,
but where a side is odd. All else of the source goes along as packets, see `copies`.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av

from zoomrt.cli.video.clip import Source, reason
from zoomrt.cli.video.copies import Copies, copies_of
from zoomrt.cli.video.frames import LAYOUT_NAMES, Colours, planes_of
from zoomrt.errors import StorageError
from zoomrt.files import atomic_file, shown
from zoomrt.runtime.frames.pixel_formats import LAYOUTS, CameraFrame

_SPACES: dict[str, int] = {"bt709": 1, "bt601": 6, "bt2020": 9}
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG
_CLOCK = Fraction(1, 60000)
"""Seconds to which pictures are placed in time: MPEG-4 counts in at most 65535 parts of a second."""
_HAS_TIMES = 0x0400 | 0x40000  # AVFMT_VARIABLE_FPS or AVFMT_TS_NEGATIVE of libavformat/avformat.h: all but AVI's kind
_EQUAL_TIMES = 0x20000  # AVFMT_TS_NONSTRICT: two packets may have the same time
_APPLE = {"mp4", "mov", "ipod"}
"""Containers in which Apple's players take HEVC by the name hvc1 only."""


class Encoder(NamedTuple):
    """even, odd : FFmpeg's pixel format for sizes of even sides, and of an odd one."""

    name: str
    even: str
    odd: str
    options: dict[str, str]


ENCODERS = {
    8: (
        Encoder("libx264", "yuv420p", "yuv444p", {"crf": "16", "preset": "veryfast"}),
        Encoder("mpeg4", "yuv420p", "yuv420p", {}),
        Encoder("libvpx-vp9", "yuv420p", "yuv420p", {"crf": "20", "deadline": "realtime", "cpu-used": "5"}),
    ),
    10: (
        Encoder("libx265", "yuv420p10le", "yuv444p10le", {"crf": "16", "preset": "veryfast"}),
        Encoder("libsvtav1", "yuv420p10le", "yuv420p10le", {"crf": "20", "preset": "8"}),
    ),
}
"""By bits; the first one that FFmpeg was built with, the container takes and the size suits."""


@dataclass(frozen=True)
class Recording:
    """A video file that was tried out and is yet to be written. losses : what of the source is not in it, in words."""

    container: str
    encoder: Encoder
    size: tuple[int, int]
    rate: Fraction
    like: CameraFrame
    colours: Colours
    copies: Copies
    lead: Fraction = Fraction(0)
    losses: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """FFmpeg's name of the pixel format."""
        return self.encoder.odd if any(side % 2 for side in self.size) else self.encoder.even

    def begin(self, stream: BinaryIO) -> tuple[Any, Any, dict[int, Any]]:
        """Write the header; returns the container, the stream of pictures and the others by the source's index.

        Raises ValueError and FFmpegError.
        """
        container = av.open(stream, "w", format=self.container, container_options=dict(self.copies.options))
        options = options_of(self.encoder, self.colours)
        video: Any = container.add_stream(self.encoder.name, rate=self.rate, options=options)
        video.width, video.height = self.size
        video.pix_fmt = self.format
        context = video.codec_context
        self.tag(context)
        if self.encoder.name == "mpeg4":
            context.bit_rate = self.size[0] * self.size[1] * 12
        hevc = self.encoder.name == "libx265"
        if hevc and self.container in _APPLE:
            context.codec_tag = "hvc1"
        if hevc or not container.format.flags & _HAS_TIMES:
            # without times pictures lie in their order; and x265 makes up times where pictures are fewer than B frames
            context.max_b_frames = 0
        context.time_base = video.time_base = self.clock(container)
        others = self.copies.add_to(container, video)
        container.start_encoding()
        return container, video, others

    def clock(self, container: Any) -> Fraction:
        """The unit of the pictures' times."""
        return _CLOCK if container.format.flags & _HAS_TIMES else 1 / self.rate

    def tag(self, target: Any) -> None:
        """Say on an encoder or a picture how its colours are meant."""
        target.colorspace = _SPACES[self.like.matrix]
        target.color_range = _FULL if self.like.full_range else _LIMITED
        target.color_primaries, target.color_trc = self.colours.primaries, self.colours.transfer


def options_of(encoder: Encoder, colours: Colours) -> dict[str, str]:
    """All options, with silence and the luminance that HDR was mastered with as the encoder's library wants them."""
    if encoder.name == "libx265":  # the units of HEVC: 0.00002 and 0.0001 cd/m2
        place, level = (lambda x: f"{x * 50000:.0f}"), (lambda y: f"{y * 10000:.0f}")
        words = _luminance(colours, "master-display", "max-cll", place, level)
        return {**encoder.options, "x265-params": ":".join(["log-level=none", *words])}
    if encoder.name == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "0")  # the only way to its silence
        words = _luminance(colours, "mastering-display", "content-light", lambda x: f"{x:.5f}", lambda y: f"{y:.4f}")
        return {**encoder.options, **({"svtav1-params": ":".join(words)} if words else {})}
    return encoder.options


def _luminance(
    colours: Colours, display: str, light: str, place: Callable[[float], str], level: Callable[[float], str]
) -> list[str]:
    """SMPTE ST 2086 and CTA-861.3 in the notation that both libraries share."""
    words = []
    if colours.mastering:
        *places, least, most = map(float, colours.mastering)
        red, green, blue, white = (f"({place(x)},{place(y)})" for x, y in zip(places[::2], places[1::2], strict=True))
        words.append(f"{display}=G{green}B{blue}R{red}WP{white}L({level(most)},{level(least)})")
    if colours.light:
        words.append(f"{light}={colours.light[0]},{colours.light[1]}")
    return words


def plan_recording(
    path: Path,
    size: tuple[int, int],
    rate: Fraction,
    like: CameraFrame,
    source: Source | None = None,
    until: float | None = None,
) -> Recording:
    """Decide how a video is written, and try it in memory.

    size : (width, height). rate : pictures a second, a hint where the container takes each picture's own time.
    like : how YUV is meant; chroma is written to the left, where players look for it. source : whose other streams,
    colours and bits are kept. until : seconds at which its pictures end.

    Raises StorageError where the container or this FFmpeg cannot.
    """
    try:
        with av.open(f"name{path.suffix}", "w") as guess:
            container = guess.format.name
            if guess.format.no_file:
                raise ValueError("a format of single pictures")
    except (OSError, ValueError, av.FFmpegError) as cause:
        raise _unwritable(path, reason(cause)) from cause
    bits, colours, copies, lead = 8, Colours(), Copies(), Fraction(0)
    if source:
        bits, colours, lead = source.bits, source.colours, source.lead
        copies = copies_of(source, container, until)
    encoders, problems = ENCODERS[10 if bits > 8 or colours.curve else 8], []
    for encoder in encoders:
        if encoder.name not in av.codecs_available:
            continue
        recording = Recording(container, encoder, size, rate, like, colours=colours, copies=copies, lead=lead)
        try:
            recording.begin(io.BytesIO())[0].close()
        except av.FFmpegError as cause:
            problems.append(f"{encoder.name} at {size[0]}x{size[1]}: {reason(cause)}")
        except (OSError, ValueError):  # PyAV's for a codec that the container does not take
            continue
        else:
            return replace(recording, losses=(*_losses(recording, source), *copies.losses))
    names = ", ".join(encoder.name for encoder in encoders)
    seen = "; ".join(problems) or f"container {container}, and of the encoders that it takes none of {names}"
    raise _unwritable(path, seen)


def _losses(recording: Recording, source: Source | None) -> Iterator[str]:
    layout, even = LAYOUTS[LAYOUT_NAMES[recording.format]], [side + side % 2 for side in recording.size]
    if recording.format != recording.encoder.even:
        yield f"an odd side is written in 4:4:4, which some players do not take (--size {even[0]}x{even[1]} avoids it)"
    if source and source.bits > layout.bits:
        yield f"{source.bits} bits become {layout.bits}"
    if source and any(fine < coarse for fine, coarse in zip(source.chroma_step or (2, 2), layout.step, strict=True)):
        yield "its finer chroma becomes 4:2:0"


class VideoWriter:
    """A video file under way, of `video_writer`. All of it raises StorageError."""

    def __init__(self, path: Path, recording: Recording, container: Any, video: Any, others: dict[int, Any]) -> None:
        self._path, self._recording = path, recording
        self._container, self._video, self._others = container, video, others
        self._clock = recording.clock(container)
        self._step = 0 if container.format.flags & _EQUAL_TIMES else 1
        self._last_picture = -1
        self._last: dict[int, int] = {}

    def canvas(self) -> tuple[Any, CameraFrame]:
        """An empty FFmpeg frame and its planes, to be filled and handed to `write`."""
        recording, like = self._recording, self._recording.like
        frame = av.VideoFrame(*recording.size, recording.format)
        recording.tag(frame)
        form = LAYOUT_NAMES[recording.format]
        return frame, CameraFrame(planes_of(frame, form), form, like.matrix, like.full_range)

    def write(self, frame: Any, seconds: Fraction) -> None:
        """Encode a frame that is shown from `seconds` on, 0 or more; it is put behind the one before in any case."""
        time = round((seconds + self._recording.lead) / self._clock)
        self._last_picture = max(time, self._last_picture + 1)
        frame.pts, frame.time_base = self._last_picture, self._clock
        with _storage(self._path):
            self._container.mux(self._video.encode(frame))

    def copy(self, packet: Any) -> None:
        """Pass on a packet of another stream of the source; its times count from the first picture.

        As FFmpeg's muxers want it, times of decoding do not go back: damaged ones are put behind the one before.
        """
        index, given = packet.stream.index, packet.pts if packet.dts is None else packet.dts
        stream = self._others.get(index)
        if given is None and index not in self._last:
            given = 0  # covers have no time
        if stream is None or given is None:
            return
        unit, lead = packet.time_base / stream.time_base, self._recording.lead / stream.time_base
        dts = max(round(given * unit + lead), self._last.get(index, -(2**62)) + self._step)
        pts = dts if packet.pts is None else max(round(packet.pts * unit + lead), dts)
        duration = round((packet.duration or 0) * unit)
        self._last[index] = dts
        packet.stream, packet.time_base = stream, stream.time_base
        packet.pts, packet.dts, packet.duration = pts, dts, duration
        with _storage(self._path):
            self._container.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the end of the file."""
        with _storage(self._path):
            self._container.mux(self._video.encode())
            self._container.close()


@contextlib.contextmanager
def video_writer(path: Path, recording: Recording) -> Iterator[VideoWriter]:
    """A video that is there, whole, when the block ends, or on any exception not at all. Raises StorageError."""
    with atomic_file(path) as stream:
        with _storage(path):
            container, video, others = recording.begin(stream)
        try:
            writer = VideoWriter(path, recording, container, video, others)
            yield writer
            writer.finish()
        finally:
            with contextlib.suppress(OSError, ValueError, av.FFmpegError):
                container.close()


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, av.FFmpegError) as cause:
        raise _unwritable(path, reason(cause)) from cause


def _unwritable(path: Path, seen: str) -> StorageError:
    remedy = "Choose another name with -o, ending in .mp4, .mkv, .mov or .webm, another --size, or make room."
    needed = "a place, a container and an encoder that take this video"
    return StorageError(f"cannot write video {shown(path)}", seen=seen, needed=needed, remedy=remedy)
