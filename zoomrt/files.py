"""Every touch of the file system: guarded look-ups, writes that happen whole or not at all, and the cache's place.

Look-ups turn whatever the system says into one error of ours: names over 255 bytes or with a NUL, folders without
search permission, pipes and devices in the place of a file. Only regular files are ever opened, so nothing waits for a
pipe or reads /dev/zero to its end.

Writes go to scratch beside the target first, see `_scratch.py`, and are renamed into place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import platformdirs

from zoomrt._scratch import cannot_be_replaced, claim, flush_folder, kind_of, scratch_name, swap_in
from zoomrt.errors import InputError, StorageError, ZoomrtError

AnyPath = str | os.PathLike[str]

_LONGEST_SHOWN = 160
_BLOCK = 1 << 20
_WRITE = "Choose another place, or make room and set its permissions."
_REMEDIES = {
    errno.EACCES: "Change the permissions of it and of the folders that lead to it.",
    errno.EPERM: "Change the permissions of it and of the folders that lead to it.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.EMFILE: "Close other programs, or raise the limit on open files: ulimit -n.",
    errno.ENFILE: "Close other programs, or raise the limit on open files: ulimit -n.",
}

_told: list[str] = []
"""Why the cache cannot be used, once it was said."""


class Identity(NamedTuple):
    """Equal for a file that has not been changed or replaced."""

    device: int
    inode: int
    size: int
    modified_ns: int


class CacheWarning(UserWarning):
    """Work went on without the cache."""


def shown(path: AnyPath) -> str:
    """A path for a message: quoted, control characters escaped, and shortened in the middle."""
    text = repr(os.fspath(path))
    half = _LONGEST_SHOWN // 2
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:half]}...{text[-half:]}"


# --- look-ups -------------------------------------------------------------------------------------------------------


def exists(path: AnyPath, error: type[ZoomrtError] = InputError) -> bool:
    """Whether anything is there, links followed. Raises `error` where the system will not say."""
    return _stat(path, error) is not None


def is_file(path: AnyPath, error: type[ZoomrtError] = InputError) -> bool:
    """Whether a regular file is there, links followed. Raises `error` where the system will not say."""
    there = _stat(path, error)
    return there is not None and stat.S_ISREG(there.st_mode)


def is_folder(path: AnyPath, error: type[ZoomrtError] = InputError) -> bool:
    """Whether a folder is there, links followed. Raises `error` where the system will not say."""
    there = _stat(path, error)
    return there is not None and stat.S_ISDIR(there.st_mode)


def resolved(path: AnyPath, error: type[ZoomrtError] = InputError) -> str:
    """The place with all links followed, absolute; equal for two names of one file. Raises `error`."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError) as cause:  # such as a current folder that is gone
        raise _refusal(path, cause, error, what=f"cannot look up {shown(path)}", needed="a path") from cause


def size_of(path: AnyPath, error: type[ZoomrtError] = InputError, *, needed: str = "a file") -> int:
    """Bytes of a regular file. Raises `error` where there is none."""
    return _regular(path, error, needed).st_size


def inode(path: AnyPath) -> tuple[int, int] | None:
    """What tells whether a name still leads to the same thing; None where nothing can be found."""
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return None
    return there.st_dev, there.st_ino


def identity(path: AnyPath, error: type[ZoomrtError] = InputError, *, needed: str = "a file") -> Identity:
    """What tells whether a regular file is still the same and unchanged. Raises `error` where there is none."""
    there = _regular(path, error, needed)
    return Identity(there.st_dev, there.st_ino, there.st_size, there.st_mtime_ns)


def entries(folder: AnyPath, error: type[ZoomrtError] = InputError) -> list[Path]:
    """What lies in a folder, sorted by name. Raises `error` where it cannot be listed."""
    try:
        return sorted(Path(folder).iterdir())
    except (OSError, ValueError) as cause:
        raise _refusal(folder, cause, error, what=f"cannot list folder {shown(folder)}", needed="a folder") from cause


def walk(folder: AnyPath, error: type[ZoomrtError] = InputError) -> Iterator[Path]:
    """All regular files in a folder and those below it, sorted in each; links to folders are not followed.

    Raises `error` where one of the folders cannot be listed.
    """
    waiting = entries(folder, error)[::-1]
    while waiting:
        entry = waiting.pop()
        if not entry.is_symlink() and is_folder(entry, error):
            waiting += entries(entry, error)[::-1]
        elif is_file(entry, error):
            yield entry


def total_bytes(folder: AnyPath) -> int:
    """Bytes of all files in and below a folder that can be seen; 0 where there is none."""
    try:
        return sum(size_of(file) for file in walk(folder))
    except InputError:
        return 0


def free_bytes(folder: AnyPath) -> int:
    """Room on the disk that a folder is on, or that its nearest parent that exists is on. Raises StorageError."""
    try:
        return shutil.disk_usage(_nearest(Path(folder))).free
    except (OSError, ValueError) as cause:
        raise _refusal(folder, cause, StorageError, needed="a folder") from cause


@contextlib.contextmanager
def open_file(path: AnyPath, error: type[ZoomrtError] = InputError, *, needed: str = "a file") -> Iterator[BinaryIO]:
    """A regular file for reading, binary. An OSError while it is read becomes `error` too.

    needed : what the caller wants there, for the message.

    Raises `error` for anything else: nothing, a folder, a pipe, a device, no permission.
    """
    _regular(path, error, needed)  # before it is opened: opening a device may do something
    try:
        with open(path, "rb", opener=_without_waiting) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise OSError(errno.EINVAL, "something that is not a file")
            yield stream
    except OSError as cause:
        raise _refusal(path, cause, error, needed=needed) from cause


def _without_waiting(path: str, flags: int) -> int:
    """For `open`: a pipe that was put there since would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: AnyPath, error: type[ZoomrtError] = InputError, *, limit: int, needed: str = "a file") -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises `error`, for larger ones before reading them."""
    with open_file(path, error, needed=needed) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(limit + 1) if size <= limit else b""
    if (seen := max(size, len(content))) > limit:
        raise error(
            f"cannot read {shown(path)}",
            seen=f"{seen} bytes",
            needed=f"{needed} of at most {limit} bytes",
            remedy="Check that it is the right file.",
        )
    return content


def sha256_of(path: AnyPath, error: type[ZoomrtError] = InputError) -> str:
    """SHA-256 of a regular file's content, in hex. Raises `error`."""
    digest = hashlib.sha256()
    with open_file(path, error) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _stat(path: AnyPath, error: type[ZoomrtError]) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as cause:
        what = f"cannot look up {shown(path)}"
        raise _refusal(path, cause, error, what=what, needed="a path that can be looked up") from cause


def _regular(path: AnyPath, error: type[ZoomrtError], needed: str) -> os.stat_result:
    there = _stat(path, error)
    if there is not None and stat.S_ISREG(there.st_mode):
        return there
    raise error(f"cannot read {shown(path)}", seen=kind_of(there), needed=needed, remedy="Check the path.")


def _refusal(
    path: AnyPath, cause: OSError | ValueError, error: type[ZoomrtError], *, needed: str, what: str = ""
) -> ZoomrtError:
    """What the system said, as an error of ours. ValueError is Python's for a NUL, or what the locale cannot encode."""
    seen = (cause.strerror or str(cause)) if isinstance(cause, OSError) else f"a name with {cause}"
    remedy = _REMEDIES.get(getattr(cause, "errno", None) or 0, "Check the path.")
    return error(what or f"cannot read {shown(path)}", seen=seen, needed=needed, remedy=remedy)


# --- writes ---------------------------------------------------------------------------------------------------------


def check_writable(path: AnyPath, *, folder: bool = False) -> None:
    """Raise StorageError where `atomic_file`, or with `folder` `atomic_folder`, could not write; leaves nothing behind.

    To be called before the work. Whether what stands there may be replaced is for the caller to know; what cannot be
    is refused here: mount points, the folder that the command runs in, devices and pipes.
    """
    target = Path(path)
    with _storage(target):
        there = _stat(target, StorageError)
        if problem := cannot_be_replaced(target, there, folder):
            kind = "folder" if folder else "file"
            raise StorageError(
                f"cannot write {shown(target)}",
                seen=problem,
                needed=f"the name of a new {kind}, or of one that may be replaced",
                remedy="Name another place with another name.",
            )
        nearest = _nearest(target.parent)
        for part in target.relative_to(nearest).parts:
            _stat(nearest / part, StorageError)  # names that are too long are refused only where their folder is
        with scratch_folder(nearest):
            pass


@contextlib.contextmanager
def atomic_file(path: AnyPath, *, parents: bool = False) -> Iterator[BinaryIO]:
    """A stream whose content becomes the file `path` when the block ends: whole, or on any exception not at all.

        with atomic_file("out.json") as stream:
            stream.write(content)

    parents : make missing folders. For libraries that want a name, `stream.name` is the scratch file; it ends like
    `path`. A link at `path` is replaced, not followed. Permissions are those of any new file.

    Raises StorageError, also for an OSError in the block, which therefore should do nothing but write.
    """
    target = Path(path)
    with _storage(target), made_folder(target.parent) if parents else contextlib.nullcontext():
        if problem := cannot_be_replaced(target, _stat(target, StorageError), folder=False):
            raise OSError(errno.EISDIR, problem)
        with scratch_name(target.parent, target.suffix) as scratch:
            with open(scratch, "w+b", opener=lambda name, _: claim(Path(name), folder=False)) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, target)
            flush_folder(target.parent)


def write_bytes(path: AnyPath, content: bytes, *, parents: bool = False) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    with atomic_file(path, parents=parents) as stream:
        stream.write(content)


@contextlib.contextmanager
def atomic_folder(path: AnyPath) -> Iterator[Path]:
    """A scratch folder that becomes `path` when the block ends: whole, or on any exception not at all.

    An older folder there is replaced in one step on Linux (renameat2 with RENAME_EXCHANGE), so that at no moment there
    is none. Where the system or the disk has no such step there are two, and a kill between them leaves the older one
    under its scratch name. Missing parents are made.

    Raises StorageError, also for an OSError in the block.
    """
    target = Path(path)
    with _storage(target), made_folder(target.parent), scratch_folder(target.parent) as scratch:
        if problem := cannot_be_replaced(target, _stat(target, StorageError), folder=True):
            raise OSError(errno.ENOTDIR, problem)
        yield scratch
        for file in walk(scratch, StorageError):
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        swap_in(scratch, target)
        flush_folder(target.parent)


@contextlib.contextmanager
def scratch_folder(beside: AnyPath | None = None) -> Iterator[Path]:
    """An empty folder for the length of the block, in the folder `beside` or where the system keeps temporary files.

    An OSError where it is made is passed on as it is.
    """
    with scratch_name(Path(tempfile.gettempdir() if beside is None else beside)) as path:
        handle = claim(path, folder=True)
        try:
            yield path
        finally:
            if handle >= 0:
                os.close(handle)


@contextlib.contextmanager
def made_folder(folder: AnyPath) -> Iterator[None]:
    """Make a folder and its missing parents; at the end remove those of them that stayed empty. Raises StorageError."""
    made: list[Path] = []
    place = Path(folder)
    try:
        with _storage(place):
            for parent in reversed([place, *place.parents]):
                if not exists(parent, StorageError):
                    with contextlib.suppress(FileExistsError):  # another process was faster
                        parent.mkdir()
                        made.append(parent)
            if not is_folder(place, StorageError):
                raise NotADirectoryError(errno.ENOTDIR, "a file of that name")
        yield
    finally:
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()  # fails on a folder that holds a result, as it should


@contextlib.contextmanager
def _storage(target: Path) -> Iterator[None]:
    """An OSError becomes StorageError."""
    try:
        yield
    except OSError as cause:
        seen, needed = cause.strerror or cause, "a writable place with room"
        raise StorageError(f"cannot write {shown(target)}", seen=seen, needed=needed, remedy=_WRITE) from cause


def _nearest(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(place for place in [folder, *folder.parents] if place == place.parent or exists(place, StorageError))


# --- the cache ------------------------------------------------------------------------------------------------------


def cache_path(*parts: str) -> Path | None:
    """A place in $ZOOMRT_CACHE or the platform's cache folder for zoomrt; None for a user without a home folder.

    All of it may be deleted at any time.
    """
    if given := os.environ.get("ZOOMRT_CACHE"):
        return Path(given, *parts)
    try:
        root = platformdirs.user_cache_path("zoomrt")
    except RuntimeError:  # no home folder; before platformdirs 4.12 a relative path
        return None
    return root.joinpath(*parts) if root.is_absolute() else None


def read_cached(path: Path | None, limit: int = 1 << 30) -> bytes | None:
    """What was kept at a `cache_path`; None where there is nothing that can be read."""
    try:
        return None if path is None else read_bytes(path, limit=limit)
    except InputError:
        return None


def write_cached(path: Path | None, content: bytes) -> None:
    """Keep something at a `cache_path`. Where it cannot be kept, CacheWarning, once per process."""
    if path is None:
        warn_no_cache("no home folder")
        return
    try:
        write_bytes(path, content, parents=True)
    except StorageError as cause:
        warn_no_cache(f"{cause.what}: {cause.seen}")


def warn_no_cache(why: str) -> None:
    """Say once per process that work goes on without the cache."""
    if not _told:
        _told.append(why)
        text = f"working without a cache ({why}); set ZOOMRT_CACHE to a folder that can be written"
        warnings.warn(text, CacheWarning, stacklevel=3)
