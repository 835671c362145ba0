"""make demo-zoom, shortened: a clip with both halves, and a contact sheet of its moments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoomrt.cli import demo_zoom
from zoomrt.cli.video.zoom_path import parse_keyframes

GAP, LABEL_HEIGHT = 12, 44

av = pytest.importorskip("av")


def test_the_clip_and_the_sheet(nearest_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("skimage")
    for name, value in (("SIZE", (120, 120)), ("KEYFRAMES", "0=6 1=8"), ("SECONDS", 0.2), ("MOMENTS", (0.0, 1.0))):
        monkeypatch.setattr(demo_zoom, name, value)
    line = demo_zoom.render(nearest_bundle, tmp_path, quiet=True)
    assert "3 frames" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zoom.mp4", "zoom.png"]
    with av.open(str(tmp_path / "zoom.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(120, 240, 3)] * 3
    halves = frames[0][:, :120].astype(int), frames[0][:, 120:].astype(int)
    assert 0.1 < np.abs(halves[0] - halves[1]).mean() < 20  # the same scene, not the same pixels
    sheet = np.asarray(Image.open(tmp_path / "zoom.png"))
    first = sheet[LABEL_HEIGHT : LABEL_HEIGHT + 240, GAP : GAP + 120].astype(int)
    assert np.abs(first[:120] - halves[0]).mean() < 6  # bicubic above; the clip is compressed
    assert np.abs(first[120:] - halves[1]).mean() < 6


def test_the_path_fits_the_clip() -> None:
    path = parse_keyframes(demo_zoom.KEYFRAMES)
    assert path.keyframes[-1].seconds == 4.0 >= max(demo_zoom.MOMENTS)
    assert all(1 <= frame.zoom <= 64 for frame in path.keyframes)
