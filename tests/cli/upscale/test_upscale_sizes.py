"""trt-upscale --scale, --size and --longest: exact sizes, alpha, 16 bits and metadata with them; what is refused, and
when. The pixels are held in tests/runtime/test_sizes.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_helpers import repeated, tree, write_noise
from PIL import ExifTags, Image

from zoomrt.cli import upscale
from zoomrt.cli._common import run
from zoomrt.runtime import upscaler


def lanczos(picture: Path, size: tuple[int, int]) -> np.ndarray:
    """What the bundle, which repeats pixels, gives at another size: by Pillow, in floats."""
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(repeated(picture), 2, 0)]
    resized = [np.asarray(plane.resize(size, Image.Resampling.LANCZOS)) for plane in planes]
    return np.clip(np.stack(resized, 2), 0, 255)


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--scale", "2"], (42, 34)),
        (["--scale", "3.3"], (69, 56)),
        (["--scale", "1/3"], (7, 6)),
        (["--size", "63x51"], (63, 51)),
        (["--size", "62X50"], (62, 50)),
        (["--longest", "50"], (50, 40)),
        (["--longest", "1"], (1, 1)),
    ],
)
def test_exactly_so_large(
    nearest_bundle: Path, picture: Path, tmp_path: Path, capfd, words: list[str], size: tuple[int, int]
) -> None:
    assert run(upscale.cli, [str(nearest_bundle), str(picture), "-o", str(tmp_path / "x.png"), *words]) == 0
    assert f"21 x 17 -> {size[0]} x {size[1]} px" in capfd.readouterr().out
    found = np.asarray(Image.open(tmp_path / "x.png"))
    assert found.shape == (size[1], size[0], 3)
    assert np.abs(found - lanczos(picture, size)).max() <= 0.5 + 1e-3


def test_above_the_models_scale_it_goes_through_twice(nearest_bundle: Path, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    assert run(upscale.cli, [str(nearest_bundle), str(picture), "-o", str(out), "--scale", "16"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(out)), repeated(picture).repeat(4, 0).repeat(4, 1))


def test_alpha_resolution_and_exif_are_those_of_the_result(nearest_bundle: Path, tmp_path: Path, rng) -> None:
    pixels = rng.integers(0, 256, (40, 60, 4), np.uint8)
    pixels[..., 3] = np.linspace(1, 255, 60)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Maker"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 60, 40
    Image.fromarray(pixels).save(tmp_path / "a.png", dpi=(100, 100), exif=exif.tobytes())
    out = tmp_path / "b.png"
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "a.png"), "-o", str(out), "--size", "150x100"]) == 0
    with Image.open(out) as result:
        assert (result.mode, result.size) == ("RGBA", (150, 100))
        assert result.info["dpi"] == pytest.approx((250, 250), abs=0.1)
        found = result.getexif().get_ifd(ExifTags.IFD.Exif)
        assert (found[ExifTags.Base.ExifImageWidth], found[ExifTags.Base.ExifImageHeight]) == (150, 100)
        alpha = Image.fromarray(pixels[..., 3]).resize((150, 100), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(result.getchannel("A"), int) - np.asarray(alpha, int)).max() <= 1


def test_sixteen_bits_stay(nearest_bundle: Path, tmp_path: Path, rng) -> None:
    """16-bit grey, at half the model's scale: finer than 8 bits could say."""
    grey = rng.integers(20000, 40000, (20, 30), np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    out = tmp_path / "b.png"
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "a.png"), "-o", str(out), "--scale", "2"]) == 0
    large = Image.fromarray(grey.repeat(4, 0).repeat(4, 1).astype(np.float32))
    expected = np.asarray(large.resize((60, 40), Image.Resampling.LANCZOS), np.float64)
    assert np.abs(np.asarray(Image.open(out)).astype(np.float64) - expected).max() <= 0.5 + 0.1


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["--scale", "2", "--size", "10x10"], "got --scale and --size, need one"),
        (["--longest", "5", "--size", "10x10"], "got --size and --longest, need one"),
        (["--scale", "2", "--longest", "5", "--size", "10x10"], "got --scale and --size and --longest"),
        (["--scale", "0"], "cannot use --scale: got '0', need a number from 0.001 to 1000, such as 6.5"),
        (["--scale", "-2"], "got '-2'"),
        (["--scale", "nan"], "got 'nan'"),
        (["--scale", "inf"], "got 'inf'"),
        (["--scale", "1e30000000"], "got '1e30000000'"),
        (["--scale", "9" * 400], "400 characters"),
        (["--scale", "two"], "got 'two'"),
        (["--scale", ""], "got ''"),
        (["--size", "3840"], "cannot use --size: got '3840', need two sides from 1 to 262140"),
        (["--size", "3840x"], "got '3840x'"),
        (["--size", "0x5"], "got '0x5'"),
        (["--size", "-5x5"], "got '-5x5'"),
        (["--size", "5x5x5"], "got '5x5x5'"),
        (["--size", "1.5x2"], "got '1.5x2'"),
        (["--size", f"{'9' * 400}x1"], "402 characters"),
        (["--size", "262140x262140"], "4294 million pixels in all"),
        (["--size", "٣x٣"], "need two sides"),
        (["--longest", "0"], "cannot use --longest: got '0', need a whole number from 1 to 262140"),
        (["--longest", "1e3"], "got '1e3'"),
        (["--longest", "9" * 400], "400 characters"),
    ],
)
def test_what_is_no_size_is_told_before_anything_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, words: list[str], seen: str
) -> None:
    monkeypatch.setattr(upscaler, "load", None)
    code = run(upscale.cli, [str(tmp_path / "no bundle"), str(tmp_path / "no.png"), "-o", str(tmp_path / "x"), *words])
    assert code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert seen in err
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_another_shape_are_refused_and_the_others_go_on(
    nearest_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Known from the headers, before the first is upscaled."""
    write_noise(tmp_path / "in" / "good.png")
    Image.new("RGB", (17, 21)).save(tmp_path / "in" / "bad.png")
    plain = upscaler.Upscaler.upscale

    def told_before(*words: object, **more: object) -> object:
        assert "bad.png" in capfd.readouterr().err
        return plain(*words, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(upscaler.Upscaler, "upscale", told_before)
    words = [str(nearest_bundle), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--size", "42x34"]
    assert run(upscale.cli, words) == 3
    assert list(tree(tmp_path / "out")) == ["good.png"]
    assert capfd.readouterr().out.splitlines()[-1] == "1 upscaled, 1 failed"


def test_a_result_beyond_what_its_format_holds_is_refused_before_the_work(
    nearest_bundle: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setattr(upscaler.Upscaler, "upscale", None)
    words = [str(nearest_bundle), str(picture), "-o", str(tmp_path / "x.webp"), "--longest", "16384"]
    assert run(upscale.cli, words) == 13
    assert "16383" in capfd.readouterr().err
