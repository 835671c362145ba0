"""What the system may refuse a process: memory, address space (`ulimit -v`) and threads (`ulimit -u`, a container).

Asked for before the work, because libraries take a refusal badly: OpenBLAS ends the process, OpenMP too, and ONNX
Runtime speaks of a graph that cannot be loaded. What is refused later is told from other errors by its words.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import threading
from pathlib import Path

from zoomrt.errors import OutOfMemory, UsageError

MAX_THREADS = 1024
"""Of one engine; more than any machine has cores, few enough to be had."""
_IMPORTS_BYTES = 100_000_000
"""Address space that the libraries of a small run take before they are of use; measured with numpy and ONNX Runtime."""
_CORE_BYTES = 40_000_000
"""And for each core: a stack of 8 MB and OpenBLAS's buffer of 32 MB."""
_REFUSALS = (
    *("failed to allocate", "can't allocate", "cannot allocate memory", "bad allocation", "bad_alloc"),
    *("not enough memory", "out of memory", "failed to map segment"),
    *("can't start new thread", "pthread_create failed", "resource temporarily unavailable"),
    "could not create a primitive",
)
"""How glibc, CPython, ONNX Runtime, OpenVINO, torch and its oneDNN say it, in lower case."""
_ERRNOS = (errno.ENOMEM, errno.EAGAIN)


def is_refusal(problem: BaseException) -> bool:
    """Whether the system refused memory, address space or threads, here or in what this was raised from.

    Engines have no error codes, so words tell.
    """
    if isinstance(problem, MemoryError) or (isinstance(problem, OSError) and problem.errno in _ERRNOS):
        return True
    text = str(problem).lower()
    if any(words in text for words in _REFUSALS) and "static tls" not in text:  # that is about the order of imports
        return True
    return problem.__cause__ is not None and is_refusal(problem.__cause__)


def out_of_memory(seen: str = "a request that the system refused") -> OutOfMemory:
    """For what `is_refusal`; Python's own MemoryError carries no text."""
    return OutOfMemory(
        "memory ran out",
        seen=seen,
        needed="more free memory, address space or threads",
        remedy="Close other programs, raise limits (ulimit -v, ulimit -u), or build the bundle with a smaller --tile.",
    )


def check_threads(threads: int | None) -> None:
    """Raises UsageError for a number of threads that no engine should have; None is the engine's own choice."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        needed, remedy = f"1 to {MAX_THREADS}", "Leave it out to use every core."
        raise UsageError("cannot use so many threads", seen=threads, needed=needed, remedy=remedy)


def address_space() -> float:
    """Bytes that this process may map (`ulimit -v`); infinite where there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if soft == resource.RLIM_INFINITY else float(soft)


def core_count() -> int:
    """Physical cores that this process may run on, at least 1: hyper-threads of one core count once."""
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # no affinity outside Linux
        return os.cpu_count() or 1
    try:
        topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        return len({Path(topology.format(cpu)).read_text() for cpu in allowed})
    except OSError:  # a sandbox without /sys
        return len(allowed)


def check_process(threads: int = 0) -> None:
    """Raises OutOfMemory where this process cannot have what every engine takes: address space and threads.

    threads : beside one for each core, which numpy's BLAS starts when it is imported.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _check_address_space(_IMPORTS_BYTES + _CORE_BYTES * cores)
    _check_room_for_threads(cores + threads)


def _check_address_space(count: int) -> None:
    if hasattr(mmap, "MAP_PRIVATE"):  # not on Windows, which has no such limit
        try:
            mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError as cause:
            raise out_of_memory(f"no room for {count / 1e6:.0f} MB ({cause.strerror})") from cause


def _check_room_for_threads(count: int) -> None:
    """Start them, all at once, and let them go."""
    leave = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=leave.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as cause:
        raise out_of_memory(f"{len(started)} threads where {count} are needed ({cause})") from cause
    finally:
        leave.set()
        for thread in started:
            thread.join()
