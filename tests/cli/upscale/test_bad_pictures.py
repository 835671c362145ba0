"""Pictures that are none, through trt-upscale: one line with cause and remedy, exit code 3, nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_helpers import tree, write_noise
from picture_files import png_of_size

from zoomrt.cli import upscale
from zoomrt.cli._common import run


def truncated(path: Path) -> None:
    write_noise(path, (40, 40))
    path.write_bytes(path.read_bytes()[:-1500])


def text_file(path: Path) -> None:
    path.write_text("<html>404 not found</html>")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "nothing there"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "truncated": (truncated, "truncated|damaged"),
    "text as PNG": (text_file, "no known format"),
    "bomb": (lambda path: path.write_bytes(png_of_size(60000, 60000)), "pixels"),
    "no width": (lambda path: path.write_bytes(png_of_size(0, 5)), ""),
    "no pixels": (lambda path: path.write_bytes(png_of_size(0, 0)), ""),
    "huge side": (lambda path: path.write_bytes(png_of_size(2**31 - 1, 1)), ""),
    "a GIF of nothing": (lambda path: path.write_bytes(b"GIF89a" + b"\0" * 7 + b";"), ""),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_picture(
    nearest_bundle: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    make, cause = CASES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    make(Path("in") / "bad.png")
    before = tree(tmp_path)
    assert run(upscale.cli, [str(nearest_bundle), "in/bad.png", "-o", "out/sub/x.png"]) == 3
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    # cause, value seen, value needed, remedy: the shape of every error of the tree
    pattern = rf"error: .*bad\.png.*: got .*({cause}).*, need .+\. [A-Z].+\.\n"
    assert re.fullmatch(pattern, err), err
    assert tree(tmp_path) == before


def test_the_forged_png_is_sound_but_for_its_size(nearest_bundle: Path, tmp_path: Path) -> None:
    """The bomb is refused for its size alone: the same bytes with a small size go through."""
    (tmp_path / "small.png").write_bytes(png_of_size(16, 16, b"\0" * 1000))
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "small.png"), "-o", str(tmp_path / "x.png")]) == 0


def test_a_folder_named_like_a_picture_is_a_folder(nearest_bundle: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "odd.png").mkdir()
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "odd.png"), "-o", str(tmp_path / "x.png")]) == 3
    assert "no pictures in folder" in capfd.readouterr().err
