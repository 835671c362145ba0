"""Numbers on the command line: an option that takes one tells its range in --help and takes nothing else.

click's own types and Python's parsers let through inf, nan, 1_000 and digits of other scripts, and a fraction such as
1e30000000 takes hours to compute. Here a number is plain digits within a range, or one line and exit code 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

from zoomrt.errors import UsageError
from zoomrt.runtime.resources import MAX_THREADS

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")
_SHOWN = 60
"""Characters of a value that an error shows."""


def whole(text: str, low: int, high: int) -> int:
    """A whole number in plain digits, from `low` to `high`. Raises ValueError."""
    if not _WHOLE.fullmatch(text) or not low <= (value := int(text)) <= high:
        raise ValueError(text)
    return value


def number(text: str, low: float, high: float) -> float:
    """A number such as 2, 0.5 or 1e-3, from `low` to `high`. Raises ValueError."""
    if not _NUMBER.fullmatch(text) or not low <= (value := float(text)) <= high:
        raise ValueError(text)
    return value


def fraction(text: str, low: float, high: float) -> Fraction:
    """An exact number, such as 29.97 or 30000/1001, from `low` to `high`. Raises ValueError."""
    above, slash, below = text.partition("/")
    if slash and _WHOLE.fullmatch(above) and _WHOLE.fullmatch(below) and int(below) > 0:
        value = Fraction(int(above), int(below))
    elif _NUMBER.fullmatch(text):
        value = Fraction(text)
    else:
        raise ValueError(text)
    if not low <= value <= high:
        raise ValueError(text)
    return value


class _Strict:
    """A type of an option: `parse` takes the text or raises ValueError, `needed` says what it takes."""

    needed: str

    def parse(self, text: str) -> object:
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ARG002
        if not isinstance(value, str):  # a default
            return value
        try:
            return self.parse(value)
        except ValueError as cause:
            option = max(param.opts, key=len) if param is not None else "this value"
            raise bad_value(option, value, self.needed) from cause


class Whole(_Strict, click.IntRange):
    """A whole number from `low` to `high`."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__(low, high)
        self.low, self.high = low, high
        self.needed = f"a whole number from {low} to {high}"

    def parse(self, text: str) -> int:
        return whole(text, self.low, self.high)


class Number(_Strict, click.FloatRange):
    """A number from `low` to `high`; only what is above `low` with `above`."""

    def __init__(self, low: float, high: float, *, above: bool = False) -> None:
        super().__init__(low, high, min_open=above)
        self.low, self.high, self.above = low, high, above
        self.needed = f"a number above {low}, up to {high}" if above else f"a number from {low} to {high}"

    def parse(self, text: str) -> float:
        found = number(text, self.low, self.high)
        if self.above and found == self.low:
            raise ValueError(text)
        return found


class Parsed(_Strict, click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.5
    """A text with numbers in it. read : text -> value, raises ValueError. needed : what it takes."""

    name = "text"

    def __init__(self, read: Callable[[str], object], needed: str) -> None:
        self._read, self.needed = read, needed

    def parse(self, text: str) -> object:
        return self._read(text)


THREADS = Whole(1, MAX_THREADS)


def bad_value(option: str, seen: str, needed: str, remedy: str = "See --help.") -> UsageError:
    """What an option raises for a value that it cannot use."""
    shown = repr(seen) if len(seen) <= _SHOWN else f"{seen[:_SHOWN]!r} and so on, {len(seen)} characters"
    return UsageError(f"cannot use {option}", seen=shown, needed=needed, remedy=remedy)
