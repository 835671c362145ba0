"""The demo's parts: its figures against scikit-image, its sheet pixel by pixel. `make demo` itself is the real run."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoomrt.cli import demo
from zoomrt.cli._common import run
from zoomrt.cli.video.sheet import INK, sheet

FONT_SIZE, GAP, LABEL_HEIGHT = 24, 12, 44


def test_psnr_is_that_of_the_literature(rng: np.random.Generator) -> None:
    """Against scikit-image on its own YCbCr; 1e-6 dB, both compute in float64."""
    color, metrics = pytest.importorskip("skimage.color"), pytest.importorskip("skimage.metrics")
    a, b = rng.integers(0, 256, (2, 40, 30, 3), dtype=np.uint8)
    luma = [color.rgb2ycbcr(pixels)[4:-4, 4:-4, 0] for pixels in (a, b)]
    assert demo.psnr_y(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(*luma, data_range=255), abs=1e-6)


@pytest.mark.parametrize("name", demo.PHOTOGRAPHS)
def test_photographs_fit_the_scale_and_hold_their_crop(name: str) -> None:
    pytest.importorskip("skimage")
    truth = demo._photograph(name)
    small = demo._bicubic(truth, Fraction(1, 4))
    assert truth.shape == (small.shape[0] * 4, small.shape[1] * 4, 3)
    assert demo._bicubic(small, Fraction(4)).shape == truth.shape
    left, top, right, bottom = demo.PHOTOGRAPHS[name]
    assert 0 <= left < right <= truth.shape[1]
    assert 0 <= top < bottom <= truth.shape[0]


def test_sheet_shows_each_column_and_its_crop_enlarged(rng: np.random.Generator) -> None:
    width, height = 40, 30
    columns = [(label, rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for label in ("one", "two")]
    canvas = np.asarray(sheet(columns, (10, 5, 30, 20)))
    for index, (_, pixels) in enumerate(columns):
        x = GAP + index * (width + GAP)
        whole = canvas[LABEL_HEIGHT : LABEL_HEIGHT + height, x : x + width]
        differs = (whole != pixels).any(axis=2)
        assert differs.any()
        assert not differs[8:17, 13:27].any()  # inside the frame
        assert not differs[:5].any()  # above it
        crop = canvas[LABEL_HEIGHT + height + GAP :, x : x + width][:30]
        np.testing.assert_array_equal(crop, pixels[5:20, 10:30].repeat(2, axis=0).repeat(2, axis=1))


def test_labels_are_drawn_large_enough_to_read() -> None:
    pixels = np.zeros((20, 200, 3), np.uint8)
    strip = np.asarray(sheet([("Hxg", pixels)], (0, 0, 20, 2), whole=False))[:LABEL_HEIGHT]
    inked = np.flatnonzero((strip == INK).all(axis=2).any(axis=1))
    assert inked[-1] - inked[0] >= FONT_SIZE * 0.7


def test_sheets_are_written_whole(tmp_path: Path) -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    demo._write_sheets([("a", pixels), ("b", pixels)], (0, 0, 10, 10), tmp_path / "new" / "out")
    assert sorted(path.name for path in (tmp_path / "new" / "out").iterdir()) == ["demo-crop.png", "demo.png"]
    with Image.open(tmp_path / "new" / "out" / "demo.png") as written:
        assert written.width == 2 * (20 + GAP) + GAP


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    from zoomrt.errors import StorageError

    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot write"):
        demo._write_sheets([("a", np.zeros((8, 8, 3), np.uint8))], (0, 0, 4, 4), tmp_path / "file" / "out")


@pytest.mark.parametrize("installed", [True, False])
def test_the_engine_is_skipped_without_its_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd, installed: bool
) -> None:
    pytest.importorskip("skimage")
    built = []
    monkeypatch.setattr(demo, "build_with_progress", lambda request, *_, **__: built.append(request.target))
    monkeypatch.setattr(demo, "summary", lambda _: ())
    monkeypatch.setattr(demo, "_compare", lambda *_: ())
    monkeypatch.setattr("zoomrt.runtime.backends.is_installed", lambda module: installed or module != "tensorrt_rtx")
    assert run(demo.cli, ["-o", str(tmp_path)]) == 0
    assert built == ["cpu", "sm89"][: 1 + installed]
    assert ("skipped: building with tensorrt_rtx" in capfd.readouterr().out) is not installed


def test_without_scikit_image_it_says_what_to_run(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setattr("zoomrt.cli._common.is_installed", lambda _: False)
    assert run(demo.cli, []) == 14
    assert "make demo" in capfd.readouterr().err
