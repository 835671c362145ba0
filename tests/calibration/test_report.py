"""The table says what the manifest says, the picture is the same for equal facts, neither shows what is not there."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from zoomrt.bundle.records import CalibrationRecord
from zoomrt.calibration.report import write_report

WORK = {"in": 50, "a.0.conv": 450, "b.0.conv": 500}


def facts(**changes: object) -> CalibrationRecord:
    tried = [
        {"blocks": 2, "share": 0.95, "mean_db": 44.0, "worst_db": 38.0},
        {"blocks": 1, "share": 0.45, "mean_db": 52.0, "worst_db": 50.5, "block": "a.0"},
    ]
    blocks = {
        "a.0": {"blocks": 1, "share": 0.45, "mean_db": 52.0, "worst_db": 50.5},
        "b.0": tried[0] | {"blocks": 1, "share": 0.5},
    }
    told = {
        "format": "int8",
        "method": "mse",
        "share": 0.45,
        "min_psnr_db": 40.0,
        "psnr_db": {"mean": 52.0, "worst": 50.5},
        "tiles": {"count": 8, "sha256": "0" * 64, "pictures": {}, "skipped": {}},
        "held_out": {"count": 2, "sha256": "1" * 64, "pictures": {}, "skipped": {}},
        "seams_balanced": 0,
        "quantised": {"a.0.conv": 3.25},
        "kept": {"in": "first or last layer", "b.0.conv": "38.2 dB alone, too much together (gate 41.0 dB)"},
        "measured": tried,
        "ranking": {"side": 32, "blocks": blocks},
        **changes,
    }
    return msgspec.convert(told, CalibrationRecord)


def test_every_layer_once_with_its_share(tmp_path: Path) -> None:
    write_report(tmp_path, facts(), WORK)
    lines = (tmp_path / "calibration.md").read_text().splitlines()
    rows = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    assert rows["in"] == "| in | 5.00% | first or last layer |"
    assert rows["b.0.conv"].startswith("| b.0.conv | 50.00% | 38.2 dB alone")
    assert rows["a.0.conv"] == "| a.0.conv | 45.00% | ±3.25 |"
    assert rows["a.0"] == "| a.0 | 45.00% | 52.0 | 50.5 |"
    assert "45.0% of the multiply-adds" in lines[0]
    assert any("gate 40 dB" in line for line in lines)


def test_the_picture_shows_the_facts_and_nothing_else(tmp_path: Path) -> None:
    """Equal facts give equal bytes, other facts another picture; red, for bundle and gate, is in it."""
    pictures = []
    for name, given in {"a": facts(), "b": facts(), "c": facts(share=0.2)}.items():
        (tmp_path / name).mkdir()
        write_report(tmp_path / name, given, WORK)
        pictures.append((tmp_path / name / "calibration.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]
    pixels = np.asarray(Image.open(tmp_path / "a" / "calibration.png").convert("RGB")).astype(int)
    assert ((pixels[..., 0] - pixels[..., 1]) > 100).sum() > 200


@pytest.mark.parametrize(
    "changes", [{"min_psnr_db": None}, {"ranking": {"side": 32, "blocks": {}}, "measured": []}, {"kept": {}}]
)
def test_what_may_be_missing(tmp_path: Path, changes: dict[str, object]) -> None:
    write_report(tmp_path, facts(**changes), WORK)
    text = (tmp_path / "calibration.md").read_text()
    assert ("no gate" in text) == ("min_psnr_db" in changes)
    assert ("## Blocks" in text) == ("ranking" not in changes)
