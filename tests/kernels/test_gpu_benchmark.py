"""The parts of benchmarks/gpu.py that need no GPU: arguments, tables, refusal, and that one failure loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.arguments([]).only is None
    assert gpu.arguments(["--only", "norm", "--only", "vq"]).only == ["norm", "vq"]
    assert gpu.arguments(["--out", "x/y"]).out == Path("x/y")
    with pytest.raises(SystemExit):
        gpu.arguments(["--only", "nonsense"])
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_one_line_where_there_is_no_gpu(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "needs an NVIDIA GPU" in err
    assert not (tmp_path / "out").exists()


def test_a_table_with_gaps() -> None:
    text = gpu.format_rows([{"case": "a", "us": 12.34567}, {"case": "b", "us": "RuntimeError: no", "equal": True}])
    assert text.splitlines() == [
        "| case | us | equal |",
        "| --- | --- | --- |",
        "| a | 12.35 |  |",
        "| b | RuntimeError: no | True |",
    ]


def test_a_failing_part_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(_run: gpu.Run) -> list[gpu.Row]:
        raise ValueError("broken")

    run = gpu.Run(tmp_path / "deep" / "out")
    assert gpu.run_parts(run, {"one": lambda _: [{"x": 1}], "two": fails, "three": lambda _: [{"x": 3}]}) == 1
    figures = json.loads((run.out / "gpu.json").read_text())["figures"]
    assert figures["one"] == [{"x": 1}]
    assert figures["three"] == [{"x": 3}]
    assert "ValueError: broken" in figures["two"]["failed"]
    assert (run.out / "gpu.log").read_text().strip() in capsys.readouterr().out


def test_what_refuses_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, repeats: int) -> float:
        raise RuntimeError(f"No available\n kernel in {repeats}")

    monkeypatch.setattr(gpu, "median_us", refuses)
    assert gpu.timed(max, 1) == "RuntimeError: No available kernel in 30"
    assert gpu.share(5.0, 10.0) == 0.5
    assert gpu.share(5.0, "RuntimeError: no") == ""
