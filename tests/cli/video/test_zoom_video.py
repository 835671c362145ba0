"""trt-zoom's names and videos of the world: numbered pictures, time that begins anywhere, varying rates, colours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import failure_line, tree, write_noise
from seeds import rng_for

av = pytest.importorskip("av")
pytest.importorskip("av.filter")

from video_clips import picture_times  # noqa: E402

from zoomrt.cli.options.numbered import check_output, numbered  # noqa: E402
from zoomrt.cli.video import writer as _video_writer  # noqa: E402
from zoomrt.cli.video.clip import Source  # noqa: E402
from zoomrt.cli.video.writer import (  # noqa: E402
    ENCODERS,
    plan_recording,
    video_writer,
)
from zoomrt.errors import StorageError, UsageError  # noqa: E402
from zoomrt.runtime.frames.yuv import read_window  # noqa: E402

WIDTH, HEIGHT = 64, 48


@pytest.fixture
def command(in_process: Any) -> Any:
    return in_process


def write_video(
    path: Path,
    times: Sequence[Fraction],
    codec: str = "ffv1",
    format: str = "yuv420p",
    *,
    base: Fraction = Fraction(1, 1000),
    sound_from: Fraction | None = None,
    options: dict[str, str] | None = None,
    tags: tuple[int, int, int] = (2, 2, 2),
) -> Path:
    """Pictures of fresh noise at these seconds; with a tone of PCM for as long, cut in tenths of a second.

    tags : colour space, primaries, transfer.
    """
    rng = rng_for(path.name)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=30, options=options or {})
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, format
        context = pictures.codec_context
        context.time_base = pictures.time_base = base
        context.colorspace, context.color_primaries, context.color_trc = tags
        sound = container.add_stream("mp2" if path.suffix == ".ts" else "pcm_s16le", rate=48000, layout="mono")
        for time in times:
            pixels = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=format)
            frame.colorspace, frame.color_primaries, frame.color_trc = tags
            frame.pts, frame.time_base = round(time / base), base
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound_from is not None:
            for start in range(0, round((times[-1] - sound_from) * 48000), 1152):
                codes = rng.integers(-9000, 9000, (1, 1152)).astype(np.int16)
                samples = av.AudioFrame.from_ndarray(codes, format="s16", layout="mono")
                samples.rate, samples.time_base = 48000, Fraction(1, 48000)
                samples.pts = round(sound_from * 48000) + start
                container.mux(sound.encode(samples))
            container.mux(sound.encode())
    return path


def evenly(count: int, start: Fraction = Fraction(0)) -> list[Fraction]:
    return [start + Fraction(index, 30) for index in range(count)]


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]


def test_numbered_pictures_never_replace_their_input_nor_others_unasked(
    nearest_bundle: Path, tmp_path: Path, command: Any
) -> None:
    for number in (1, 2):
        write_noise(tmp_path / "pics" / f"{number:04d}.png", (24, 32))
    before = tree(tmp_path)
    words = ["zoom", nearest_bundle, "pics/%04d.png", "--zoom", "2", "-o"]
    for same in ("pics/%04d.png", f"../{tmp_path.name}/pics/%04d.png", "pics/./%04d.png"):
        assert "over the input" in failure_line(command(*words, same, "--overwrite"), 2)
    assert tree(tmp_path) == before
    assert command(*words, "views/%04d.png").returncode == 0
    made = tree(tmp_path)
    assert {"views/0001.png", "views/0002.png"} < set(made)
    assert "--overwrite" in failure_line(command(*words, "views/%04d.png", "--zoom", "3"), 13)
    assert tree(tmp_path) == made
    assert command(*words, "views/%04d.png", "--zoom", "3", "--overwrite").returncode == 0
    assert tree(tmp_path).keys() == made.keys()
    assert tree(tmp_path) != made


def test_a_video_is_never_written_over_itself(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    path = write_video(tmp_path / "a.mkv", evenly(2))
    (tmp_path / "link.mkv").symlink_to(path)
    before = path.read_bytes()
    for name in ("a.mkv", "link.mkv"):
        done = command("zoom", nearest_bundle, path, "-o", tmp_path / name, "--overwrite")
        assert "over the input" in failure_line(done, 2)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["50%.png", "a%s.png", "a.png", "%d%d.png", "%d%.png", "%5d.png", "%-3d.png", "%x.webp", "%d.bmp"]
)
def test_a_picture_name_has_one_number(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="%04d"):
        check_output(tmp_path / name, None, overwrite=True)


def test_what_a_pattern_names(tmp_path: Path) -> None:
    assert numbered(Path("100%d/a_%03d.png"), 7) == Path("100%d/a_007.png")
    for name in ("a1.png", "b0001.png", "a0001.jpg", "a00001.png", "ax0001.png"):
        (tmp_path / name).touch()
    check_output(tmp_path / "a%04d.png", None, overwrite=False)  # none of these is its
    (tmp_path / "a12345.png").touch()
    with pytest.raises(StorageError, match="a12345"):
        check_output(tmp_path / "a%04d.png", None, overwrite=False)
    with pytest.raises(UsageError, match="a12345"):  # FFmpeg reads it by that name too
        check_output(tmp_path / "a%04d.png", str(tmp_path / "a%d.png"), overwrite=True)
    with pytest.raises(UsageError, match=r"a1\.png"):
        check_output(tmp_path / "a%d.png", str(tmp_path / "a1.png"), overwrite=True)
    check_output(tmp_path / "new" / "a%04d.png", str(tmp_path / "a%04d.png"), overwrite=False)


def test_percent_in_a_videos_name_is_a_letter(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    path = write_video(tmp_path / "20%.mkv", evenly(2))
    out = tmp_path / "50%.mkv"
    done = command("zoom", nearest_bundle, path, "-o", out, "--zoom", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(picture_times(out)) == 2


@pytest.mark.parametrize(("suffix", "to"), [(".mkv", ".mkv"), (".ts", ".mkv"), (".ts", ".mp4")])
def test_sound_stays_in_step_from_its_first_piece_on(
    nearest_bundle: Path, tmp_path: Path, command: Any, suffix: str, to: str
) -> None:
    """It begins a third of a second before the pictures, which are zoomed for one second from their first on."""
    start = Fraction(5000)
    ts = suffix == ".ts"
    path = write_video(
        tmp_path / f"late{suffix}",
        evenly(40, start),
        "mpeg2video" if ts else "ffv1",
        base=Fraction(1, 30) if ts else Fraction(1, 1000),
        sound_from=start - Fraction(1, 3),
    )
    assert picture_times(path)[0] > 1000
    out = tmp_path / f"out{to}"
    done = command("zoom", nearest_bundle, path, "-o", out, "--zoom", "1:4", "--seconds", "1")
    assert (done.returncode, done.stderr) == (0, "")
    before, after = picture_times(path), picture_times(out)
    assert after == pytest.approx([1 / 3 + index / 30 for index in range(30)], abs=0.03 if ts else 2e-3)
    expected = [(time - before[0], data) for time, data in sound_packets(path) if time - before[0] < 1]
    found = [(time - after[0], data) for time, data in sound_packets(out)]
    assert [data for _, data in found] == [data for _, data in expected]
    assert [time for time, _ in found] == pytest.approx([time for time, _ in expected], abs=2e-3)
    assert found[0][0] < -0.3


def test_a_device_may_count_from_anywhere(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    device = "testsrc=size=64x48:rate=10,setpts=PTS+5000/TB"
    out = tmp_path / "cam.mkv"
    done = command("zoom", nearest_bundle, device, "--device-kind", "lavfi", "-o", out, "--seconds", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert picture_times(out) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=2e-3)


VARYING = [Fraction(ms, 1000) for ms in (0, 8, 33, 41, 90, 180)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_a_varying_rate_is_kept(nearest_bundle: Path, tmp_path: Path, command: Any, suffix: str) -> None:
    path = write_video(tmp_path / "phone.mkv", VARYING)
    out = tmp_path / f"out{suffix}"
    done = command("zoom", nearest_bundle, path, "-o", out, "--zoom", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert picture_times(out) == pytest.approx([float(time) for time in VARYING], abs=1e-3)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("rate", [Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15360, 257)])
def test_both_encoders_take_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, rate: Fraction
) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec}")
    encoder = next(one for one in ENCODERS[8] if one.name == codec)
    monkeypatch.setattr(_video_writer, "ENCODERS", {8: (encoder,)})
    like = Source(str(write_video(tmp_path / "in.mkv", evenly(2))), None).first
    even = [index / rate for index in range(20)]
    for times in (even, VARYING, [Fraction(0), Fraction(0), Fraction(7)]):  # also twice the same, and a gap
        out = tmp_path / "out.mp4"
        with video_writer(out, plan_recording(out, (WIDTH, HEIGHT), rate, like)) as writer:
            for time in times:
                frame, canvas = writer.canvas()
                for plane in canvas.planes:
                    plane[...] = 128
                writer.write(frame, time)
        assert picture_times(out) == pytest.approx([float(time) for time in times], abs=1e-4)
        if times is even:
            with av.open(str(out)) as container:
                assert float(container.streams.video[0].average_rate) == pytest.approx(float(rate), rel=1e-4)


@pytest.mark.parametrize(
    ("codec", "format", "suffix", "said", "siting"),
    [
        ("mjpeg", "yuvj420p", ".mkv", None, "center"),
        ("mpeg2video", "yuv420p", ".mkv", None, "left"),
        ("libx264", "yuv420p", ".mp4", None, "left"),
        ("libx264", "yuv420p", ".mp4", "center", "center"),
        ("libx264", "yuv420p", ".mp4", "topleft", "top-left"),
        ("ffv1", "yuv420p10le", ".mkv", "topleft", "top-left"),
    ],
)
def test_chroma_lies_where_ffmpeg_says(
    tmp_path: Path, codec: str, format: str, suffix: str, said: str | None, siting: str
) -> None:
    """Read within one code of swscale's picture with that position given by hand."""
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec}")
    options = {"chroma_sample_location": said} if said else {}
    base = Fraction(1, 30)
    path = write_video(tmp_path / f"in{suffix}", evenly(1), codec, format, base=base, options=options)
    source = Source(str(path), None)
    assert source.first.siting == siting
    (frame,) = (frame for frame, _ in source.packets() if frame is not None)
    planes = source.camera_frame(frame)
    ours = np.rint(read_window(planes, slice(0, HEIGHT), slice(0, WIDTH)) * 255).transpose(1, 2, 0)
    across, down = {"left": (0, 128), "center": (128, 128), "top-left": (0, 0)}[siting]
    name = "pc" if planes.full_range else "tv"
    graph = av.filter.Graph()
    chain = [
        graph.add_buffer(width=WIDTH, height=HEIGHT, format=frame.format, time_base=base),
        graph.add(
            "scale",
            "flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact:out_range=pc:"
            f"in_color_matrix={planes.matrix}:in_range={name}:in_h_chr_pos={across}:in_v_chr_pos={down}",
        ),
        graph.add("format", "pix_fmts=rgb24"),
        graph.add("buffersink"),
    ]
    for one, other in itertools.pairwise(chain):
        one.link_to(other)
    graph.configure()
    graph.push(frame)
    theirs = graph.pull().to_ndarray(format="rgb24").astype(int)
    source.close()
    assert np.abs(ours - theirs).max() <= 1
    out = tmp_path / "out.mp4"
    with video_writer(out, plan_recording(out, (WIDTH, HEIGHT), Fraction(30), source.first)) as writer:
        target, canvas = writer.canvas()
        assert canvas.siting == "left"  # where players look for what is not said
        writer.write(target, Fraction(0))
