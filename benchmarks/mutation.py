"""Small faults put into the package one at a time: which does a module's own tests notice?

python -m benchmarks.mutation [--seed N] [--minutes 25]

Faults are cosmic-ray's (another operator, number, comparison or condition), drawn with a seed, one module after the
other until the time is out. A fault in an annotation or a docstring is none. Tests run in a copy of the tree.
Writes benchmarks/results/mutation.json; a survivor is told with its line, before and after.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import MutationVisitor
from cosmic_ray.plugins import get_operator, operator_names

from benchmarks._record import record

ROOT = Path(__file__).parent.parent
TESTS = {
    "runtime/tiles/plan.py": "tests/runtime/tiles/test_plan.py",
    "runtime/tiles/blend.py": "tests/runtime/tiles/test_blend.py",
    "runtime/tiles/moments.py": "tests/runtime/tiles/test_moments.py",
    "runtime/tiles/colour.py": "tests/runtime/tiles/test_colour.py",
    "runtime/tiles/resample.py": "tests/runtime/tiles/test_resample.py",
    "export/verify/parity.py": "tests/export/verify/test_parity.py",
    "calibration/observers.py": "tests/calibration/test_observers.py",
    "calibration/fake_quant.py": "tests/calibration/test_fake_quant.py",
    "models/lora.py": "tests/models/test_lora.py",
    "bundle/manifest.py": "tests/bundle/test_manifest.py",
}
"""Module of the package -> the tests that should notice."""
LONGEST = 10
"""A mutant whose tests take so many times as long as the module's own has hung, and is killed."""


def meaning(source: str) -> str:
    """The source without what never runs: annotations and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.arg)):
            node.returns = node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return ast.dump(tree)


def mutants(source: str, draw: random.Random) -> Iterator[str]:
    """Faulty versions of a source in random order, one for each place and operator of cosmic-ray's."""
    tree = list(ast_nodes(get_ast(source)))
    names = [name for name in operator_names() if "Variable" not in name]  # which want arguments of their own
    operators = {name: get_operator(name)() for name in names}
    counts = {name: sum(len(list(one.mutation_positions(node))) for node in tree) for name, one in operators.items()}
    faults = [(name, number) for name, count in counts.items() for number in range(count)]
    draw.shuffle(faults)
    for name, number in faults:
        mutant = MutationVisitor.mutate_code(source, operators[name], number)
        if mutant is not None and meaning(mutant) != meaning(source):
            yield mutant


def passes(tree: Path, tests: str, timeout: float) -> bool:
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--seed", "1", tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(line, cwd=tree, env=environment, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=25)
    asked = parser.parse_args()
    end = time.monotonic() + asked.minutes * 60
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in ("zoomrt", "tests"):
            shutil.copytree(ROOT / name, tree / name)
        shutil.copy(ROOT / "pyproject.toml", tree)
        sources = {name: (ROOT / "zoomrt" / name).read_text(encoding="utf-8") for name in TESTS}
        queues = {name: mutants(source, random.Random(f"{asked.seed} {name}")) for name, source in sources.items()}
        seconds: dict[str, float] = {}
        while queues and time.monotonic() < end:
            for name in [*queues]:
                if time.monotonic() > end:
                    break
                row = figures.setdefault(name, {"killed": 0, "survived": 0, "survivors": []})
                path = tree / "zoomrt" / name
                if name not in seconds:
                    started = time.monotonic()
                    assert passes(tree, TESTS[name], 600), TESTS[name]
                    seconds[name] = time.monotonic() - started
                mutant = next(queues[name], None)
                if mutant is None:
                    del queues[name]
                    continue
                path.write_text(mutant, encoding="utf-8")
                survived = passes(tree, TESTS[name], max(60, LONGEST * seconds[name]))
                path.write_text(sources[name], encoding="utf-8")
                row["survived" if survived else "killed"] += 1  # type: ignore[operator]
                if survived:
                    lines = difflib.unified_diff(sources[name].splitlines(), mutant.splitlines(), n=0, lineterm="")
                    row["survivors"].append([line for line in lines if line[:3] not in ("---", "+++")])  # type: ignore[attr-defined]
                print(name, "survived" if survived else "killed", flush=True)
    record("mutation", {"seed": asked.seed, "modules": figures}, "cosmic_ray", "pytest")


if __name__ == "__main__":
    main()
