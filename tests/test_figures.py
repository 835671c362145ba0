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


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_carries_its_origin(path: Path) -> None:
    document = json.loads(path.read_text())
    assert document["command"].startswith("python -m benchmarks.")
    module = document["command"].split()[2].replace(".", "/")
    assert (ROOT / f"{module}.py").is_file()
    assert {"date", "commit", "machine", "versions", "figures"} <= set(document)
