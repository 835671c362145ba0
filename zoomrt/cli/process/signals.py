"""Signals that end a command, as exceptions, so that they unwind the stack and clear scratch files.

Ctrl-C is KeyboardInterrupt, as everywhere in Python; SIGTERM and SIGHUP (a terminal that is closed) are `Ended`. A
signal that was ignored when the command started, as under nohup or in the background of a script, stays ignored.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_ONCE_S = 0.5
"""A signal that follows another so soon is the same wish: of a shell and of its parent, or of an impatient hand."""


class Ended(BaseException):
    """A signal other than Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated" if number == signal.SIGTERM else "hung up")
        self.number = number


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """Signals are exceptions for the length of a with-block; afterwards, while Python shuts down, they end the process
    at once and without words."""
    last = -_ONCE_S

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _ONCE_S:
            last = time.monotonic()
            raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)

    ours = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    try:
        for number in ours:
            signal.signal(number, handle)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
