"""The standard streams of a command: safe to write to in any terminal, and kept clear of what libraries print.

Native libraries write to file descriptor 2 as they like (libtiff, absl, ONNX Runtime, OpenBLAS), so a command moves its
own errors to a copy and lets the descriptor itself lead nowhere; with --debug it stays as it is. Knows nothing of
zoomrt.
"""

from __future__ import annotations

import io
import os
import re
import sys

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""What a terminal acts on instead of showing it: controls, escapes, ends of lines, marks that turn the direction of
writing (Unicode TR 9), and surrogates, which stand for bytes of a file name that are no UTF-8."""


def printable(text: str) -> str:
    """The text with every character that a terminal would act on written out, such as \\x1b: one line, always."""
    return _UNSAFE.sub(lambda found: _written_out(found[0]), text)


def _written_out(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte of a file name (PEP 383)
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


class Stderr(io.TextIOBase):
    """Text to a file descriptor, unbuffered, that never fails: who cannot be told is not told."""

    def __init__(self, descriptor: int, encoding: str = "utf-8") -> None:
        self._descriptor, self._encoding = descriptor, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute
        return self._encoding

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        left = memoryview(text.encode(self._encoding, "backslashreplace"))
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError:  # closed, full, or the terminal is gone
            pass
        return len(text)


_stderr = Stderr(2)


def stderr() -> Stderr:
    """Where a command's own errors go."""
    return _stderr


def open_streams(*, keep_native: bool) -> None:
    """Make the standard streams of this process safe. To be called once, before any file is opened.

    A stream that is closed leads nowhere from then on: else the next file that is opened would get its number, and
    with it what libraries print. Characters that standard output cannot encode are written out, as \\xe9.

    keep_native : let what native code prints come through.
    """
    global _stderr
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _to_nowhere(descriptor)
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - None where the stream was closed
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _stderr = Stderr(os.dup(2), encoding)
    if not keep_native:
        _to_nowhere(2)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
    else:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
