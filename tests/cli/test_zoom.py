"""trt-zoom on small videos: pictures against the session itself, sound untouched, sequences, devices, failures."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import failure_line, tree
from PIL import Image

av = pytest.importorskip("av")

from zoomrt.bundle import Bundle  # noqa: E402
from zoomrt.cli._common import run  # noqa: E402
from zoomrt.cli.video.frames import camera_frame  # noqa: E402
from zoomrt.cli.video.zoom_path import parse_path  # noqa: E402
from zoomrt.cli.zoom import cli  # noqa: E402
from zoomrt.runtime.backends import BACKENDS  # noqa: E402
from zoomrt.runtime.frames.yuv import read_window  # noqa: E402
from zoomrt.runtime.zoom.session import ZoomSession  # noqa: E402

WIDTH, HEIGHT, COUNT, RATE = 64, 48, 8, 8


@pytest.fixture
def command(in_process: Any) -> Any:
    return in_process


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second of moving ramps with a tone of PCM."""
    path = tmp_path_factory.mktemp("video") / "in.mkv"
    with av.open(str(path), "w") as container:
        pictures, sound = container.add_stream("ffv1", rate=RATE), container.add_stream("pcm_s16le", rate=8000)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        for count in range(COUNT):
            pixels = np.stack([(3 * x + 9 * count) % 256, 5 * y, (x * y) % 256], axis=2).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = count, Fraction(1, RATE)
            container.mux(pictures.encode(frame))
            tone = (8000 * np.sin(0.3 * np.arange(1000) + count)).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            samples.rate, samples.pts, samples.time_base = 8000, 1000 * count, Fraction(1, 8000)
            container.mux(sound.encode(samples))
        container.mux(pictures.encode())
        container.mux(sound.encode())
    return path


def decoded(path: Path) -> list[Any]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_a_video_is_zoomed_frame_by_frame_and_its_sound_copied(
    nearest_bundle: Path, video: Path, tmp_path: Path, command: Any
) -> None:
    out = tmp_path / "new" / "out.mkv"
    done = command("zoom", nearest_bundle, video, "-o", out, "--zoom", "1:4", "--centre", "0.6,0.4", "--size", "96x72")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{COUNT} frames 96 x 72 px" in done.stdout
    assert list(tree(tmp_path / "new")) == ["out.mkv"]
    assert sound(out) == sound(video)
    path = parse_path("1:4", "0.6,0.4", 1.0)
    before, after = decoded(video), decoded(out)
    assert [frame.time for frame in after] == pytest.approx([frame.time for frame in before], abs=2e-3)
    with ZoomSession(nearest_bundle, (96, 72), output_format="rgb") as session:
        for frame, result in zip(before, after, strict=True):
            expected = session.process(camera_frame(frame), *path.at(frame.time)).pixels
            difference = np.abs(result.to_ndarray(format="rgb24").astype(int) - expected).mean()
            assert difference <= 8, difference  # the codec, and chroma of half size
        assert int(after[0].colorspace) == 6  # BT.601, said in the file, as the input is small and does not say


def test_side_by_side_pictures(nearest_bundle: Path, video: Path, tmp_path: Path, command: Any) -> None:
    words = ["--zoom", "3", "--side-by-side", "--seconds", "0.3"]
    done = command("zoom", nearest_bundle, video, "-o", tmp_path / "p" / "%03d.png", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tree(tmp_path / "p")) == ["001.png", "002.png", "003.png"]
    with ZoomSession(nearest_bundle, (WIDTH, HEIGHT), output_format="rgb") as session:
        for number, frame in enumerate(decoded(video)[:3], 1):
            picture = np.asarray(Image.open(tmp_path / "p" / f"{number:03d}.png"))
            source = camera_frame(frame)
            np.testing.assert_array_equal(picture[:, :WIDTH], session.bicubic(source, 3.0).pixels)
            np.testing.assert_array_equal(picture[:, WIDTH:], session.process(source, 3.0).pixels)
            assert not np.array_equal(picture[:, :WIDTH], picture[:, WIDTH:])
    done = command(
        "zoom", nearest_bundle, tmp_path / "p" / "%03d.png", "-o", tmp_path / "seq.mkv", "--rate", "5", "--zoom", "2"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(decoded(tmp_path / "seq.mkv")) == 3


def test_another_colour_step(nearest_bundle: Path, video: Path, tmp_path: Path, command: Any) -> None:
    words = [nearest_bundle, video, "-o", tmp_path / "%d.png", "--zoom", "3", "--seconds", "0.1"]
    assert command("zoom", *words, "--colour", "adain").returncode == 0
    with ZoomSession(nearest_bundle, (WIDTH, HEIGHT), output_format="rgb", colour="adain") as session:
        expected = session.process(camera_frame(decoded(video)[0]), 3.0).pixels
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "1.png")), expected)
    assert "unknown colour step: got 'adian'" in failure_line(
        command("zoom", *words, "--colour", "adian", "--overwrite"), 2
    )


def test_a_device_needs_an_end_for_a_path(nearest_bundle: Path, tmp_path: Path, command: Any) -> None:
    words = [nearest_bundle, "testsrc=size=64x48:rate=10", "--device-kind", "lavfi", "-o", tmp_path / "cam.mkv"]
    failure = failure_line(command("zoom", *words), 2)
    assert "--seconds" in failure
    done = command("zoom", *words, "--seconds", "0.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(decoded(tmp_path / "cam.mkv")) == 5


@pytest.mark.parametrize(
    ("words", "code", "match"),
    [
        (["--zoom", "fast"], 2, "--zoom"),
        (["--size", "63x48", "--side-by-side"], 2, "--size"),
        (["--size", "0x48"], 2, "--size"),
        (["--size", f"{'9' * 400}x48"], 2, "--size"),
        (["--size", f"{'9' * 5000}x48"], 2, "--size"),
        (["--size", "16385x2"], 2, "--size"),
        (["--rate", "often"], 2, "--rate"),
        (["--rate", "0"], 2, "--rate"),
        (["--rate", "-30"], 2, "--rate"),
        (["--rate", "1e30000000"], 2, "--rate"),
        (["--rate", "1/1e308"], 2, "--rate"),
        (["--keyframes", "0=1 0.1=0"], 2, "--keyframes"),
        (["--keyframes", "0=1 1e308=2"], 2, "--keyframes"),
        (["--zoom", "0.5"], 2, "1 to 64"),
        *(
            ([option, text], 2, option)
            for option in ("--seconds", "--budget-ms", "--zoom", "--centre", "--noise")
            for text in ("nan", "inf", "-inf", "-1", "1e308", "9" * 400)
        ),
        (["--seconds", "0"], 2, "--seconds"),
        (["--budget-ms", "0"], 2, "--budget-ms"),
    ],
)
def test_bad_options_are_told_before_the_input_is_opened(
    nearest_bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    match: str,
) -> None:
    out = tmp_path / "o" / "x.mkv"
    assert run(cli, [str(nearest_bundle), str(tmp_path / "no video"), "-o", str(out), *words]) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert match in line
    assert len(line) < 400
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["x.gif", "x.nothing", "x", "x.mp3", "x.ogv"])
def test_containers_that_hold_no_such_video_are_told_before_the_work(
    video: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    """No bundle is there: it would be loaded next."""
    assert run(cli, [str(tmp_path / "no bundle"), str(video), "-o", str(tmp_path / name)]) in (2, 13)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: cannot write")
    assert tree(tmp_path) == {}


def test_bad_files(nearest_bundle: Path, video: Path, tmp_path: Path, command: Any) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    assert "cannot read video" in failure_line(command("zoom", nearest_bundle, text, "-o", tmp_path / "x.mkv"), 3)
    assert "cannot read video" in failure_line(command("zoom", nearest_bundle, "none.mp4", "-o", tmp_path / "x.mkv"), 3)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(video.read_bytes()[:400])
    assert "error" in failure_line(command("zoom", nearest_bundle, cut, "-o", tmp_path / "x.mkv"), 3)
    assert "cannot write video" in failure_line(
        command("zoom", nearest_bundle, video, "-o", tmp_path / "x.nothing"), 13
    )
    kept = tmp_path / "kept.mkv"
    kept.write_bytes(b"mine")
    assert "--overwrite" in failure_line(command("zoom", nearest_bundle, video, "-o", kept), 13)
    assert kept.read_bytes() == b"mine"
    assert sorted(tree(tmp_path)) == ["cut.mkv", "kept.mkv", "text.mp4"]


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_turned_video_is_read_as_it_is_shown(
    nearest_bundle: Path, tmp_path: Path, command: Any, degrees: int
) -> None:
    """As phones store portraits. OpenCV turns such a video too."""
    cv2 = pytest.importorskip("cv2")
    turned = tmp_path / "turned.mp4"
    with av.open(str(turned), "w") as container:
        pictures = container.add_stream("mpeg4", rate=RATE)
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pictures.set_display_rotation(degrees)
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        pixels = (2 * x + 2 * y)[:, :, None] + np.array([0, 10, 30])  # one chroma, wherever a reader thinks it lies
        container.mux(pictures.encode(av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")))
        container.mux(pictures.encode())
    found, expected = cv2.VideoCapture(str(turned)).read()
    assert found
    mine = camera_frame(decoded(turned)[0])
    height, width = mine.shape
    assert (height, width) == ((HEIGHT, WIDTH) if degrees == 180 else (WIDTH, HEIGHT))
    pixels = np.rint(255 * read_window(mine, slice(0, height), slice(0, width))).transpose(1, 2, 0)
    assert np.abs(pixels - expected[:, :, ::-1]).max() <= 3  # two converters from YUV
    done = command("zoom", nearest_bundle, turned, "-o", tmp_path / "%d.png", "--zoom", "1")
    assert (done.returncode, done.stderr) == (0, "")
    shown = np.asarray(Image.open(tmp_path / "1.png").convert("RGB")).astype(int)
    assert np.abs(shown - pixels).max() <= 1


def test_what_the_engine_does_otherwise_is_said(
    nearest_bundle: Path,
    video: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    real = BACKENDS.named("onnxruntime")

    def noted(bundle: Bundle, threads: int | None) -> Any:
        session = real.open(bundle, threads)
        session.note("batches of 1 from now on")  # type: ignore[union-attr]
        return session

    words = [str(nearest_bundle), str(video), "-o", str(tmp_path / "out.mkv"), "--zoom", "2"]
    with BACKENDS.added(replace(real, open=noted)):
        assert run(cli, words) == 0
    assert capfd.readouterr().err.count("warning: batches of 1 from now on") == 1
