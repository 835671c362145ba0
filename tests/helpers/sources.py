"""The package's own sources, parsed once for all rules about them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import zoomrt

PACKAGE = Path(zoomrt.__file__).parent


SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
TESTS_FOLDER = Path(__file__).parents[1]
TESTS = {str(path): path.read_text(encoding="utf-8") for path in TESTS_FOLDER.rglob("*.py")}

parsed = functools.cache(ast.parse)
"""Once for all rules."""


def broken(rule: Callable[[str], Iterable[str]]) -> dict[str, set[str]]:
    """Source -> what a rule finds in it, of the sources in which it finds anything."""
    return {name: found for name, source in SOURCES.items() if (found := set(rule(source)))}


def imported_names(source: str) -> Iterator[str]:
    """Dotted names that a source imports anywhere, `import_module("...")` included; `.` for any relative import."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "."
        elif isinstance(node, ast.ImportFrom) and node.module == "zoomrt":
            yield from (_home(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                yield str(node.args[0].value)


def _home(name: str) -> str:
    """Where a name taken from the package root really lives."""
    return zoomrt._HOMES.get(name, f"zoomrt.{name}")
