"""Writes docs/api.md, the reference of the public names, from their docstrings. Run by `make api`.

griffe reads the sources and parses numpydoc; nothing is imported but the list of names.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import griffe

import zoomrt

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "api.md"
HEAD = """# The public names

All of it is `import zoomrt`. Made from the docstrings by `make api`; change those, not this page.

A size is (width, height) in pixels, in every parameter. A shape is numpy's, (height, width, ...). Fractions of a frame
are (x, y). Every error is in the tree of [errors.md](errors.md) and below `ZoomrtError`.
"""


def page() -> str:
    """What docs/api.md is to hold."""
    package = griffe.load("zoomrt", search_paths=[ROOT], docstring_parser="numpy", resolve_aliases=True)
    names = [name for name in zoomrt.__all__ if name != "__version__"]
    errors = [name for name in names if issubclass(_class(name), zoomrt.ZoomrtError)]
    functions = [name for name in names if inspect.isfunction(getattr(zoomrt, name))]
    groups = (("Functions", functions), ("Classes", sorted({*names} - {*functions, *errors})), ("Errors", errors))
    lines = [HEAD]
    for title, members in groups:
        lines += [f"## {title}", ""]
        for name in members:
            lines += _described(package[name].final_target if package[name].is_alias else package[name], name, 3)
    return "\n".join(lines).rstrip() + "\n"


def _class(name: str) -> type:
    found = getattr(zoomrt, name)
    return found if isinstance(found, type) else object


def _described(one: griffe.Object, name: str, level: int) -> Iterator[str]:
    """A heading, a signature if there is one to call, the docstring, and then the members."""
    sections = one.docstring.parsed if one.docstring else []
    signature = _signature(one, sections)
    yield from (f"{'#' * level} {name}", "")
    if signature:
        yield from ("```py", f"{name.rpartition('.')[2]}{signature}", "```", "")
    for section in sections:
        if signature or section.kind.value != "parameters":
            yield from _section(section)
    if one.is_class and not issubclass(_class(one.name), Exception):
        members = [member for member in one.members.values() if not member.is_alias and not member.name.startswith("_")]
        told = _parameter_names(sections)
        attributes = [member for member in members if member.is_attribute and member.name not in told]
        if attributes:
            yield from ("**Attributes**", "", *map(_attribute, attributes), "")
        for member in members:
            if member.is_function:
                yield from _described(member, f"{name}.{member.name}", level + 1)


def _attribute(one: griffe.Object) -> str:
    text = " ".join(one.docstring.value.split()) if one.docstring else ""
    return f"* `{one.name}` (`{one.annotation}`)" + (f": {text}" if text else "")


def _parameter_names(sections: list[griffe.DocstringSection]) -> list[str]:
    return [item.name for part in sections if part.kind.value == "parameters" for item in part.value]


def _signature(one: griffe.Object, sections: list[griffe.DocstringSection]) -> str:
    """Of a function; of a class whose first parameter is described, for users make no other themselves."""
    if one.is_function:
        return f"{_parameters(one.parameters)} -> {one.returns}"
    parameters = [item for item in one.parameters if item.name != "self"] if one.is_class else []
    return _parameters(parameters) if parameters and parameters[0].name in _parameter_names(sections) else ""


def _parameters(parameters: griffe.Parameters | list[griffe.Parameter]) -> str:
    words, named = [], False
    for item in parameters:
        if item.name in ("self", "cls"):
            continue
        if item.kind is griffe.ParameterKind.keyword_only and not named:
            words.append("*")
            named = True
        rest = item.kind is griffe.ParameterKind.var_keyword
        text = f"{'**' * rest}{item.name}: {item.annotation}" if item.annotation else item.name
        words.append(text if item.default is None or rest else f"{text} = {item.default}")
    line = f"({', '.join(words)})"
    return line if len(line) <= 100 else "(\n" + "".join(f"    {word},\n" for word in words) + ")"


def _section(section: griffe.DocstringSection) -> Iterator[str]:
    kind = section.kind.value
    if kind == "text":
        yield from (section.value, "")
    elif kind == "examples":
        yield from ("```python", *(_typed(text) for _, text in section.value), "```", "")
    elif kind == "admonition":
        yield from (f"**{section.title or section.value.kind.title()}**", "", section.value.contents, "")
    else:
        yield from (f"**{kind.title()}**", "")
        for item in section.value:
            label = getattr(item, "name", "") or str(item.annotation)
            yield f"* `{label}`: {' '.join(item.description.split())}"
        yield ""


def _typed(text: str) -> str:
    """What is to be typed, without the prompts."""
    return "\n".join(line[4:] for line in text.splitlines())


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
