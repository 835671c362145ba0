"""What every recorded result carries: the command, the machine, the versions and the state of the code."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, object]:
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        cpu = names[0] if names else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "cores": cores, "system": platform.platform(), "load_1min": os.getloadavg()[0]}


def versions(*packages: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("zoomrt", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


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
        "commit": commit(),
        "machine": machine(),
        "versions": versions(*packages),
        "figures": figures,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
