"""What is published for a family, as plain data: files, where they are, how large, under which licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from zoomrt.errors import UsageError, unknown_name


@dataclass(frozen=True)
class Licence:
    """A licence by name, and where it can be read. commercial : whether what it covers may be used commercially."""

    name: str
    url: str
    commercial: bool = True


@dataclass(frozen=True)
class Repository:
    """A model repository of the Hugging Face hub. revision : a branch, or the 40 digits of a commit."""

    name: str
    revision: str = "main"


@dataclass(frozen=True)
class PublishedFile:
    """One file.

    place : its path in a repository of the hub, or its whole https URL.
    size : bytes, where known. sha256 : in hex, where known; the hub tells both for its own files.
    unless : the key of an option with which it is not needed.
    """

    place: str
    size: int | None = None
    sha256: str = ""
    unless: str = ""

    @property
    def name(self) -> str:
        """The last part of its place."""
        return urlsplit(self.place).path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What stands for one option of a family: a file, or with `folder` a folder of several.

    key : `weights`, or the option's name with underscores.
    repositories : that have all of the files, the first being asked first; none for files that have URLs.
    when : an option's key and the value with which this is what is needed; any value for None.
    """

    key: str
    files: tuple[PublishedFile, ...]
    licence: Licence
    repositories: tuple[Repository, ...] = ()
    folder: bool = False
    when: tuple[str, object] | None = None

    @property
    def name(self) -> str:
        """The file's name, or the repository's for a folder."""
        return self.repositories[0].name if self.folder else self.files[0].name

    @property
    def condition(self) -> str:
        """With which option this is what is needed, as typed; nothing where there is no such option."""
        key, value = self.when or ("", None)
        return f"--{key.replace('_', '-')} {'' if value is None else value}".strip() if key else ""

    def fits(self, given: Mapping[str, object]) -> bool:
        """Whether this is what these options call for."""
        if self.when is None:
            return True
        key, value = self.when
        return key in given and value in (None, given[key])


def one_file(
    place: str,
    licence: Licence,
    size: int | None = None,
    sha256: str = "",
    *,
    key: str = "weights",
    repository: str = "",
    when: tuple[str, object] | None = None,
) -> Published:
    """A file of its own, at a URL or in a repository of the hub."""
    repositories = (Repository(repository),) if repository else ()
    files = (PublishedFile(place, size, sha256),)
    return Published(key=key, files=files, licence=licence, repositories=repositories, when=when)


def fitting(
    published: Iterable[Published], given: Mapping[str, object], weights: str | None = None
) -> tuple[Published, ...]:
    """Of each option that was not given the first that fits those that were. weights : a checkpoint's name instead."""
    found: dict[str, Published] = {}
    for one in published:
        named = one.key != "weights" or weights is None or one.name == weights
        if one.key not in given and one.fits(given) and named:
            found.setdefault(one.key, one)
    return tuple(found.values())


def chosen(
    published: Iterable[Published], given: Mapping[str, object], weights: str | None = None
) -> tuple[Published, ...]:
    """What a build without --weights has to have, see `fitting`. given : the family's options by key.

    UsageError for a name that none has, and where the options call for no published checkpoint.
    """
    every = [one for one in published if one.key == "weights"]
    found = fitting(published, given, weights)
    if any(one.key == "weights" for one in found) or not every:
        return found
    names = [one.name for one in every if weights in (None, one.name)]
    if not names:
        raise unknown_name("published file", str(weights), [one.name for one in every])
    keys = {one.when[0] for one in every if one.when is not None and one.name in names}
    raise UsageError(
        "which published checkpoint to take is not told",
        seen=", ".join(f"--{key} {given[key]}" for key in keys if key in given) or "none of these options",
        needed=" or ".join(dict.fromkeys(one.condition for one in every if one.name in names)),
        remedy="Pass one of these, or --weights FILE.",
    )


def files_for(one: Published, given: Mapping[str, object]) -> tuple[PublishedFile, ...]:
    """The files of it that these options need."""
    return tuple(file for file in one.files if file.unless not in given)


def size_text(files: Iterable[PublishedFile]) -> str:
    """`67 MB`, `at least 5.2 GB` where some sizes are not known, `size unknown` where none is."""
    sizes = [file.size for file in files]
    total = sum(size for size in sizes if size is not None)
    if not total:
        return "size unknown"
    text = f"{total / 1e9:.1f} GB" if total >= 1e9 else f"{max(total / 1e6, 0.1):.{0 if total >= 1e7 else 1}f} MB"
    large = [size for file, size in zip(files, sizes, strict=True) if not file.place.endswith((".json", ".txt"))]
    return f"at least {text}" if None in large else text
