"""What trt-zoom carries on of a film: sound, subtitles, covers, chapters, tags ...; and what it says it cannot."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

av = pytest.importorskip("av")

from video_clips import RATE, Track, cover, picture_times, pictures, ramps, tracks, write_film, write_frames  # noqa: E402

from zoomrt.cli._common import run  # noqa: E402
from zoomrt.cli.video.clip import Source  # noqa: E402
from zoomrt.cli.video.writer import plan_recording, video_writer  # noqa: E402
from zoomrt.cli.zoom import cli  # noqa: E402

MATROSKA = {"subtitles": "subrip", "attachment": True}
MP4 = {"subtitles": "mov_text", "covered": True}


@pytest.fixture
def zoomed(nearest_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """zoomed(path, suffix, *words) -> the new file, and what was said."""

    def zoom(path: Path, suffix: str, *words: object) -> tuple[Path, str]:
        out = tmp_path / f"out{suffix}"
        code = run(cli, [str(word) for word in (nearest_bundle, path, "-o", out, "--zoom", 2, *words)])
        said = capfd.readouterr().err
        assert code == 0, said
        return out, said

    return zoom


def others(path: Path) -> list[Track]:
    """All streams but the pictures."""
    found = tracks(path)
    return [track for track in found if track.kind != "video" or track.disposition & 1024]


def content(track: Track) -> list[bytes]:
    return [data for _, data in track.packets]


def times(track: Track) -> list[float]:
    return [time for time, _ in track.packets]


def test_all_of_a_film_is_kept_in_matroska(tmp_path: Path, zoomed) -> None:
    path = write_film(tmp_path / "film.mkv", **MATROSKA)
    out, said = zoomed(path, ".mkv")
    assert said == ""
    before, after = tracks(path), tracks(out)
    assert [track.kind for track in after] == ["video", "audio", "audio", "subtitle", "attachment"]
    for old, new in zip(before, after, strict=True):
        assert new.disposition == old.disposition
        names = old.tags.keys() - {"DURATION", "ENCODER"}
        assert {name: new.tags[name] for name in names} == {name: old.tags[name] for name in names}
    for old, new in zip(before[1:4], after[1:4], strict=True):
        assert len(new.packets) == len(old.packets) > 1
        assert content(new) == content(old)
        assert times(new) == pytest.approx(times(old), abs=1e-3)
    with av.open(str(path)) as one, av.open(str(out)) as two:
        assert two.streams[4].data == one.streams[4].data == bytes(range(200))
        assert two.chapters() == one.chapters()
        assert {name: two.metadata[name] for name in ("title", "ARTIST")} == {"title": "A film", "ARTIST": "Somebody"}


def test_all_of_a_film_is_kept_in_mp4(tmp_path: Path, zoomed) -> None:
    path = write_film(tmp_path / "film.mp4", **MP4)
    out, said = zoomed(path, ".mp4")
    assert said == ""
    old, new = tracks(path), tracks(out)
    assert [track.kind for track in new] == [track.kind for track in old]
    assert [track.tags.get("language") for track in new] == [track.tags.get("language") for track in old]
    assert [track.tags.get("name") for track in new] == [track.tags.get("name") for track in old]
    assert new[2].disposition == old[2].disposition != 0
    for one, two in zip(others(path), others(out), strict=True):
        assert content(one) == content(two)
        assert times(one) == pytest.approx(times(two), abs=1e-3)
    assert content(others(out)[-1]) == [cover()]
    with av.open(str(out)) as container:
        assert [chapter["metadata"]["title"] for chapter in container.chapters()] == ["One", "Two"]
        assert [chapter["end"] * chapter["time_base"] for chapter in container.chapters()] == [Fraction(1, 2), 1]
        assert container.metadata["title"] == "A film"


def test_a_cover_becomes_an_attachment_and_a_picture_again(tmp_path: Path, zoomed) -> None:
    path = write_film(tmp_path / "film.mp4", **MP4)
    out, said = zoomed(path, ".mkv")
    assert said.splitlines() == [f"warning: {path}: left out, as matroska does not hold them: subtitles 1 (mov_text)"]
    assert content(others(out)[-1]) == [cover()]
    again, said = zoomed(out, ".mp4")
    assert said == ""
    assert content(others(again)[-1]) == [cover()]
    for one, two in zip(others(path)[:2], others(again)[:2], strict=True):
        assert content(one) == content(two)
    # AAC begins before 0 with what is not heard, for which Matroska moves all else back
    assert picture_times(again) == pytest.approx([1024 / 48000 + index / RATE for index in range(RATE)], abs=2e-3)


@pytest.mark.parametrize(
    ("suffix", "lost"),
    [
        (".webm", "sound 1 (aac), sound 2 (aac), subtitles 1 (srt), attachment 1 (font.ttf)"),
        (".mov", "subtitles 1 (srt), attachment 1 (font.ttf)"),
        (".avi", "subtitles 1 (srt), attachment 1 (font.ttf), chapters, tags but the most common"),
        (".ts", "subtitles 1 (srt), attachment 1 (font.ttf), chapters, tags but the most common"),
    ],
)
def test_what_a_container_does_not_hold_is_said_once_before_the_work(
    tmp_path: Path, zoomed, capfd: pytest.CaptureFixture[str], suffix: str, lost: str
) -> None:
    path = write_film(tmp_path / "film.mkv", **MATROSKA)
    _, said = zoomed(path, suffix)
    (line,) = said.splitlines()
    assert line.startswith(f"warning: {path}: left out")
    assert line.endswith(lost)
    assert run(cli, [str(tmp_path / "no bundle"), str(path), "-o", str(tmp_path / f"x{suffix}")]) == 9
    assert capfd.readouterr().err.splitlines()[0] == line  # the bundle would have been loaded next
    _, said = zoomed(path, suffix, "--quiet", "--overwrite")
    assert said == ""


def test_any_tag_is_kept_and_beside_a_cover_those_it_cannot_be_are_said(tmp_path: Path, zoomed) -> None:
    path = write_frames(tmp_path / "in.mkv", ramps(2))
    with av.open(str(path)) as old, av.open(str(tmp_path / "tagged.mkv"), "w") as new:
        video = new.add_stream_from_template(old.streams.video[0], opaque=True)
        new.metadata.update({"com.apple.quicktime.make": "A phone", "title": "Mine"})
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = video
                new.mux(packet)
    for suffix in (".mp4", ".mov", ".mkv"):
        out, said = zoomed(tmp_path / "tagged.mkv", suffix)
        assert said == ""
        with av.open(str(out)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            assert tags["com.apple.quicktime.make"] == "A phone"
            assert tags["title"] == "Mine"
    film = write_film(tmp_path / "film.mp4", **MP4)
    source = Source(str(film), None)
    source.container.metadata["maker"] = "A phone"
    recording = plan_recording(tmp_path / "x.mp4", (64, 48), source.rate, source.first, source)
    assert recording.losses == ("left out, as mp4 does not hold them: tag 'maker' beside a cover",)
    source.close()


def test_everything_ends_where_the_pictures_do(tmp_path: Path, zoomed) -> None:
    path = write_film(tmp_path / "film.mkv", **MATROSKA)
    out, _ = zoomed(path, ".mkv", "--seconds", "0.45")
    assert picture_times(out) == pytest.approx([index / RATE for index in range(5)], abs=2e-3)
    for old, new in zip(others(path)[:3], others(out)[:3], strict=True):
        assert content(new) == [data for time, data in old.packets if time < 0.45]
    with av.open(str(out)) as container:
        (chapter,) = container.chapters()
    assert (chapter["metadata"]["title"], chapter["end"] * chapter["time_base"]) == ("One", Fraction(45, 100))


def test_a_time_code_is_carried_on(tmp_path: Path, zoomed) -> None:
    path = tmp_path / "in.mov"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=RATE)
        video.width, video.height = 64, 48
        video.metadata["timecode"] = "01:02:03:04"
        for frame in ramps(2):
            container.mux(video.encode(frame))
        container.mux(video.encode())
    assert [track.kind for track in tracks(path)] == ["video", "data"]
    expected = tracks(path)[0].tags["timecode"]
    assert expected.startswith("01:02:03")
    for suffix in (".mov", ".mkv"):
        out, said = zoomed(path, suffix)
        assert said == ""
        tags = {name.lower(): value for track in tracks(out) for name, value in track.tags.items()}
        assert tags["timecode"] == expected


def test_times_that_go_back_do_not_end_the_work(tmp_path: Path) -> None:
    """As in damaged recordings: each piece of sound is there, in the file's order."""
    film = write_film(tmp_path / "film.mkv", **MATROSKA)
    source = Source(str(film), None)
    out = tmp_path / "out.mp4"
    recording = plan_recording(out, source.size, source.rate, source.first, source)
    expected = []
    with video_writer(out, recording) as writer:
        for number, (frame, packet) in enumerate(source.packets()):
            if frame is not None:
                writer.write(frame.reformat(format="yuv420p"), frame.pts * frame.time_base)
            elif packet.stream.type == "audio" and packet.stream.index == 1:
                expected.append(bytes(packet))
                if number % 3 == 0:
                    packet.dts = packet.pts = packet.pts - 40
                writer.copy(packet)
    source.close()
    found = others(out)[0]
    assert content(found) == expected
    assert times(found) == sorted(times(found))
    assert len(pictures(out)) == RATE


def test_a_second_video_is_copied_and_the_pictures_are_not_a_cover(tmp_path: Path, zoomed) -> None:
    first, second = write_frames(tmp_path / "a.mkv", ramps(3)), write_frames(tmp_path / "b.mkv", ramps(2))
    both = tmp_path / "both.mkv"
    with av.open(str(first)) as one, av.open(str(second)) as two, av.open(str(both), "w") as container:
        streams = [container.add_stream_from_template(given.streams.video[0], opaque=True) for given in (one, two)]
        for given, stream in zip((one, two), streams, strict=True):
            for packet in given.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    container.mux(packet)
    out, said = zoomed(both, ".mkv")
    assert said == ""
    old, new = tracks(both), tracks(out)
    assert len(new) == 2
    assert content(new[1]) == content(old[1])
    out, said = zoomed(both, ".webm")
    assert "video 1 (ffv1)" in said
    assert len(tracks(out)) == 1
