"""Videos of more than 8 bits and of high dynamic range come out in 10 bits, with what tells how to show them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av = pytest.importorskip("av")

from camera_frames import exact_rgb  # noqa: E402
from video_clips import luma, pictures, planar, ramps, write_frames  # noqa: E402

from zoomrt.cli._common import run  # noqa: E402
from zoomrt.cli.video.clip import Source  # noqa: E402
from zoomrt.cli.zoom import cli  # noqa: E402
from zoomrt.runtime.pictures import vips as picture_vips  # noqa: E402
from zoomrt.runtime.pictures.images import read_picture  # noqa: E402

DEEP = [name for name in ("libx265", "libsvtav1") if name in av.codecs_available]
BT2020 = {"colorspace": 9, "color_primaries": 9}
needs_x265 = pytest.mark.skipif("libx265" not in DEEP, reason="no libx265")


def zoom(*words: object) -> int:
    return run(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def gradient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 1024 levels, rising along the rows and from row to row."""
    codes = np.arange(1024, dtype=np.uint16).reshape(32, 32)
    middle = np.full((16, 16), 512, np.uint16)
    frame = planar("yuv420p10le", [codes, middle, middle], full_range=True)
    path = tmp_path_factory.mktemp("gradient") / "in.mkv"
    return write_frames(path, [frame], tags={**BT2020, "color_trc": 16})


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "hevc"), (".mkv", "hevc"), (".webm", "av1")])
def test_a_gradient_keeps_its_levels(
    nearest_bundle: Path,
    gradient: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    suffix: str,
    codec: str,
) -> None:
    """An engine that repeats pixels, in a view of its size, against each pixel in float64: a lossy codec in between."""
    if {"hevc": "libx265", "av1": "libsvtav1"}[codec] not in DEEP:
        pytest.skip(f"no encoder for {codec}")
    out = tmp_path / f"out{suffix}"
    assert zoom(nearest_bundle, gradient, "-o", out, "--zoom", 1, "--size", "128x128") == 0
    assert capfd.readouterr().err == ""
    source = Source(str(gradient), None)
    expected = exact_rgb(source.first).repeat(4, 0).repeat(4, 1)
    source.close()
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert video.codec_context.name == {"hevc": "hevc", "av1": "libdav1d"}[codec]
        (frame,) = container.decode(video)
    assert frame.format.name == "yuv420p10le"
    found = luma(frame) / 1023
    assert np.abs(found - expected[:, :, 0]).mean() < 1 / 1023, "a step of 8 bits is four of these"
    assert np.abs(found - expected[:, :, 0]).max() < 8 / 1023
    assert len(np.unique(luma(frame))) > 700


@needs_x265
@pytest.mark.parametrize("format", ["yuv420p10le", "yuv422p10le", "yuv444p12le", "gbrp10le", "gray16le", "yuv420p"])
@pytest.mark.parametrize("transfer", [16, 18, 1])
def test_ten_bits_and_hdr_are_hevc_main_10(
    nearest_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str, transfer: int
) -> None:
    """PQ in 8 bits would be banding from the start, so it has more room in 10 too."""
    tags = {"color_trc": transfer, "color_primaries": 9, **({"colorspace": 9} if format.startswith("yuv") else {})}
    path = write_frames(tmp_path / "in.mkv", ramps(2, format=format), tags=tags)
    out = tmp_path / "out.mp4"
    assert zoom(nearest_bundle, path, "-o", out, "--zoom", 2) == 0
    said = capfd.readouterr().err
    losses = {"yuv422p10le": "4:2:0", "yuv444p12le": "12 bits become 10", "gray16le": "16 bits become 10"}
    assert losses.get(format, "") in said
    assert bool(said) == (format in losses)
    deep = transfer in (16, 18) or format != "yuv420p"
    with av.open(str(out)) as container:
        video = container.streams.video[0]
        assert video.profile == ("Main 10" if deep else "High")
        assert video.codec_tag == ("hvc1" if deep else "avc1")
        frames = list(container.decode(video))
    assert len(frames) == 2
    seen = [int(getattr(frames[0], name)) for name in ("color_trc", "color_primaries")]
    assert seen == [transfer, 9]
    assert (int(frames[0].colorspace) == 9) == format.startswith("yuv")
    assert frames[0].color_range == 1


MASTERING = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000.0)
"""x and y of red, green, blue and white; cd/m2: a display of P3 primaries."""


@needs_x265
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_how_hdr_was_mastered_is_kept(nearest_bundle: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".webm" and "libsvtav1" not in DEEP:
        pytest.skip("no libsvtav1")
    display = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)"
    options = {"x265-params": f"log-level=none:master-display={display}:max-cll=980,410"}
    tags = {**BT2020, "color_trc": 16}
    path = write_frames(tmp_path / "in.mkv", ramps(2, format="yuv420p10le"), "libx265", options=options, tags=tags)
    out = tmp_path / f"out{suffix}"
    assert zoom(nearest_bundle, path, "-o", out, "--zoom", 2) == 0
    frame = pictures(out)[0]
    data = {one.type.name: bytes(one) for one in frame.side_data}
    assert struct.unpack("2I", data["CONTENT_LIGHT_LEVEL"]) == (980, 410)
    numbers = struct.unpack("22i", data["MASTERING_DISPLAY_METADATA"])
    found = [above / below for above, below in zip(numbers[:20:2], numbers[1:20:2], strict=True)]
    assert found == pytest.approx(MASTERING, rel=2e-2 if suffix == ".webm" else 1e-4)  # AV1 has 14 bits for darkness


def test_without_an_encoder_of_ten_bits_nothing_is_written(
    tmp_path: Path, gradient: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not 8 bits with PQ's tags. No bundle is there: it would be loaded next."""
    monkeypatch.setattr(av, "codecs_available", {"libx264", "mpeg4"})
    assert zoom(tmp_path / "no bundle", gradient, "-o", tmp_path / "out.mp4") == 13
    (line,) = capfd.readouterr().err.splitlines()
    assert "libx265, libsvtav1" in line
    assert not list(tmp_path.iterdir())


def test_numbered_pictures_have_16_bits_or_say_what_they_do_not_show(
    nearest_bundle: Path,
    gradient: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("pyvips")
    words = ["--zoom", 1, "--size", "128x128"]
    assert zoom(nearest_bundle, gradient, "-o", tmp_path / "%d.png", *words) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: ")
    assert line.endswith("HDR (PQ) is not tone-mapped, so the pictures look flat")
    source = Source(str(gradient), None)
    expected = exact_rgb(source.first).repeat(4, 0).repeat(4, 1)
    source.close()
    picture = read_picture(tmp_path / "1.png").pixels
    assert picture.dtype == np.uint16
    assert np.abs(picture / 65535 - expected).max() < 1e-4
    assert len(np.unique(picture)) == 1024
    assert zoom(nearest_bundle, gradient, "-o", tmp_path / "%d.jpg", *words) == 0
    assert "10 bits become 8, JPEG holds no more" in capfd.readouterr().err
    monkeypatch.setattr(picture_vips, "available", lambda: False)
    assert zoom(nearest_bundle, gradient, "-o", tmp_path / "8-%d.png", *words) == 0
    assert "10 bits become 8" in capfd.readouterr().err
    assert zoom(nearest_bundle, gradient, "-o", tmp_path / "q%d.png", *words, "--quiet") == 0
    assert capfd.readouterr().err == ""


@needs_x265
def test_a_portrait_of_a_phone_is_upright_in_ten_bits(nearest_bundle: Path, tmp_path: Path) -> None:
    """HLG that is stored lying: the levels of each row come out in a column."""
    codes = np.linspace(64, 940, 32 * 32).astype(np.uint16).reshape(32, 32)
    middle = np.full((16, 16), 512, np.uint16)
    path = write_frames(
        tmp_path / "in.mkv",
        [planar("yuv420p10le", [codes, middle, middle])],
        tags={**BT2020, "color_trc": 18},
        matrix=[0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30],
    )
    out = tmp_path / "out.mkv"
    assert zoom(nearest_bundle, path, "-o", out, "--zoom", 1, "--size", "128x128") == 0
    (frame,) = pictures(out)
    found: Any = luma(frame).astype(float)
    expected = codes.T[:, ::-1].repeat(4, 0).repeat(4, 1)  # x' = -q, y' = p
    assert np.abs(found - expected).mean() < 1.5
    assert len(np.unique(found)) > 600
