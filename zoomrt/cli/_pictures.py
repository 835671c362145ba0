"""Which pictures a command line means, and where each result goes. Decided and checked before any work starts.

Pure path arithmetic: opens no picture and writes nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoomrt.errors import InputError, StorageError, UsageError, unknown_name
from zoomrt.files import entries, exists, is_file, is_folder, resolved, walk
from zoomrt.runtime.pictures.formats import NEW_ENDINGS, READABLE, WRITABLE, format_of


@dataclass(frozen=True)
class Job:
    """One picture to read and the file to write."""

    source: Path
    output: Path


@dataclass(frozen=True)
class _Found:
    """A picture and what decides its place below the output folder."""

    path: Path
    below: Path
    """Folder of the picture relative to the folder that was named; `.` for a picture named itself."""
    asked: bool
    """Named by the user, in contrast to met in a folder or by a pattern."""


def plan_jobs(
    words: Sequence[str], output: Path, *, format_name: str | None, suffix: str, recursive: bool
) -> list[Job]:
    """Map files, folders and glob patterns to jobs, in the order given, folders sorted by name.

    `output` is a file for a single picture if it ends like one, a folder otherwise.
    A picture met in a folder that is itself a result of this run (photos -> photos, --suffix _x4) is not an input.

    Raises UsageError for contradictions (two pictures to one file, a result over its own input) and InputError
    where nothing is found.
    """
    if format_name is not None and format_name not in NEW_ENDINGS:
        raise unknown_name("format", format_name, NEW_ENDINGS)
    if any(mark in suffix for mark in ("/", "\\", "\0")):
        raise UsageError(
            "cannot use --suffix", seen=repr(suffix), needed="part of a file name", remedy="Leave out '/'."
        )
    found = _unique([picture for word in words for picture in _expand(word, recursive)])
    if output.suffix.lower() in WRITABLE and not is_folder(output, StorageError):
        return _one_job(found, output, format_name)
    jobs = [Job(picture.path, _place(picture, output, format_name, suffix)) for picture in found]
    results = {_key(job.output) for job in jobs}
    kept = [
        job
        for job, picture in zip(jobs, found, strict=True)
        if picture.asked or _key(job.source) not in results - {_key(job.output)}
    ]
    _refuse_collisions(kept)
    return kept


def _expand(word: str, recursive: bool) -> list[_Found]:
    path = Path(word)
    if is_folder(path):
        inside = [p for p in (walk(path) if recursive else entries(path)) if _is_picture(p)]
        if not inside:
            remedy = "Name the files, or add --recursive." if not recursive else "Name a folder with pictures."
            raise InputError(f"no pictures in folder {word!r}", seen="none", needed=_suffixes(), remedy=remedy)
        return [_Found(p, p.parent.relative_to(path), asked=False) for p in inside]
    if glob.has_magic(word) and not exists(path):
        matches = [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        inside = [match for match in matches if _is_picture(match)]
        if not inside:
            remedy = "Check the pattern; files beginning with a dot are left out."
            raise InputError(f"no pictures match {word!r}", seen="none", needed=_suffixes(), remedy=remedy)
        return [_Found(match, Path(), asked=False) for match in inside]
    return [_Found(path, Path(), asked=True)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in READABLE and not path.name.startswith(".") and is_file(path)


def _suffixes() -> str:
    return "files that end in " + ", ".join(READABLE)


def _unique(found: list[_Found]) -> list[_Found]:
    """Each file once, at its first place; asked for if any of its mentions asks."""
    asked = {_key(picture.path) for picture in found if picture.asked}
    first: dict[str, _Found] = {}
    for picture in found:
        key = _key(picture.path)
        first.setdefault(key, _Found(picture.path, picture.below, key in asked))
    return list(first.values())


def _key(path: Path) -> str:
    """What makes two paths the same file: symbolic links and `..` resolved."""
    return os.path.normcase(resolved(path))


def _place(picture: _Found, folder: Path, format_name: str | None, suffix: str) -> Path:
    own = picture.path.suffix
    ending = NEW_ENDINGS[format_name] if format_name else own if own.lower() in WRITABLE else ".png"
    return folder / picture.below / f"{picture.path.stem}{suffix}{ending}"


def _one_job(found: list[_Found], output: Path, format_name: str | None) -> list[Job]:
    if len(found) != 1:
        raise UsageError(
            f"cannot write several pictures to one file {str(output)!r}",
            seen=f"{len(found)} pictures",
            needed="one picture, or an output folder",
            remedy=f"Name a folder: -o {output.with_suffix('')}",
        )
    if format_name and format_of(output) != format_of(Path(f"new{NEW_ENDINGS[format_name]}")):
        raise UsageError(
            "--format and the output file disagree",
            seen=f"--format {format_name} with {output.name!r}",
            needed="one of them, or both the same",
            remedy="Leave out --format; the file name decides.",
        )
    jobs = [Job(found[0].path, output)]
    _refuse_collisions(jobs)
    return jobs


def _refuse_collisions(jobs: list[Job]) -> None:
    sources = {_key(job.source) for job in jobs}
    owner: dict[str, Job] = {}
    for job in jobs:
        key = _key(job.output)
        if key in sources:
            raise UsageError(
                f"will not write {str(job.output)!r}",
                seen="a file that is also an input",
                needed="another name for the result",
                remedy="Choose another -o, or add --suffix _x4.",
            )
        if key in owner:
            raise UsageError(
                f"two pictures would be written to {str(job.output)!r}",
                seen=f"{str(owner[key].source)!r} and {str(job.source)!r}",
                needed="one result per file",
                remedy="Upscale them in two runs with different -o.",
            )
        owner[key] = job
