"""The options that single model families have, made from their records.

All of them are understood, so that a wrong one is answered with the families that have it; --help shows those of the
family after --model, and without one it says how to see them.
"""

from __future__ import annotations

from typing import Any

import click

from zoomrt.cli._common import ANY_PATH
from zoomrt.cli.options import numbers
from zoomrt.cli.options.groups import GroupedCommand, GroupedOption
from zoomrt.models.families import FAMILIES, options_of
from zoomrt.models.family import Family
from zoomrt.models.options import File, Number, Option, Whole

AUTO = "auto"
"""After --model: what the weights' keys say."""
_FAMILY = "zoomrt.family"


class FamilyCommand(GroupedCommand):
    """A command that receives the options of a family as one mapping more, `options`, see `models.options.Values`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find --model, then parse. Raises UsageError for a name that is no family's."""
        words, _, _ = self.make_parser(ctx).parse_args(list(args))
        name = words.get("model")
        ctx.meta[_FAMILY] = None if name in (None, AUTO) else FAMILIES.named(name)
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own, then those of the families; only the chosen family's are shown."""
        family: Family | None = ctx.meta.get(_FAMILY)
        shown = options_of(family) if family else ()
        hidden = [option for option in options_of(None) if option.key not in {one.key for one in shown}]
        group = f"Model {family.name}" if family else ""
        extra = [_parameter(option, group) for option in shown] + [_parameter(option) for option in hidden]
        return [*super().get_params(ctx), *extra]

    def invoke(self, ctx: click.Context) -> Any:
        """Gather what was given of the families' options."""
        keys = [option.key for option in options_of(None)]
        values = {key: ctx.params.pop(key) for key in keys}
        ctx.params["options"] = {key: value for key, value in values.items() if value is not None}
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """How to see the options of a family, where none is shown."""
        if ctx.meta.get(_FAMILY) is None:
            having = ", ".join(family.name for family in FAMILIES.records() if family.options)
            with formatter.section("Options of one model"):
                formatter.write_text(f"See trt-build --model NAME --help, where NAME is one of {having}.")


def _parameter(option: Option, group: str = "") -> click.Option:
    """For the command line. group : the heading that it is shown under; hidden if left out."""
    words = option.help[0].upper() + option.help[1:]
    default = f"; {option.default} if left out" if option.default else ""
    return GroupedOption(
        [option.flag], type=_type(option), help=f"{words}{default}.", group=group, hidden=not group, default=None
    )


def _type(option: Option) -> click.ParamType | None:  # type: ignore[type-arg]  # not generic before click 8.5
    kind = option.kind
    if isinstance(kind, File):
        return ANY_PATH
    if isinstance(kind, Whole):
        return numbers.Whole(kind.low, kind.high)
    if isinstance(kind, Number):
        return numbers.Number(kind.low, kind.high, above=kind.above)
    return None  # a text, whose choice is checked with the record
