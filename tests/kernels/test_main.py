"""`python -m zoomrt.cli.kernels`: the table, the files it writes, and one line for what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the extra 'kernels' is not installed")

import toy_kernels

from zoomrt.cli._common import run
from zoomrt.cli.kernels import cli
from zoomrt.kernels import configuration
from zoomrt.kernels.configuration import Configuration


def toy(kernel: str, block: int, sms: tuple[int, ...] = (75, 89)) -> Configuration:
    signature = {"x": "*fp16", "y": "*fp16", "out": "*fp16", "count": "i32"}
    grid = ("cdiv(count, BLOCK)", "1", "1")
    return Configuration(kernel, f"{kernel}_{block}", toy_kernels.add, signature, {"BLOCK": block}, grid, sms=sms)


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = [toy("add", 128), toy("add", 256), toy("sum", 128, sms=(89,))]
    monkeypatch.setattr(configuration, "all_configurations", lambda: toys)


def printed(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(cli, list(words)) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def test_the_table_has_a_row_for_each_kernel_and_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    lines = printed(capfd, "compile", "--sm", "75", "--sm", "89").splitlines()
    rows = [re.split(r"\s{2,}", line) for line in lines if re.match(r"(add|sum)_", line)]
    assert [(row[0], row[1]) for row in rows] == [
        *(("add_128", sm) for sm in ("75", "89")),
        *(("add_256", sm) for sm in ("75", "89")),
        ("sum_128", "89"),
    ]
    figures = json.loads(printed(capfd, "compile", "--json"))
    assert [[row[0], int(row[1]), int(row[3])] for row in rows] == [
        [one["name"], one["sm"], one["registers"]] for one in figures
    ]


def test_files_are_written_for_what_was_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ("compile", "--kernel", "sum", "--kernel", "add_256", "--sm", "89", "--ptx", "--out", str(tmp_path / "o"))
    assert printed(capfd, *words, "--quiet") == ""
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "add_256.sm89.cubin",
        "add_256.sm89.ptx",
        "sum_128.sm89.cubin",
        "sum_128.sm89.ptx",
    ]
    assert (tmp_path / "o" / "sum_128.sm89.cubin").read_bytes()[:4] == b"\x7fELF"
    assert ".target sm_89\n" in (tmp_path / "o" / "sum_128.sm89.ptx").read_text()


def test_the_list_says_how_each_is_launched(capfd: pytest.CaptureFixture[str]) -> None:
    assert "sum_128  SM 89  (x: *fp16, y: *fp16, out: *fp16, count: i32)  grid cdiv(count, BLOCK) x 1 x 1" in printed(
        capfd, "list"
    )
    (first, *_) = json.loads(printed(capfd, "list", "--json"))
    assert (first["name"], first["sms"], first["warps"]) == ("add_128", [75, 89], 4)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["compile", "--kernel", "ad_128"], 2, "Did you mean add_128"),
        (["compile", "--sm", "70"], 2, "SM70"),
        (["compile", "--kernel", "sum", "--out", "{file}"], 13, "cannot write"),
    ],
)
def test_a_failure_is_one_line(
    words: list[str], code: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(cli, [word.format(file=tmp_path / "file") for word in words]) == code
    out, err = capfd.readouterr()
    assert said in err
    assert err.count("\n") == 1
    assert out.count("\n") <= 1
