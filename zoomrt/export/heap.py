"""Memory that was freed, given back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc


def return_freed_memory() -> None:
    """Have the C library give freed memory back to the system; glibc keeps it otherwise. Does nothing elsewhere."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
