"""The model families: the records in this folder, those that installed packages add, and those added by hand.

A file `x.py` here that ends in `FAMILY = Family(...)` adds a family; so does a package with an entry point in the group
`zoomrt.families` that names such a record, and `FAMILIES.added`. Nothing else lists them. Needs no torch.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from zoomrt.errors import CheckpointError, UsageError, unknown_name
from zoomrt.files import sha256_of, shown
from zoomrt.models.family import Family
from zoomrt.models.options import Option, Values
from zoomrt.registry import Registry

if TYPE_CHECKING:
    from zoomrt.models.checkpoint import Checkpoint


@cache
def _own() -> tuple[str, ...]:
    return tuple(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def _load(name: str) -> Family:
    family: Family = import_module(f"{__name__}.{name.replace('-', '_')}").FAMILY
    return family


FAMILIES: Registry[Family] = Registry("model", "zoomrt.families", _own, _load)


def family_of(checkpoint: Checkpoint) -> Family:
    """The one family that recognises the checkpoint's keys; CheckpointError if none or several do."""
    found = [family for family in FAMILIES.records() if family.recognises(checkpoint)]
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
        needed="the keys of one of " + ", ".join(FAMILIES.names()),
        remedy="Name the model with --model, or check that this is the file its authors published.",
    )


def options_of(family: Family | None) -> tuple[Option, ...]:
    """A family's options; of all families, one of each name, where the weights' keys are to tell which it is."""
    if family is not None:
        return family.options
    return tuple({option.key: option for one in FAMILIES.records() for option in one.options}.values())


def check(family: Family | None, values: Values) -> None:
    """UsageError for an option that the family has not, saying which have it, and as `Family.check`.

    family : None where the weights' keys are to tell it; then an option must be some family's.
    """
    for key, value in values.items():
        flag = f"--{key.replace('_', '-')}"
        having = {one.name: option for one in FAMILIES.records() for option in one.options if option.key == key}
        if not having:
            raise unknown_name("option of a model", flag, (option.flag for option in options_of(None)))
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


def outside_code(family: Family | None) -> dict[str, str]:
    """What a build depends on besides this package: the record and the module of a family that came from outside; of
    all of those where the weights' keys are to tell the family.

    Raises UsageError for a module that is not there.
    """
    outside = [one for one in FAMILIES.outside() if family in (None, one)]
    return {one.name: f"{one!r} {_digest(one.module)} {_weights(one)}" for one in outside}


def _weights(family: Family) -> str:
    return sha256_of(family.embedded_weights) if family.embedded_weights else ""


def _digest(module: str) -> str:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:  # the package above it
        spec = None
    if spec is None or spec.origin is None:
        raise UsageError("a model family has no network", seen=f"no {module}", needed="its file", remedy="Install it.")
    return sha256_of(spec.origin)
