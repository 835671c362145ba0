"""What of a video is carried on untouched: sound, subtitles, attachments, covers, other tracks, chapters and tags.

Whether a container holds a stream is found out by writing its header with that stream into memory, before any work.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple

import av
from av.stream import Disposition

from zoomrt.cli.video.clip import Source

_QUICKTIME = {"mp4", "mov", "ipod", "3gp", "3g2"}
_HOLD_ALL = {"matroska", "webm", *_QUICKTIME}
"""Containers of chapters and of tags with any name."""
_ITUNES = {"mp4", "ipod"}
"""Containers of covers, together with the tags that follow only."""
_ITUNES_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright", "grouping",
    "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords", "season_number", "episode_sort",
    "media_type", "hd_video", "gapless_playback", "compilation", "track", "disc", "location", "creation_time",
}  # fmt: skip
_ANY_TAGS = {"movflags": "use_metadata_tags"}
"""FFmpeg's other way of tags in these containers: any name, no cover."""
_TS_SUBTITLES = {"dvbsub", "dvb_subtitle", "libzvbi_teletextdec", "dvb_teletext"}
"""Those of broadcasts: FFmpeg writes others to MPEG-TS too, as data that nothing reads."""
_KINDS = {"audio": "sound", "subtitle": "subtitles", "attachment": "attachment", "data": "data", "video": "video"}
_COVERS = {"png": ("cover.png", "image/png"), "mjpeg": ("cover.jpg", "image/jpeg")}
"""Codec of a cover -> its name and type as an attachment."""
_STALE = {"encoder", "vendor_id", "major_brand", "minor_version", "compatible_brands", "duration", "bps", "rotate"}
_STALE_STARTS = ("number_of_", "_statistics_", "alpha_mode", "stereo_mode")
"""Tags that tell of the old file or encoder, not of what is shown."""


class _Copy(NamedTuple):
    """add : puts the stream into an output container; returns it, or None for what is complete by that."""

    stream: Any
    add: Callable[[Any], Any]


class Copies(NamedTuple):
    """What goes along with the pictures. options : of the container. losses : what it does not hold, in words."""

    streams: tuple[_Copy, ...] = ()
    chapters: tuple[Any, ...] = ()
    tags: Mapping[str, str] = MappingProxyType({})
    video_tags: Mapping[str, str] = MappingProxyType({})
    disposition: int = 0
    options: Mapping[str, str] = MappingProxyType({})
    losses: tuple[str, ...] = ()

    def add_to(self, container: Any, video: Any) -> dict[int, Any]:
        """Put all of it into an output container whose pictures are `video`; output streams by the input's index."""
        video.metadata.update(self.video_tags)
        video.disposition = self.disposition
        container.metadata.update(self.tags)
        if self.chapters:
            container.set_chapters(list(self.chapters))
        added = {copy.stream.index: copy.add(container) for copy in self.streams}
        return {index: stream for index, stream in added.items() if stream is not None}


def copies_of(source: Source, container: str, until: float | None) -> Copies:
    """What a container, by FFmpeg's name, takes of a source. until : seconds at which the pictures end."""
    kept: list[_Copy] = []
    lost: list[str] = []
    counts: Counter[str] = Counter()
    video = source.video
    timecode = container in _HOLD_ALL and any("timecode" in of.metadata for of in (video, source.container))
    for stream in source.others:
        kind = "cover" if _is_cover(stream) else _KINDS.get(stream.type, "track of unknown kind")
        counts[kind] += 1
        if timecode and "timecode" in stream.metadata:
            continue  # FFmpeg makes a new track of the tag
        add = _way(stream, source, container)
        if add is not None and _holds(container, _Copy(stream, add)):
            kept.append(_Copy(stream, add))
        else:
            lost.append(f"{kind} {counts[kind]} ({_name(stream)})")
    chapters, tags = _chapters(source, until), _lasting(source.container.metadata)
    options: dict[str, str] = {}
    if container not in _HOLD_ALL:
        lost += ["chapters"] * bool(chapters) + ["tags but the most common"] * bool(tags)
        chapters = ()
    elif container in _QUICKTIME and (rare := [name for name in tags if _plain(name) not in _ITUNES_TAGS]):
        if any(_is_cover(copy.stream) for copy in kept):
            lost += [f"tag {name!r} beside a cover" for name in rare]
        else:
            options = _ANY_TAGS
    losses = (f"left out, as {container} does not hold them: {', '.join(lost)}",) if lost else ()
    return Copies(
        streams=tuple(kept),
        chapters=chapters,
        tags=tags,
        video_tags=_lasting(video.metadata),
        disposition=int(video.disposition),
        options=options,
        losses=losses,
    )


def _is_cover(stream: Any) -> bool:
    return stream.type == "video" and Disposition.attached_pic in stream.disposition


def _way(stream: Any, source: Source, container: str) -> Callable[[Any], Any] | None:
    """How a stream is put into a container of this kind; None if it certainly cannot be."""

    def as_stream(into: Any) -> Any:
        added = into.add_stream_from_template(stream, opaque=True)
        added.metadata.update(_lasting(stream.metadata))
        added.disposition = stream.disposition
        return added

    def as_attachment(into: Any) -> None:
        given, (name, mime) = stream.metadata, _COVERS[_name(stream)]
        into.add_attachment(given.get("filename", name), given.get("mimetype", mime), _cover(source, stream.index))

    if _is_cover(stream) and container not in _ITUNES:
        return as_attachment if container == "matroska" and _name(stream) in _COVERS else None
    if stream.type == "attachment" and container != "matroska":
        return None
    if stream.type == "subtitle" and container == "mpegts" and _name(stream) not in _TS_SUBTITLES:
        return None
    return as_stream


def _cover(source: Source, index: int) -> bytes:
    """The picture of a cover, read apart, as attachments must be there before anything else."""
    with av.open(source.container.name) as again:
        return bytes(next(packet for packet in again.demux(again.streams[index]) if packet.size))


def _holds(container: str, copy: _Copy) -> bool:
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            copy.add(trial)
            trial.start_encoding()
    except (OSError, ValueError, StopIteration, av.FFmpegError):
        return False
    return True


def _name(stream: Any) -> str:
    given = stream.name if stream.type in ("data", "attachment") else None
    return given or (stream.codec_context.name if stream.codec_context is not None else "of an unknown codec")


def _chapters(source: Source, until: float | None) -> tuple[Any, ...]:
    """The chapters that begin before the end, with their times counted as the new file's."""
    begin = Fraction(source.container.start_time or 0, av.time_base)
    end = None if until is None else source.lead + Fraction(until)
    found = []
    for chapter in source.container.chapters():
        base = chapter["time_base"]
        if base and (end is None or chapter["start"] * base - begin < end):
            times = (chapter[side] * base - begin for side in ("start", "end"))
            start, stop = (round(max(time if end is None else min(time, end), Fraction(0)) / base) for time in times)
            found.append({**chapter, "start": start, "end": stop})
    return tuple(found)


def _lasting(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that are true of the new file too. What QuickTime has as a track's name is a title elsewhere."""
    kept = {
        name: value
        for name, value in tags.items()
        if _plain(name) not in _STALE and not _plain(name).startswith(_STALE_STARTS)
    }
    if "name" in kept:
        kept.setdefault("title", kept.pop("name"))
    return kept


def _plain(name: str) -> str:
    """A tag's name without the language that some containers add: `BPS-eng`."""
    return name.lower().partition("-")[0]
