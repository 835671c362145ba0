"""How long `import zoomrt` and each command's --help take in a fresh process, beside Python's own start.

python -m benchmarks.import_time        writes benchmarks/results/import_time.json; goal: under 300 ms each
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks._record import record, summary

STARTS = {
    "python -c pass": ["-c", "pass"],
    "import zoomrt": ["-c", "import zoomrt"],
    "trt-build --help": ["-m", "zoomrt.cli.build", "--help"],
    "trt-upscale --help": ["-m", "zoomrt.cli.upscale", "--help"],
    "trt-doctor --help": ["-m", "zoomrt.cli.doctor", "--help"],
}
GOAL_MS = 300.0


def seconds_of(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    for words in STARTS.values():
        seconds_of(words)  # compiles the bytecode and warms the file cache
    times: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(repeats):  # interleaved, so that a busy moment touches all of them
        for name, words in STARTS.items():
            times[name].append(seconds_of(words))
    figures: dict[str, object] = {name: summary(values) for name, values in times.items()}
    print(record("import_time", {"starts": figures, "goal_ms": GOAL_MS}, "click"))
    for name, figure in figures.items():
        print(f"{name:<20} {figure}")


if __name__ == "__main__":
    main()
