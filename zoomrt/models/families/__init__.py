"""The model families, one file each. Adding a file adds a family; nothing is listed by hand."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

from zoomrt.errors import CheckpointError, unknown_name
from zoomrt.files import shown

if TYPE_CHECKING:
    from zoomrt.models.checkpoint import Checkpoint
    from zoomrt.models.family import Family

__all__ = ["family_named", "family_names", "family_of"]


def family_names() -> tuple[str, ...]:
    """The names after `--model`, sorted; read from the file names, so torch is not imported."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def family_named(name: str) -> Family:
    """The family of that name; UsageError with near names otherwise."""
    if name not in family_names():
        raise unknown_name("model", name, family_names())
    family: Family = import_module(f"{__name__}.{name.replace('-', '_')}").FAMILY
    return family


def family_of(checkpoint: Checkpoint) -> Family:
    """The one family that recognises the checkpoint's keys; CheckpointError if none or several do."""
    found = [family for name in family_names() if (family := family_named(name)).recognises(checkpoint)]
    if len(found) == 1:
        return found[0]
    names = [family.facts.name for family in found]
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
