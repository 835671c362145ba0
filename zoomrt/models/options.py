"""The options that single families have: a second file, a prompt, a strength; what they take, and what was given.

A family's record lists them, and the command line, the checks and the cache key follow from there. Values travel as a
plain mapping from `Option.key`; what was not given is not in it. Needs no torch: a cached build loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from zoomrt.errors import CheckpointError, UsageError, unknown_name
from zoomrt.files import exists, is_file, is_folder, sha256_of, shown, size_of, walk

Values = Mapping[str, object]
"""By `Option.key`: paths, texts and numbers, as their kinds have it."""


@dataclass(frozen=True)
class Text:
    """Any text."""

    needed: str = "a text"

    def fits(self, value: object) -> bool:
        """Whether it is one."""
        return isinstance(value, str)


@dataclass(frozen=True)
class Choice:
    """One of a few names."""

    names: tuple[str, ...]

    @property
    def needed(self) -> str:
        """What it takes, in words."""
        return "one of " + ", ".join(self.names)

    def fits(self, value: object) -> bool:
        """Whether it is one of the names."""
        return value in self.names


@dataclass(frozen=True)
class Whole:
    """A whole number from `low` to `high`."""

    low: int
    high: int

    @property
    def needed(self) -> str:
        """What it takes, in words."""
        return f"a whole number from {self.low} to {self.high}"

    def fits(self, value: object) -> bool:
        """Whether it is one of these."""
        return type(value) is int and self.low <= value <= self.high


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`; only what is above `low` with `above`."""

    low: float
    high: float
    above: bool = False

    @property
    def needed(self) -> str:
        """What it takes, in words."""
        return (
            f"a number above {self.low}, up to {self.high}"
            if self.above
            else f"a number from {self.low} to {self.high}"
        )

    def fits(self, value: object) -> bool:
        """Whether it is one of these; neither inf nor nan is."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.low <= value <= self.high and (value > self.low or not self.above)


@dataclass(frozen=True)
class File:
    """A file that is read into memory whole."""

    needed: str = "a file"

    def fits(self, value: object) -> bool:
        """Whether it is a path; what is there is checked apart."""
        return isinstance(value, Path)

    def read(self, path: Path, values: Values) -> list[Path]:  # noqa: ARG002
        """The files that a build reads, for the cache key; of a folder, all of it. values : the other options too."""
        return [*walk(path, CheckpointError)] if is_folder(path, CheckpointError) else [path]

    def held(self, path: Path) -> list[Path]:
        """Of these, the ones whose tensors are held in memory at once."""
        return [path]


Kind = Text | Choice | Whole | Number | File


@dataclass(frozen=True)
class Option:
    """One option of one family. Families whose options have the same name mean the same by it.

    name : as typed after `--`. help : a clause. default : what is taken where it is left out, in words.
    required : what it must hold, in words, where no build can do without it.
    excludes : the name of an option that says the same in another way.
    """

    name: str
    help: str
    kind: Kind = Text()
    default: str = ""
    required: str = ""
    excludes: str = ""

    @property
    def flag(self) -> str:
        """As typed."""
        return f"--{self.name}"

    @property
    def key(self) -> str:
        """Its name in a mapping of values, and of the argument of the function that builds the network."""
        return self.name.replace("-", "_")

    def check(self, value: object) -> None:
        """UsageError for a value of another kind, CheckpointError for a path where nothing is."""
        if isinstance(self.kind, Choice) and isinstance(value, str) and not self.kind.fits(value):
            raise unknown_name(self.name, value, self.kind.names)
        if not self.kind.fits(value):
            remedy = f"Change {self.flag}, or leave it out."
            raise UsageError(f"cannot use {self.flag}", seen=repr(value), needed=self.kind.needed, remedy=remedy)
        if isinstance(value, Path) and not exists(value, CheckpointError):
            raise CheckpointError(
                f"cannot find what {self.flag} names",
                seen=f"nothing at {shown(value)}",
                needed=self.kind.needed,
                remedy="Check the path; the model's page in docs/models/ says where it is published.",
            )


def given(**values: object) -> dict[str, object]:
    """Those that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def fingerprint(options: Iterable[Option], values: Values) -> dict[str, str]:
    """Each value by content: text and numbers as they are, files by SHA-256, whatever their place.

    Raises CheckpointError for a file that cannot be read.
    """
    kinds = {option.key: option.kind for option in options}
    return {key: _content(kinds[key], value, values) for key, value in values.items()}


def _content(kind: Kind, value: object, values: Values) -> str:
    if not isinstance(kind, File) or not isinstance(value, Path):
        return repr(value)
    if is_file(value, CheckpointError):
        return sha256_of(value, CheckpointError)
    files = kind.read(value, values)
    return " ".join(f"{file.relative_to(value).as_posix()}:{sha256_of(file, CheckpointError)}" for file in files)


def stored_bytes(weights: Path | None, options: Iterable[Option], values: Values) -> int:
    """Size of the weights files that a build reads; a missing one counts nothing here, loading will say so.

    Raises CheckpointError where the system will not say.
    """
    paths = [] if weights is None else [weights]
    for option in options:
        value = values.get(option.key)
        if isinstance(option.kind, File) and isinstance(value, Path):
            paths += option.kind.held(value)
    return sum(size_of(path, CheckpointError) for path in paths if is_file(path, CheckpointError))
