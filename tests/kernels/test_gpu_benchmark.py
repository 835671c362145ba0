"""The parts of benchmarks/gpu.py that need no GPU: arguments, tables, refusal, and that one failure loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import _gpu_run, gpu
from benchmarks._gpu_end_to_end import _Subject, hidden_share, in_turns, rows_of
from zoomrt.export.request import BuildRequest


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.arguments([]).only is None
    assert gpu.arguments(["--only", "attention", "--only", "frame"]).only == ["attention", "frame"]
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

    monkeypatch.setattr(_gpu_run, "median_us", refuses)
    assert _gpu_run.timed(max, 1) == "RuntimeError: No available kernel in 30"
    assert _gpu_run.share(5.0, 10.0) == 0.5
    assert _gpu_run.share(5.0, "RuntimeError: no") == ""


def test_turns_rotate() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name) or float(len(order))) for name in "abc"}  # type: ignore[misc]
    taken = in_turns(runs, 3)
    assert order == [*"abc", *"bca", *"cab"]
    assert taken == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_rows_of_backends(rng: np.random.Generator) -> None:
    picture = rng.uniform(-1, 1, (3, 8, 8))
    rows = rows_of(
        {"eager": [4e-3, 5e-3, 6e-3], "ours": [1e-3, 2.5e-3, 2e-3]}, {"eager": picture, "ours": picture + 0.02}, "eager"
    )
    assert [row["backend"] for row in rows] == ["ours", "eager"]
    assert rows[0]["median_ms"] == pytest.approx(2.0)
    assert rows[0]["over eager"] == pytest.approx(1 / 3)  # of 1/4, 1/2 and 1/3
    assert rows[0]["PSNR to eager"] == pytest.approx(40.0)  # a peak of 2 over an error of 0.02
    assert rows[1]["over eager"] == 1.0


def test_how_much_of_the_copies_is_hidden() -> None:
    spans = {
        ("copy in", 0): (0.0, 2.0),
        ("compute", 0): (2.0, 5.0),
        ("copy in", 1): (3.0, 5.0),
        ("copy out", 0): (5.0, 6.0),
    }
    moments = {(*key, edge): at for key, span in spans.items() for edge, at in zip(("begin", "end"), span, strict=True)}
    assert hidden_share(moments) == pytest.approx(2 / 5)
    assert hidden_share({("compute", 0, "begin"): 0.0, ("compute", 0, "end"): 1.0}) == 0.0


def test_a_subject_is_built_once_for_each_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int | None]] = []

    def build(request: BuildRequest, output: Path, *, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        asked.append((request.target, request.precision, request.tile))
        return SimpleNamespace(path=output)

    monkeypatch.setattr("zoomrt.export.build.build", build)
    subject = _Subject("some", tmp_path, {"model": "edge"})
    assert [subject.bundle(target) for target in ("cuda", "sm89", "cuda")] == [
        tmp_path / target for target in ("cuda", "sm89", "cuda")
    ]
    assert asked == [("cuda", "fp16", 128), ("sm89", "fp16", 128)]


def test_no_part_is_lost_or_named_twice() -> None:
    from benchmarks import _gpu_end_to_end, _gpu_kernels

    found = [*_gpu_kernels.CORRECT, *_gpu_end_to_end.PARTS, *_gpu_kernels.FAST]
    assert sorted(found) == sorted(gpu.PARTS)
    assert next(iter(gpu.PARTS)) == "machine"
