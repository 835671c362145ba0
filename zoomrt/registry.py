"""A table of things that can be added: those of the package, those of installed packages, and those added by hand.

One record per thing; nothing else lists it. Names are told without importing what they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, Protocol, TypeVar

from zoomrt.errors import MissingDependency, unknown_name


class Named(Protocol):
    """What a record must have."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(Generic[T]):
    """Records by name.

    kind : for messages, such as "backend".
    group : entry points by which other packages bring records, such as "zoomrt.backends"; each names a record.
    own : names of those of the package. load : the record of one of them.
    """

    def __init__(self, kind: str, group: str, own: Callable[[], Iterable[str]], load: Callable[[str], T]) -> None:
        self._kind, self._group, self._own, self._load = kind, group, own, load
        self._added: dict[str, T] = {}

    def names(self) -> tuple[str, ...]:
        """The package's own first, then others'."""
        return tuple(dict.fromkeys([*self._own(), *entry_points_of(self._group), *self._added]))

    def named(self, name: str) -> T:
        """The record of that name; UsageError with near names otherwise."""
        if name in self._added:
            return self._added[name]
        if name in self._own():
            return self._load(name)
        if name in (others := entry_points_of(self._group)):
            return self._brought(name, others[name])
        raise unknown_name(self._kind, name, self.names())

    def _brought(self, name: str, point: EntryPoint) -> T:
        """The record of an installed package. Raises MissingDependency where there is none of that name."""
        try:
            record: T = point.load()
            if record.name != name:
                raise AttributeError(f"its name is {record.name!r}")
        except Exception as cause:  # another package's code: it may raise anything
            raise MissingDependency(
                f"the {self._kind} {name} of an installed package cannot be had",
                seen=f"{type(cause).__name__}: {cause}",
                needed=f"a record of that name at {point.value}",
                remedy="Update or uninstall that package.",
            ) from cause
        return record

    def outside(self) -> tuple[T, ...]:
        """Those that are not the package's own."""
        return tuple(self.named(name) for name in self.names() if name in self._added or name not in self._own())

    def records(self) -> tuple[T, ...]:
        """All. Raises MissingDependency for one that an installed package cannot bring: nothing is quietly left out."""
        return tuple(self.named(name) for name in self.names())

    @contextmanager
    def added(self, record: T) -> Iterator[T]:
        """The record is in the table for the length of a with-block, in the place of another of its name."""
        before = self._added
        self._added = {**before, record.name: record}
        try:
            yield record
        finally:
            self._added = before


@cache
def entry_points_of(group: str) -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
