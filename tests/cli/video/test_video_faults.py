"""Videos as they should not be: one line that says what is wrong, or what can be made of them and a warning."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import failure_line, tree

av = pytest.importorskip("av")

from video_clips import (  # noqa: E402
    HEIGHT,
    RATE,
    WIDTH,
    cover,
    luma,
    picture_times,
    pictures,
    planar,
    ramps,
    write_film,
    write_frames,
)

from zoomrt.cli.video.clip import Source  # noqa: E402
from zoomrt.cli.video.frames import camera_frame  # noqa: E402
from zoomrt.errors import InputError  # noqa: E402
from zoomrt.runtime.frames.pixel_formats import CameraFrame  # noqa: E402
from zoomrt.runtime.zoom.session import ZoomSession  # noqa: E402


@pytest.fixture
def command(in_process: Any) -> Any:
    return in_process


def copied(path: Path, out: Path, change: Any) -> Path:
    """A copy of the first stream of a file; change(number, packet) may change a packet, or return None to drop it."""
    with av.open(str(path)) as old, av.open(str(out), "w") as new:
        stream = new.add_stream_from_template(old.streams[0], opaque=True)
        for number, packet in enumerate(old.demux(old.streams[0])):
            if packet.size and (packet := change(number, packet)) is not None:
                packet.stream = stream
                new.mux(packet)
    return out


@pytest.mark.parametrize("aspect", [Fraction(16, 15), Fraction(4, 3), Fraction(10, 11)])
def test_pixels_that_are_not_square_become_square(
    nearest_bundle: Path, tmp_path: Path, command: Any, aspect: Fraction
) -> None:
    """A view of the whole picture has its shape, in a video and in numbered pictures, and none of it is lost."""
    path = write_frames(tmp_path / "in.mp4", ramps(2), "mpeg4", aspect=aspect)
    done = command("zoom", nearest_bundle, path, "-o", "%d.png", "--zoom", 1)
    assert (done.returncode, done.stderr) == (0, "")
    done = command("zoom", nearest_bundle, path, "-o", "out.mp4", "--zoom", 1)
    assert (done.returncode, done.stderr) == (0, "")
    frame = pictures(tmp_path / "out.mp4")[0]
    assert frame.width / frame.height == pytest.approx(WIDTH * aspect / HEIGHT, rel=0.03)  # sides are even
    assert min(frame.width - WIDTH, frame.height - HEIGHT) == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)
    source = pictures(path)[0]
    size = (frame.width, frame.height)
    with ZoomSession(nearest_bundle, size, output_format="rgb") as session:
        expected = session.process(camera_frame(source, "left", float(aspect)), 1.0).pixels
    shown = av.open(str(tmp_path / "1.png"))
    with shown:
        picture = next(shown.decode(video=0)).to_ndarray(format="rgb24")
    np.testing.assert_array_equal(picture, expected)


def test_an_odd_size_loses_nothing_and_is_said(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    """Rows and columns of an odd picture, the last one bright, are all there, at their place."""
    codes = np.full((47, 63), 60, np.uint8)
    codes[-1], codes[:, -1] = 200, 200
    middle = np.full((24, 32), 128, np.uint8)
    path = write_frames(tmp_path / "in.mkv", [planar("yuv420p", [codes, middle, middle])])
    done = command("zoom", nearest_bundle, path, "-o", "out.mp4", "--zoom", 1)
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "4:4:4" in done.stderr
    assert "--size 64x48" in done.stderr
    (frame,) = pictures(tmp_path / "out.mp4")
    assert (frame.width, frame.height, frame.format.name) == (63, 47, "yuv444p")
    assert np.abs(luma(frame).astype(int) - codes).max() <= 12
    done = command("zoom", nearest_bundle, path, "-o", "even.mp4", "--zoom", 1, "--size", "64x48")
    assert (done.returncode, done.stderr) == (0, "")
    done = command("zoom", nearest_bundle, path, "-o", "both.mkv", "--zoom", 2, "--side-by-side")
    assert done.returncode == 0
    assert pictures(tmp_path / "both.mkv")[0].width == 128


def test_packets_that_cannot_be_decoded_are_left_out_and_said(
    nearest_bundle: Path, tmp_path: Path, command: Any
) -> None:
    whole = write_frames(tmp_path / "whole.mkv", ramps(8), "ffv1", options={"level": "3", "slicecrc": "1"})

    def damage(number: int, packet: Any) -> Any:
        if number not in (3, 4):
            return packet
        junk = av.Packet(b"\0" * 30)
        junk.pts, junk.dts, junk.time_base = packet.pts, packet.dts, packet.time_base
        return junk

    path = copied(whole, tmp_path / "in.mkv", damage)
    done = command("zoom", nearest_bundle, path, "-o", "out.mkv", "--zoom", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"warning: {path}: 2 packets cannot be decoded: their pictures are missing\n"
    assert picture_times(tmp_path / "out.mkv") == pytest.approx(
        [number / RATE for number in (0, 1, 2, 5, 6, 7)], abs=2e-3
    )
    none = copied(whole, tmp_path / "none.mkv", lambda _, packet: damage(3, packet))
    assert "no pictures in it" in failure_line(command("zoom", nearest_bundle, none, "-o", "x.mkv"), 3)


def test_files_without_pictures(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    sound = tmp_path / "sound.mp4"
    film = write_film(tmp_path / "film.mp4", subtitles="mov_text", covered=True)
    with av.open(str(film)) as old, av.open(str(sound), "w") as new:
        kept = {index: new.add_stream_from_template(old.streams[index], opaque=True) for index in (1, 5)}
        kept[5].disposition = old.streams[5].disposition
        for packet in old.demux():
            if packet.size and packet.stream_index in kept:
                packet.pts, packet.dts = packet.pts or 0, packet.dts or 0
                packet.stream = kept[packet.stream_index]
                new.mux(packet)
    assert "but a cover" in failure_line(command("zoom", nearest_bundle, sound, "-o", "x.mkv"), 3)
    bare = tmp_path / "bare.mkv"
    with av.open(str(film)) as old, av.open(str(bare), "w") as new:
        stream = new.add_stream_from_template(old.streams[1], opaque=True)
        for packet in old.demux(old.streams[1]):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    assert "no video in it" in failure_line(command("zoom", nearest_bundle, bare, "-o", "x.mkv"), 3)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    empty = tmp_path / "empty.mkv"
    empty.touch()
    for path in (cut, empty, tmp_path):
        assert "cannot read video" in failure_line(command("zoom", nearest_bundle, path, "-o", "x.mkv"), 3)
    assert not list(tmp_path.glob("x.*"))
    picture = tmp_path / "still.png"
    picture.write_bytes(cover())
    done = command("zoom", nearest_bundle, picture, "-o", "x.mkv", "--zoom", 2)  # a video of one picture
    assert (done.returncode, done.stderr) == (0, "")


def test_a_matroska_that_breaks_off_gives_what_is_there(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    path = write_frames(tmp_path / "in.mkv", ramps(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    done = command("zoom", nearest_bundle, path, "-o", "out.mkv", "--zoom", 2)
    assert done.returncode == 0, done.stderr
    assert 5 < len(pictures(tmp_path / "out.mkv")) < 20


def test_times_that_no_clock_holds(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    """A picture 300 years after the first one."""
    whole = write_frames(tmp_path / "whole.mkv", ramps(3))

    def late(number: int, packet: Any) -> Any:
        if number == 2:
            packet.pts = packet.dts = 10**13
        return packet

    path = copied(whole, tmp_path / "in.nut", late)
    assert "a time of 1e+10 s" in failure_line(command("zoom", nearest_bundle, path, "-o", "x.mkv", "--zoom", 2), 3)
    assert sorted(tree(tmp_path)) == ["in.nut", "whole.mkv"]


def test_sizes_beyond_a_view(tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_frames(tmp_path / "in.mkv", ramps(1))
    wide = CameraFrame((np.zeros((2, 20000, 3), np.uint8),))
    monkeypatch.setattr(Source, "camera_frame", lambda *_: wide)
    assert "--size" in failure_line(command("zoom", tmp_path / "no bundle", path, "-o", "x.mkv", "--zoom", 2), 2)


def test_names_that_look_like_protocols_are_files(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "in.mkv", ramps(1))
    odd = path.rename(tmp_path / "data:a%b.mkv")
    source = Source(str(odd), None)
    assert source.size == (WIDTH, HEIGHT)
    source.close()
    for name in ("n" * 300, "a\0b", "nothing:here"):
        with pytest.raises(InputError):
            Source(name, None)
