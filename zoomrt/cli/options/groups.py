"""Help in groups: an option says which it is of, and each group has a heading of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])
_SHARED = "Every command"


class GroupedOption(click.Option):
    """group : the heading that it stands under in --help."""

    def __init__(self, *args: Any, group: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


def in_group(group: str) -> Callable[..., Callable[[_F], _F]]:
    """`click.option` for an option of that group."""
    return partial(click.option, cls=GroupedOption, group=group)


class GroupedCommand(click.Command):
    """A command whose help has a section for each group, in the order in which they begin; what has none comes last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        groups: dict[str, list[tuple[str, str]]] = {}
        shared = []
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is None:
                continue
            if isinstance(param, GroupedOption):
                groups.setdefault(param.group, []).append(record)
            else:
                shared.append(record)
        for group, records in {**groups, _SHARED if groups else "Options": shared}.items():
            with formatter.section(group):
                formatter.write_dl(records)
