"""README.md and benchmarks/RESULTS.md show the figures of benchmarks/results/; every result says how it was made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))


def test_readme_and_results_show_the_recorded_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)
    from benchmarks import report

    assert report.render() in report.README.read_text(encoding="utf-8"), "run: python -m benchmarks.report"
    assert report.results() == report.PAGE.read_text(encoding="utf-8"), "run: python -m benchmarks.report"


def test_intervals_of_few_runs_say_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    sys.modules.pop("benchmarks", None)
    from benchmarks import report

    rows = [path for path in RESULTS if path.stem.startswith("family_")]
    found = [row for path in rows for row in json.loads(path.read_text())["figures"]["rows"].values() if "n" in row]
    few = [row for row in found if row["n"] < 6]
    assert few
    text = report.PAGE.read_text(encoding="utf-8")
    for row in found:
        told = report._against(row) if row["time_over_onnxruntime"] else report._seconds(row)
        assert told in text
        assert (f"; {1 - 0.5 ** (row['n'] - 1):.0%}, n = {row['n']})" in told) == (row["n"] < 6)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_carries_its_origin(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document["command"].startswith("python -m benchmarks.")
    module = document["command"].split()[2].replace(".", "/")
    assert (ROOT / f"{module}.py").is_file()
    assert {"date", "commit", "machine", "versions", "figures"} <= set(document)
