"""Numbered pictures: what a name such as `views/%04d.png` stands for, and whether it may be written.

Looks at names only: opens no picture and writes nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from zoomrt.errors import StorageError, UsageError
from zoomrt.files import entries, exists, is_folder, resolved
from zoomrt.runtime.pictures.formats import READABLE, WRITABLE

_NUMBER = re.compile(r"%(0\d+)?d")


def is_pattern(output: Path) -> bool:
    """Whether an output's name stands for numbered pictures; in the name of a video `%` is a letter like any other."""
    return output.suffix.lower() in READABLE


def numbered(pattern: Path, number: int) -> Path:
    """The picture of a number. Its folder's name is left as it is."""
    return pattern.with_name(_NUMBER.sub(lambda found: found[0] % number, pattern.name))


def check_output(output: Path, source: str | None, *, overwrite: bool) -> None:
    """Refuse an output that cannot be meant. source : the input's name; None for a device.

    Raises UsageError for a picture's name that has not exactly one number and for an output that is also an input,
    StorageError for one that exists, unless `overwrite`.
    """
    if is_pattern(output):
        fits = len(_NUMBER.findall(output.name)) == output.name.count("%") == 1 and output.suffix.lower() in WRITABLE
        if not fits:
            needed = f"one %d or %04d and no other % in it, and at its end one of {', '.join(sorted(WRITABLE))}"
            remedy = "Write -o 'views/%04d.png'."
            raise UsageError("cannot write numbered pictures", seen=repr(output.name), needed=needed, remedy=remedy)
        there = [path for path, number in _pictures(output) if numbered(output, number).name == path.name]
    else:
        there = [output] if exists(output, StorageError) else []
    given = [] if source is None else [Path(source), *(path for path, _ in _pictures(Path(source)))]
    inputs = {resolved(path) for path in given}
    for path in there:
        if resolved(path) in inputs:
            needed, remedy = "another name than the input's", "Choose another folder or name with -o."
            raise UsageError("will not write over the input", seen=str(path), needed=needed, remedy=remedy)
    if there and not overwrite:
        remedy = "Choose another name, or add --overwrite."
        raise StorageError("will not replace the output", seen=str(there[0]), needed="a free name", remedy=remedy)


def _pictures(pattern: Path) -> list[tuple[Path, int]]:
    """What is there of numbered pictures, with their numbers, whatever their leading zeros."""
    around = [re.escape(part) for part in re.split(r"%\d*d", pattern.name)]
    if len(around) != 2:
        return []
    fitting = re.compile("([0-9]+)".join(around))
    around_it = entries(pattern.parent) if is_folder(pattern.parent) else []
    found = [(path, fitting.fullmatch(path.name)) for path in around_it]
    return [(path, int(match[1])) for path, match in found if match]
