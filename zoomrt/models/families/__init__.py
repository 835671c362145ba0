"""The model families: the records in this folder, those that installed packages add, and those added by hand.

A file `x.py` here that ends in `FAMILY = Family(...)` adds a family; so does a package with an entry point in the group
`zoomrt.families` that names such a record, and `add`. Nothing else lists them. Needs no torch.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from zoomrt.errors import CheckpointError, MissingDependency, UsageError, unknown_name
from zoomrt.files import shown
from zoomrt.models.family import Family
from zoomrt.models.options import Option, Values

if TYPE_CHECKING:
    from zoomrt.models.checkpoint import Checkpoint

__all__ = ["add", "check", "families", "family_named", "family_names", "family_of", "options_of", "remove", "table"]

GROUP = "zoomrt.families"
_added: dict[str, Family] = {}


def families() -> tuple[Family, ...]:
    """Every family, by name."""
    found = {family.name: family for family in (*_shipped(), *_installed(), *_added.values())}
    return tuple(found[name] for name in sorted(found))


@cache
def _shipped() -> tuple[Family, ...]:
    return tuple(import_module(f"{__name__}.{module.name}").FAMILY for module in pkgutil.iter_modules(__path__))


@cache
def _installed() -> tuple[Family, ...]:
    """Raises MissingDependency where a package's record cannot be imported, UsageError where it takes a name that is
    another's."""
    found: list[Family] = []
    for point in entry_points(group=GROUP):
        try:
            family = point.load()
        except (ImportError, AttributeError) as cause:
            raise MissingDependency(
                f"the model family {point.name} of an installed package cannot be imported",
                seen=f"{type(cause).__name__}: {cause}",
                needed=f"a record at {point.value}",
                remedy="Update or uninstall that package.",
            ) from cause
        _check_new(family, (*_shipped(), *found))
        found.append(family)
    return tuple(found)


def add(family: Family) -> None:
    """Add a family for this process. UsageError if its name is another's."""
    _check_new(family, families())
    _added[family.name] = family


def remove(family: Family) -> None:
    """Take back one that was added."""
    del _added[family.name]


def _check_new(family: Family, others: tuple[Family, ...]) -> None:
    if family.name in {other.name for other in others}:
        raise UsageError(
            "two model families have the same name",
            seen=f"another {family.name}, built by {family.module}",
            needed="a name of its own",
            remedy="Rename the added one.",
        )


def family_names() -> tuple[str, ...]:
    """The names after `--model`, sorted."""
    return tuple(family.name for family in families())


def family_named(name: str) -> Family:
    """The family of that name; UsageError with near names otherwise."""
    found = {family.name: family for family in families()}
    if name not in found:
        raise unknown_name("model", name, found)
    return found[name]


def family_of(checkpoint: Checkpoint) -> Family:
    """The one family that recognises the checkpoint's keys; CheckpointError if none or several do."""
    found = [family for family in families() if family.recognises(checkpoint)]
    if len(found) == 1:
        return found[0]
    names = [family.name for family in found]
    if names:
        raise CheckpointError(
            f"weights {shown(checkpoint.path)} may be of several models",
            seen="keys that are the same in " + " and ".join(names),
            needed="the model's name",
            remedy=f"Pass {' or '.join(f'--model {name}' for name in names)}, whichever published the file.",
        )
    raise CheckpointError(
        f"cannot tell the model of weights {shown(checkpoint.path)}",
        seen=checkpoint.described,
        needed="the keys of one of " + ", ".join(family_names()),
        remedy="Name the model with --model, or check that this is the file its authors published.",
    )


def options_of(family: Family | None) -> tuple[Option, ...]:
    """A family's options; of all families, one of each name, where the weights' keys are to tell which it is."""
    if family is not None:
        return family.options
    return tuple({option.key: option for one in families() for option in one.options}.values())


def check(family: Family | None, values: Values) -> None:
    """UsageError for an option that the family has not, saying which have it, and as `Family.check`.

    family : None where the weights' keys are to tell it; then an option must be some family's.
    """
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}"
        having = {one.name: option for one in families() for option in one.options if option.key == key}
        if not having:
            raise unknown_name("option of a model", flag, (option.flag for option in options_of(family)))
        if family is None:
            next(iter(having.values())).check(value)
        elif family.name not in having:
            raise UsageError(
                f"model {family.name} does not take {flag}",
                seen=flag,
                needed=", ".join(option.flag for option in family.options) or "no options of its own",
                remedy=f"Leave it out; {flag} is of --model {' and '.join(having)}.",
            )
    if family is not None:
        family.check(values)


def table() -> list[str]:
    """What there is to choose from, as lines of text: size, work, steps, licence, and whether there are weights."""
    rows = [("model", "variant", "scale", "parameters", "GMAC at 512", "steps", "licence", "status")]
    rows += [
        (
            family.name,
            variant.name,
            f"x{variant.scale}",
            f"{variant.parameters / 1e6:.1f} M",
            f"{variant.gmac:,.1f}",
            str(variant.steps),
            variant.licence,
            variant.status,
        )
        for family in families()
        for variant in family.variants
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = {2, 3, 4, 5}  # columns that are set flush right
    return [
        "  ".join(
            cell.rjust(w) if i in numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
