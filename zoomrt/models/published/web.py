"""Fetching from a web server, by pooch: a download that was cut, or whose process was killed, goes on where it stopped.

What has come lies in `.NAME.TAG.part` beside the file, TAG being the server's entity tag in hex. The rest is asked for
by HTTP Range, with If-Range: of a file that has changed since, the server sends the whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import filelock
import pooch
import requests

from zoomrt.errors import StorageError
from zoomrt.files import entries, is_file, made_folder, scratch_folder, shown, size_of
from zoomrt.models.published.records import PublishedFile
from zoomrt.models.published.transfer import Failure, Reached, own_version, refusal

ATTEMPTS = 4
"""Without a single byte between them."""
PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
TIMEOUT_S = (10, 30)
BLOCK = 1 << 16
"""Bytes written at once, and lost at most where a connection ends."""
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_TAG = 60


def download(file: PublishedFile, target: Path, reached: Reached) -> Path:
    """Fetch a file to `target`; of two processes the second waits for the first and finds it there.

    Raises Failure, StorageError.
    """
    locks = target.parent / ".locks"
    with made_folder(target.parent), made_folder(locks), filelock.FileLock(locks / f"{target.name}.lock"):
        if is_file(target) and size_of(target) == file.size:
            return target
        with scratch_folder(target.parent) as scratch, _silent(pooch.get_logger()):
            rest = _Rest(target, file, reached)
            try:
                got = pooch.retrieve(file.place, file.sha256 or None, target.name, scratch, downloader=rest)
            except ValueError as cause:  # pooch's, for another hash
                raise Failure(
                    "another SHA-256",
                    f"{file.sha256}, that of the published file",
                    "It was deleted. If it comes out the same again, the file there has been replaced: do not use it.",
                ) from cause
            os.replace(got, target)
    return target


@contextlib.contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Pooch tells on standard error what it does."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Rest:
    """A downloader as pooch wants it: fetches what a kept partial file lacks, and hands that over when it is whole."""

    def __init__(self, target: Path, file: PublishedFile, reached: Reached) -> None:
        self.target, self.file, self.reached = target, file, reached

    def __call__(self, url: str, output_file: str, _pooch: object, check_only: bool = False) -> None:  # noqa: ARG002
        attempt, most = 1, 0
        while True:
            try:
                whole = self._go_on(url)
                break
            except _Passing as problem:
                here = sum(size_of(part) for part in self._parts())
                attempt, most = (1, here) if here > most else (attempt + 1, most)
                if attempt > ATTEMPTS:
                    raise problem.failure from problem
                time.sleep(min(max(PAUSE_S * 2 ** (attempt - 1), problem.pause_s), LONGEST_PAUSE_S))
        os.replace(whole, output_file)

    def _parts(self) -> list[Path]:
        """What earlier downloads have left; one at most, but for a file that changed on the server."""
        start = f".{self.target.name}."
        return [
            path
            for path in entries(self.target.parent)
            if path.name.startswith(start) and path.suffix == ".part" and is_file(path)
        ]

    def _go_on(self, url: str) -> Path:
        """One request. Returns the partial file, which is whole then. Raises _Passing, Failure, StorageError."""
        part, tag = self._started()
        have = size_of(part) if part else 0
        headers = {"User-Agent": f"zoomrt/{own_version()}", "Accept-Encoding": "identity"}
        if part:
            headers |= {"Range": f"bytes={have}-", "If-Range": tag}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
                part, have, total = self._place(answer, part, have)
                self.reached(have, total)
                for block in answer.iter_content(BLOCK) if have != total else ():
                    _append(part, block)
                    have += len(block)
                    self.reached(have, total)
        except requests.RequestException as cause:
            raise _Passing(_cut(cause, url, have)) from cause
        if total is not None and have != total:
            raise _Passing(_cut(None, url, have))
        return part

    def _started(self) -> tuple[Path | None, str]:
        """A partial file that can be gone on with, and the server's tag for it; any other is deleted."""
        for part in self._parts():
            with contextlib.suppress(ValueError):
                if tag := bytes.fromhex(part.name.split(".")[-2]).decode():
                    return part, tag
            part.unlink()
        return None, ""

    def _place(self, answer: requests.Response, part: Path | None, have: int) -> tuple[Path, int, int | None]:
        """(partial file, bytes in it, bytes there will be) for an answer's body."""
        status, headers = answer.status_code, answer.headers
        if part is not None and status == 206 and headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            return part, have, self._checked(headers["Content-Range"].rpartition("/")[2])
        if part is not None and status == 416 and headers.get("Content-Range") == f"bytes */{have}":
            return part, have, self._checked(str(have))
        if part is not None and status in (206, 416):  # another range than was asked for: begin again
            part.unlink()
            raise _Passing(refusal(status, _server(answer.url)))
        if status != 200:
            retry_after = headers.get("Retry-After", "")
            failure = refusal(status, _server(answer.url), retry_after)
            if status in _PASSING:
                raise _Passing(failure, float(retry_after) if retry_after.isdigit() else 0.0)
            raise failure
        if headers.get("Content-Type", "").startswith("text/html"):
            raise Failure(f"a web page from {_server(answer.url)}", "the file itself")
        total = self._checked(headers.get("Content-Length", ""))
        for old in self._parts():
            old.unlink()
        tag = headers.get("ETag", "")
        if tag.startswith("W/") or len(tag) > _LONGEST_TAG:
            tag = ""
        return self.target.parent / f".{self.target.name}.{tag.encode().hex()}.part", 0, total

    def _checked(self, total: str) -> int | None:
        """The size that the server tells; Failure for another than is known."""
        size = int(total) if total.isdigit() else None
        if self.file.size is not None and size not in (None, self.file.size):
            raise Failure(
                f"{size} bytes", f"{self.file.size}, the size of the published file", "The file there was replaced."
            )
        return size if size is not None else self.file.size


class _Passing(Exception):
    """A failure that another attempt may not have. pause_s : that the server asks for."""

    def __init__(self, failure: Failure, pause_s: float = 0.0) -> None:
        self.failure, self.pause_s = failure, pause_s
        super().__init__(failure.seen)


def _append(part: Path, block: bytes) -> None:
    """Raises StorageError."""
    try:
        with open(part, "ab") as stream:
            stream.write(block)
    except OSError as cause:
        remedy = "Make room."
        raise StorageError(f"cannot write {shown(part)}", seen=cause.strerror, needed="room", remedy=remedy) from cause


def _cut(cause: Any, url: str, have: int) -> Failure:
    """For a connection that was never there, or ended early."""
    if have == 0 and isinstance(cause, (requests.ConnectionError, requests.Timeout)):
        return Failure(f"no answer from {_server(url)}", "a network that leads there")
    return Failure(
        f"a connection that ended after {have} bytes", "the whole file", "Run it again: it goes on where it stopped."
    )


def _server(url: str) -> str:
    return urlsplit(url).netloc
