"""What every recorded result carries: the command, the machine, the versions and the state of the code."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from zoomrt.bench.machine import code_state, machine, versions

RESULTS = Path(__file__).parent / "results"


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, middle half and count of repeated timings, in milliseconds."""
    ms = np.array(seconds) * 1e3
    low, middle, high = map(float, np.percentile(ms, [25, 50, 75]))
    return {"median_ms": round(middle, 2), "p25_ms": round(low, 2), "p75_ms": round(high, 2), "n": len(seconds)}


def record(name: str, figures: dict[str, object], *packages: str) -> Path:
    """Write benchmarks/results/NAME.json and return its path."""
    document = {
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": code_state(RESULTS.parent),
        "machine": machine(),
        "versions": versions(*packages),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
