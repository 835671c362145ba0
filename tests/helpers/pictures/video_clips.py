"""Small videos for the tests of trt-zoom, written with PyAV, and what is in a video."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image
from seeds import rng_for

WIDTH, HEIGHT, RATE = 64, 48, 10


def ramps(count: int = 3, size: tuple[int, int] = (WIDTH, HEIGHT), format: str = "yuv420p") -> list[Any]:
    """Pictures of moving ramps."""
    y, x = np.mgrid[: size[1], : size[0]]
    pictures = [
        np.stack([(3 * x + 5 * number) % 256, 4 * y % 256, 2 * (x + y) % 256], axis=2).astype(np.uint8)
        for number in range(count)
    ]
    return [av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=format) for picture in pictures]


def planar(format: str, planes: Sequence[NDArray[Any]], *, full_range: bool = False) -> Any:
    """A picture of these codes."""
    height, width = planes[0].shape[:2]
    frame = av.VideoFrame(width, height, format)
    for plane, codes in zip(frame.planes, planes, strict=True):
        memory = np.frombuffer(plane, codes.dtype).reshape(plane.height, -1)
        memory[:, : codes.shape[1]] = codes
    frame.color_range = 2 if full_range else 1
    return frame


def write_frames(
    path: Path,
    frames: Iterable[Any],
    codec: str = "ffv1",
    *,
    options: dict[str, str] | None = None,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    tags: dict[str, int] | None = None,
) -> Path:
    """A video of these pictures, RATE a second. tags : attributes of colour, of the encoder and of each picture."""
    frames = list(frames)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=RATE, options=options or {})
        video.width, video.height, video.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        video.codec_context.color_range = frames[0].color_range
        if codec == "mpeg4":
            video.codec_context.bit_rate = 4_000_000
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            video.set_display_matrix(matrix)
        for number, frame in enumerate(frames):
            for name, value in (tags or {}).items():
                setattr(frame, name, value)
                setattr(video.codec_context, name, value)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def cover() -> bytes:
    """A red square, as PNG."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(content, "png")
    return content.getvalue()


def write_film(path: Path, *, subtitles: str, attachment: bool = False, covered: bool = False) -> Path:
    """One second with two sound tracks, subtitles, chapters, tags, and what else is asked for."""
    rng = rng_for(path.name)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("mpeg4", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.metadata.update(language="fra", title="The view")
        sounds: list[Any] = []
        for language, title in (("eng", "Spoken"), ("deu", "Described")):
            sounds.append(container.add_stream("aac", rate=48000, layout="mono"))
            sounds[-1].metadata.update(language=language, title=title)
        sounds[1].disposition = Disposition.visual_impaired
        texts: Any = container.add_mux_stream(subtitles)
        texts.metadata["language"] = "spa"
        if attachment:
            container.add_attachment("font.ttf", "application/x-truetype-font", bytes(range(200)))
        if covered:
            picture: Any = container.add_mux_stream("png", width=8, height=8)
            picture.disposition = Disposition.attached_pic
        base = Fraction(1, 1000)
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 500, "time_base": base, "metadata": {"title": "One"}},
                {"id": 2, "start": 500, "end": 1000, "time_base": base, "metadata": {"title": "Two"}},
            ]
        )
        container.metadata.update(title="A film", artist="Somebody")
        if covered:
            _mux(container, picture, cover(), 0, 0)
        for frame in ramps(RATE):
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for sound in sounds:
            for start in range(0, 48000, 1024):
                samples = rng.normal(0, 0.1, (1, 1024)).astype(np.float32)
                piece = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                piece.rate, piece.pts, piece.time_base = 48000, start, Fraction(1, 48000)
                container.mux(sound.encode(piece))
            container.mux(sound.encode())
        for start in (100, 600):
            text = f"at {start}".encode()
            _mux(container, texts, len(text).to_bytes(2, "big") + text if subtitles == "mov_text" else text, start, 200)
    return path


def _mux(container: Any, stream: Any, content: bytes, start_ms: int, duration_ms: int) -> None:
    packet: Any = av.Packet(content)
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = start_ms
    packet.duration, packet.is_keyframe = duration_ms, True
    container.mux(packet)


class Track(NamedTuple):
    """One stream of a file. packets : (seconds, content)."""

    kind: str
    tags: dict[str, str]
    disposition: int
    packets: list[tuple[float, bytes]]


def tracks(path: Path) -> list[Track]:
    """All streams but those that hold chapters."""
    with av.open(str(path)) as container:
        found = {
            stream.index: Track(stream.type, stream.metadata, int(stream.disposition), [])
            for stream in container.streams
            if stream.discard != av.stream.Discard.all
        }
        for packet in container.demux():
            if packet.size and packet.stream_index in found:
                time = packet.pts if packet.dts is None else packet.dts
                found[packet.stream_index].packets.append((float((time or 0) * packet.time_base), bytes(packet)))
    return list(found.values())


def pictures(path: Path) -> list[Any]:
    """The decoded pictures of a video."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def picture_times(path: Path) -> list[float]:
    return [frame.time for frame in pictures(path)]


def luma(frame: Any) -> NDArray[Any]:
    """The codes of the first plane of a planar picture."""
    dtype = np.uint16 if frame.format.components[0].bits > 8 else np.uint8
    return np.frombuffer(frame.planes[0], dtype).reshape(frame.height, -1)[:, : frame.width]
