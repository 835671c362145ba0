"""Scratch beside the target of a write: names, locks, sweeping, the step into its place, and what no write may replace.

Scratch has a name that nobody can guess and is made exclusively, without following links. Its writer holds a lock on it
(flock), which the system lets go when the process ends, however it ends: scratch that is not locked belongs to nobody,
and the next process that writes to the folder removes it. Where there are no such locks (Windows, some network
folders), scratch of killed processes stays. Used by `files.py` alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_ATTEMPTS = 100
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What tells that the system or the disk cannot swap two names."""
_NAME = re.compile(r"\.zoomrt-[0-9a-f]{16}\.part(\..{1,15})?")


@contextlib.contextmanager
def scratch_name(place: Path, ending: str = "") -> Iterator[Path]:
    """A name that nobody can guess, under which nothing is left at the end."""
    _sweep(os.path.realpath(place))
    path = place / f".zoomrt-{secrets.token_hex(8)}.part{ending if 1 < len(ending) <= 16 else ''}"
    try:
        yield path
    finally:
        _remove(path)


def claim(path: Path, *, folder: bool) -> int:
    """Make a scratch file or folder and lock it. Returns its handle; -1 for a folder on Windows, which has none."""
    while True:
        if folder:
            path.mkdir()
            if sys.platform == "win32":
                return -1
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # swept before it was opened
                continue
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
            handle = os.open(path, flags, 0o666)  # less what the umask takes away
        _lock(handle)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)  # swept before it was locked


def _lock(handle: int, *, wait: bool = True) -> int:
    """Lock a handle until it is closed, and return it. Raises BlockingIOError where another process holds the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            if not wait:  # whoever sweeps must know; who writes goes on without
                raise
    return handle


@functools.lru_cache(maxsize=1024)
def _sweep(folder: str) -> None:
    """Remove the scratch of processes that are gone; each folder is looked through once per process."""
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if _NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    _sweep_one(Path(entry.path))


def _sweep_one(path: Path) -> None:
    if sys.platform == "win32" or path.lstat().st_uid != os.geteuid():
        return
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        _lock(handle, wait=False)
        _remove(path)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


def flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be flushed."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def swap_in(scratch: Path, target: Path) -> None:
    """Rename a folder into place; what stood there is under the scratch name afterwards."""
    for attempt in range(_ATTEMPTS):
        try:
            if os.path.lexists(target):
                _exchange(scratch, target)
            else:
                os.rename(scratch, target)
            return
        except OSError as cause:
            if cause.errno in _NO_EXCHANGE:
                break
            # another process put something there, or took it away, in between
            if cause.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY) or attempt == _ATTEMPTS - 1:
                raise
    with scratch_name(target.parent) as retired:
        # locked, so that nobody sweeps it while it may be needed
        handle = _lock(os.open(target, os.O_RDONLY)) if sys.platform != "win32" else -1
        try:
            os.rename(target, retired)
            os.rename(scratch, target)
        finally:
            if os.path.lexists(retired) and not os.path.lexists(target):
                os.rename(retired, target)
            if handle >= 0:
                os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Swap two names in one step: renameat2(2) with RENAME_EXCHANGE, Linux 3.15 and glibc 2.28."""
    if not sys.platform.startswith("linux") or not hasattr(libc := ctypes.CDLL(None, use_errno=True), "renameat2"):
        raise OSError(errno.ENOSYS, "no renameat2")
    at_cwd, exchange = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def kind_of(there: os.stat_result | None) -> str:
    """What stands in the place of a file, for a message."""
    if there is None:
        return "nothing there"
    return "a folder" if stat.S_ISDIR(there.st_mode) else "something that is not a file"


def cannot_be_replaced(target: Path, there: os.stat_result | None, folder: bool) -> str | None:
    """Why a new file or `folder` may not take the place of what is there; None where it may."""
    if not folder and os.path.realpath(target.parent) == "/dev":
        return "a device"  # replacing /dev/stdout, a link to what may be a file, would break the machine
    if there is None:
        return None
    wanted = stat.S_ISDIR if folder else stat.S_ISREG
    if not wanted(there.st_mode):
        return "a file" if stat.S_ISREG(there.st_mode) else kind_of(there)
    place = os.path.realpath(target)
    if os.path.ismount(target) or place in _mount_points():
        return "a mount point, which cannot be replaced"
    if not folder:
        return None
    if target.name in ("", "..") or os.path.commonpath([place, os.path.realpath(os.curdir)]) == place:
        return "the folder that this command runs in, or one above it"
    return None


def _mount_points() -> set[str]:
    """Of this process, on Linux: `os.path.ismount` misses folders of the same disk that are mounted elsewhere."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return set()
    octal = re.compile(rb"\\([0-7]{3})")
    places = (octal.sub(lambda code: bytes([int(code[1], 8)]), line.split()[4]) for line in lines)
    return {os.fsdecode(place) for place in places}
