"""docs/api.md is what the docstrings say, and the docstrings say everything."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import ModuleType

import griffe
import pytest

import zoomrt

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def make_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def public() -> dict[str, griffe.Object]:
    """Public functions and classes, and the public methods of these."""
    package = griffe.load("zoomrt", search_paths=[ROOT], docstring_parser="numpy", resolve_aliases=True)
    found = {name: package[name].final_target for name in zoomrt.__all__ if name != "__version__"}
    for name, one in list(found.items()):
        if one.is_class:
            found |= {
                f"{name}.{member.name}": member
                for member in one.members.values()
                if not member.is_alias and not member.name.startswith("_") and member.is_function
            }
    return found


def test_the_page_is_current(make_api: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        page = make_api.page()
    assert not caplog.records, "docstrings that griffe cannot read"
    assert make_api.PAGE.read_text(encoding="utf-8") == page, "run `make api`"


def test_every_public_name_says_what_it_is(public: dict[str, griffe.Object]) -> None:
    assert not [name for name, one in public.items() if not one.docstring]


def test_every_parameter_that_a_user_gives_is_described(public: dict[str, griffe.Object]) -> None:
    """All of a function's, in its order, where its docstring describes any."""
    for name, one in public.items():
        sections = one.docstring.parsed if one.docstring else []
        told = [item.name for part in sections if part.kind.value == "parameters" for item in part.value]
        if one.is_function and told:
            taken = [item.name for item in one.parameters if item.name not in ("self", "cls")]
            assert sorted(item.lstrip("*") for item in told) == sorted(taken), name
