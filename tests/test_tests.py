"""Rules for the tests themselves: none imports another, and each says its numbers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sources import SOURCES, TESTS, imported_names, parsed


def imported_tests(source: str) -> set[str]:
    return {name for name in imported_names(source) if {"tests", "conftest"} & {*name.split(".")} or "test_" in name}


def test_no_test_imports_another() -> None:
    """What tests share is a helper or a fixture."""
    assert {name for name, source in TESTS.items() if imported_tests(source)} == set()


def test_an_import_of_a_test_is_seen() -> None:
    assert imported_tests("import test_a, torch\nfrom tests.helpers import b") == {"test_a", "tests.helpers"}


def numbers(source: str) -> set[str]:
    """Constants of a module whose value is one number, or arithmetic with numbers."""
    return {
        target.id
        for node in parsed(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.strip("_").isupper() and re.search(r"\d", ast.unparse(node.value))
        if not {type(part) for part in ast.walk(node.value)} & {ast.Attribute, ast.Call, ast.Dict, ast.Name, ast.Tuple}
        if not any(isinstance(part, ast.Constant) and isinstance(part.value, str) for part in ast.walk(node.value))
    }


def numbers_used(source: str, defined: dict[str, set[str]]) -> set[str]:
    """Numbers that a test takes from the module that it tests. defined : module -> its `numbers`."""
    modules, used = {}, set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                used |= {alias.name} & defined.get(node.module, set())
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used |= {node.attr} & defined.get(modules.get(node.value.id, ""), set())
    return used


def test_tests_say_their_numbers_themselves() -> None:
    """A number that a test takes from what it tests is right whatever it is."""
    defined = {f"zoomrt.{name[:-3].replace('/', '.')}": numbers(source) for name, source in SOURCES.items()}
    found = {name: numbers_used(source, defined) for name, source in TESTS.items() if "helpers" not in Path(name).parts}
    assert {name: used for name, used in found.items() if used} == {}


def test_a_number_taken_from_the_package_is_seen() -> None:
    assert numbers("A = 3\nB = 4 * 65_535\nC = 'x1'\nD = f(2)\ne = 5\nF = (1, 2.0)") == {"A", "B"}
    source = "from zoomrt.a import A, x\nfrom zoomrt import b\nassert b.B == b.c == 3"
    assert numbers_used(source, {"zoomrt.a": {"A"}, "zoomrt.b": {"B"}}) == {"A", "B"}
