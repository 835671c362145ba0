"""Limits on lines, arguments and entries of a folder."""

from __future__ import annotations

import ast
from pathlib import Path

from sources import PACKAGE, SOURCES, TESTS, TESTS_FOLDER, broken, parsed

MOST_ENTRIES = 16
"""In one folder of the package or of the tests: about a dozen, and its `__init__.py` or `conftest.py`."""


def test_no_folder_is_full() -> None:
    tested = {Path(name).parent for name in TESTS} - {TESTS_FOLDER}
    for folder in {(PACKAGE / name).parent for name in SOURCES} | tested:
        entries = [entry for entry in folder.iterdir() if entry.name != "__pycache__"]
        assert len(entries) <= MOST_ENTRIES, folder


MOST_LINES = 400
"""Of a file."""
MOST_LINES_OF_A_FUNCTION = 60
"""Its docstring left out."""
MOST_POSITIONAL = 6
"""Arguments without a name, of a definition or a call."""
CALLED_BY_NAME = ("click.command", "cli.command", "triton.jit")
"""Decorators of functions whose arguments are options, or those of a kernel, which has no records."""
STILL_TOO_LARGE = {
    "export/recording.py": {"too many arguments to Operation"},
    "kernels/attention.py": {
        "too many arguments to require_tensors",
        "attention is too long",
        "attention takes too many arguments",
    },
    "kernels/tile_blend.py": {"too many arguments to require_tensors"},
    "kernels/tile_gather.py": {"too many arguments to frame_arguments", "frame_arguments takes too many arguments"},
}
"""What is left of the time before these limits. It may only shrink: what is mended must go from here too."""


def too_large(source: str) -> set[str]:
    """Where a source breaks one of the limits on lines and arguments."""
    found = {"too long"} if source.count("\n") > MOST_LINES else set()
    kernels: set[ast.AST] = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef):
            called_by_name = any(ast.unparse(one).startswith(CALLED_BY_NAME) for one in node.decorator_list)
            if called_by_name:
                kernels.update(ast.walk(node))
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) else 0
            if node.end_lineno - node.lineno + 1 - docstring > MOST_LINES_OF_A_FUNCTION:
                found.add(f"{node.name} is too long")
            names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
            count = len(names) - (names[:1] in (["self"], ["cls"]))
            if count > MOST_POSITIONAL and not called_by_name:
                found.add(f"{node.name} takes too many arguments")
        elif isinstance(node, ast.Call) and node not in kernels and len(node.args) > MOST_POSITIONAL:
            name = ast.unparse(node.func)
            if name != "struct.pack":
                found.add(f"too many arguments to {name}")
    return found


def test_files_functions_and_calls_are_small() -> None:
    assert broken(too_large) == STILL_TOO_LARGE


def test_what_is_too_large_is_seen() -> None:
    long = "def f(a, b, c, d, e, f, g):\n" + 60 * "    g(1, 2, 3, 4, 5, 6, 7)\n"
    assert too_large(long) == {"f is too long", "f takes too many arguments", "too many arguments to g"}
    assert too_large("class A:\n    def f(self, a, b, c, d, e, f): ...\n") == set()
    assert too_large("\n" * 401) == {"too long"}
