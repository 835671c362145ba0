"""Every random number comes from a seed: the package's from one of its own, a test's from the seed that the run prints.

Held against the sources by parsing them, and by a run of pytest on a file of its own.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import kept_exports
import pytest
import seeds

import zoomrt

PACKAGE = Path(zoomrt.__file__).parent
HERE = Path(__file__).parent

NEEDS_A_SEED = {"MT19937", "PCG64", "Philox", "Random", "RandomState", "SeedSequence", "default_rng"}
SYSTEM = {"os.urandom", "random.SystemRandom", "uuid.uuid4"}
PYTHONS = re.compile(r"random\.[a-z]\w*")
NUMPYS = re.compile(r"(np|numpy)\.random\.(?!default_rng)[a-z]\w*")
TORCHS = re.compile(r"torch\.(bernoulli|multinomial|normal|rand\w*)")


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a chain of names; `?.c` where it begins with anything else."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def unseeded(source: str) -> Iterator[str]:
    """Draws that no seed makes again, wherever they stand."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = dotted(node.func)
            if function.rpartition(".")[2] in NEEDS_A_SEED:
                given = [ast.unparse(one) for one in (*node.args, *node.keywords)]
                yield from [function] if given in ([], ["None"]) else []
        elif isinstance(node, ast.Attribute):
            name = dotted(node)
            if NUMPYS.fullmatch(name) or name in SYSTEM or name.startswith("secrets."):
                yield name
        elif isinstance(node, ast.ImportFrom) and node.module in ("numpy.random", "random", "secrets"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if alias.name != "Generator")


def left_to_chance_in_the_package(source: str) -> list[str]:
    """Also whatever draws from generators that a whole process shares; the name of a scratch file may be a secret."""
    faults = [name for name in unseeded(source) if name != "secrets.token_hex"]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            faults += [f"import {alias.name}" for alias in node.names if alias.name == "random"]
        elif isinstance(node, ast.Call) and "generator" not in {keyword.arg for keyword in node.keywords}:
            faults += [name for name in [dotted(node.func)] if TORCHS.fullmatch(name)]
    return faults


def left_to_chance_in_a_test(source: str) -> list[str]:
    """Python's and torch's own generators are seeded where a test or a fixture runs (`conftest.py`): not while a file
    is imported, and torch's only if it was imported before."""
    module = ast.parse(source)
    faults = list(unseeded(source))
    early = {id(node) for node in _run_on_import(module)}
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and id(node) in early:
            function = dotted(node.func)
            if TORCHS.fullmatch(function) or PYTHONS.fullmatch(function):
                faults.append(function)
        elif isinstance(node, ast.Import) and id(node) not in early:
            faults += [f"import {alias.name}" for alias in node.names if alias.name == "torch"]
    return faults


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one that are not in the body of a function."""
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, (ast.FunctionDef, ast.Lambda)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from _run_on_import(child)


def broken(rule: Callable[[str], Iterable[str]], folder: Path) -> dict[str, list[str]]:
    """Source -> what a rule finds in it, of the sources below a folder in which it finds anything."""
    found = {path: list(rule(path.read_text(encoding="utf-8"))) for path in sorted(folder.rglob("*.py"))}
    return {path.relative_to(folder).as_posix(): faults for path, faults in found.items() if faults}


def test_the_package_leaves_nothing_to_chance() -> None:
    assert broken(left_to_chance_in_the_package, PACKAGE) == {}


def test_the_tests_leave_nothing_to_chance() -> None:
    """But for where the seed of a run comes from, and a fixture that seeds torch by itself."""
    assert broken(left_to_chance_in_a_test, HERE) == {"conftest.py": ["os.urandom", "import torch"]}


@pytest.mark.parametrize(
    "source",
    [
        "np.random.default_rng()",
        "np.random.default_rng(None)",
        "numpy.random.Philox()",
        "def f():\n    np.random.rand(3)",
        "numpy.random.seed(1)",
        "from numpy.random import default_rng",
        "random.Random()",
        "random.SystemRandom().random()",
        "from random import choice",
        "secrets.randbits(8)",
        "from secrets import randbits",
        "torch.manual_seed(int.from_bytes(os.urandom(4), 'little'))",
    ],
)
def test_a_draw_without_a_seed_is_seen(source: str) -> None:
    assert left_to_chance_in_the_package(source)
    assert left_to_chance_in_a_test(source)


@pytest.mark.parametrize("source", ["import random", "def f():\n    return torch.randn(3)", "x = torch.normal(a, b)"])
def test_a_draw_from_the_generators_of_the_process_is_seen_in_the_package(source: str) -> None:
    assert left_to_chance_in_the_package(source)


@pytest.mark.parametrize(
    "source",
    [
        "x = random.choice([1, 2])",
        "WEIGHTS = {'a': torch.randn(3)}",
        "@pytest.mark.parametrize('x', [random.random()])\ndef test_x(x): pass",
        "def f(x=torch.rand(1)): pass",
        "class A:\n    x = torch.randint(3, (1,))",
        "def f():\n    import torch",
        "secrets.token_hex(4)",
    ],
)
def test_a_draw_where_no_test_runs_is_seen_in_a_test(source: str) -> None:
    assert left_to_chance_in_a_test(source)


def test_draws_that_a_seed_makes_again_are_let_through() -> None:
    both = "x = np.random.default_rng(seed), random.Random(7), np.random.Generator(np.random.Philox(3))"
    assert left_to_chance_in_the_package(f"{both}\nsecrets.token_hex(4)\ntorch.randn(3, generator=g)") == []
    assert left_to_chance_in_a_test(f"{both}\nimport torch\ndef f():\n    return torch.randn(3), random.random()") == []


DRAWING = """
import json, os, random
from pathlib import Path
import pytest, torch
from hypothesis import given, strategies as st
from seeds import rng_for

AT_IMPORT = rng_for("at import").random()
HERE = Path(__file__).parent

@pytest.fixture(scope="module")
def shared(rng_for):
    return [random.random(), torch.rand(1).item(), rng_for("shared").random()]

def note(name, *values):
    with (HERE / os.environ["RUN"]).open("a") as file:
        file.write(json.dumps([name, *values]) + "\\n")

@pytest.mark.parametrize("case", [1, 2])
def test_one(case, rng, request):
    note(f"one {case}", rng.random(), random.random())
    note(f"one {case} late", request.getfixturevalue("shared"), random.random(), torch.rand(1).item())

def test_two(shared, rng):
    note("two", shared, AT_IMPORT, rng.random(), random.random(), torch.rand(1).item())

@given(st.integers(0, 10**9))
def test_three(number):
    note("three", number)
"""


RUNS = """
import json, os, sys
import hypothesis, pytest, torch

for os.environ["RUN"], words in json.loads(sys.argv[1]).items():
    if (child := os.fork()) == 0:
        sys.stdout.flush()
        os._exit(pytest.main(["-q", "-p", "no:cacheprovider", *words]))
    if os.waitpid(child, 0)[1]:
        sys.exit(os.environ["RUN"])
"""
"""Runs pytest with the words of each run, in a fork of a process that has loaded what is slow to load."""


def test_a_seed_draws_the_same_again(tmp_path: Path) -> None:
    """Alone, in another order, in a worker process: and another seed draws otherwise."""
    for path in (HERE / "conftest.py", Path(kept_exports.__file__), Path(seeds.__file__)):
        shutil.copy(path, tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n", encoding="utf-8")
    (tmp_path / "test_drawing.py").write_text(DRAWING, encoding="utf-8")

    tests = ["test_three", "test_two", "test_one[2]", "test_one[1]"]
    runs = {
        "whole": ["--seed=5"],
        "otherwise": ["--seed=5", "-n1", *(f"test_drawing.py::{name}" for name in tests)],
        "alone": ["--seed=5", "test_drawing.py::test_one[2]"],
        "other": ["--seed=6"],
    }
    line = [sys.executable, "-c", RUNS, json.dumps(runs)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    def drawn(run: str) -> dict[str, list[object]]:
        found: dict[str, list[object]] = {}
        for name, *values in map(json.loads, (tmp_path / run).read_text(encoding="utf-8").splitlines()):
            found.setdefault(name, []).append(values)
        return found

    whole = drawn("whole")
    assert set(whole) == {"one 1", "one 1 late", "one 2", "one 2 late", "two", "three"}
    assert whole["one 1"] != whole["one 2"]
    assert drawn("otherwise") == whole
    assert drawn("alone") == {name: whole[name] for name in ("one 2", "one 2 late")}
    assert all(drawn("other")[name] != values for name, values in whole.items())
