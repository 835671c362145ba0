"""The walked examples of CONTRIBUTING.md run: a family, a backend, a precision and a pixel format."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoomrt.runtime.frames.pixel_formats import LAYOUTS

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = ("Add a model family", "Add a backend", "Add a precision", "Add a pixel format")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the reader types it all, with a cache of its own; afterwards nothing is left."""
    before = dict(LAYOUTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    LAYOUTS.clear()
    LAYOUTS.update(before)
    for name in ("tiny_family", "tiny_network"):
        sys.modules.pop(name, None)


def blocks(section: str) -> list[str]:
    text = TEXT.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_the_examples_run_one_after_another(folder: Path) -> None:
    """Blocks that begin with a file's name are that file; the others are one session."""
    names: dict[str, object] = {}
    for section in SECTIONS:
        found = blocks(section)
        assert found, section
        for block in found:
            if file := re.match(r"# (\w+\.py),", block):
                (folder / file[1]).write_text(block)
            else:
                exec(compile(block, section, "exec"), names)
    assert (folder / "tiny-strict" / "manifest.json").exists()
