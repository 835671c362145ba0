"""Fetching from the Hugging Face hub, by huggingface_hub, into the cache that other programs use too.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, HF_HOME and HF_HUB_CACHE count as everywhere. A broken download goes on within
one process; one that was killed begins again (huggingface_hub 2).
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from zoomrt.errors import StorageError
from zoomrt.files import open_file, sha256_of, shown, size_of
from zoomrt.models.published.cache import endpoint, huggingface_hub
from zoomrt.models.published.records import PublishedFile, Repository
from zoomrt.models.published.transfer import Failure, Reached, own_version, refusal

_BLOCK = 1 << 20
_SHA256 = re.compile("[0-9a-f]{64}")
_GIT = re.compile("[0-9a-f]{40}")


def download(repository: Repository, file: PublishedFile, reached: Reached) -> Path:
    """Fetch a file into Hugging Face's cache; what is there of that revision is not asked for again.

    Raises Failure, StorageError, MissingDependency.
    """
    hub = huggingface_hub()
    try:
        path = hub.hf_hub_download(
            repository.name,
            file.place,
            revision=repository.revision,
            endpoint=endpoint(),
            library_name="zoomrt",
            library_version=own_version(),
            tqdm_class=_bar(reached),
        )
    except Exception as cause:  # no narrower one: those of httpx2 and of Rust code below are there too
        raise _reason(hub, cause, repository) from cause
    _check(Path(path), file)
    return Path(path)


def _bar(reached: Reached) -> type[Any]:
    """A bar as the hub draws them, which draws nothing and tells how far it is."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})
            self.here = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.here += int(n or 0)
            reached(self.here, None if self.total is None else int(self.total))

    return Bar


def _reason(hub: Any, cause: Exception, repository: Repository) -> Failure | StorageError:
    """Why the hub's library gave up: its own exception, or the one it raised that from."""
    chain = [problem for problem in (cause, cause.__cause__) if problem is not None]
    server = urlsplit(endpoint()).netloc
    for problem in chain:
        if (response := getattr(problem, "response", None)) is not None:
            page = f"{endpoint()}/{repository.name}"
            access = f"If it is gated: ask for access at {page}, and run `hf auth login` or set HF_TOKEN."
            return refusal(response.status_code, server, response.headers.get("Retry-After", ""), access=access)
    names = {kind.__name__ for problem in chain for kind in type(problem).__mro__}
    if "OfflineModeIsEnabled" in names:
        return Failure("HF_HUB_OFFLINE", "a network that may be used", "Unset HF_HUB_OFFLINE.")
    if "FileMetadataError" in names:
        return Failure(f"an answer from {server} that is not a hub's", "a hub", "Check HF_ENDPOINT, and any proxy.")
    if names & {"ConnectError", "TimeoutException"}:
        return Failure(f"no answer from {server}", "a network that leads there")
    if isinstance(cause, OSError) and cause.errno is not None:
        return StorageError(
            f"cannot write {shown(cause.filename or hub.constants.HF_HUB_CACHE)}",
            seen=cause.strerror,
            needed="a writable place with room",
            remedy="Make room, or set HF_HOME to another place.",
        )
    return Failure(f"a connection that failed ({type(cause).__name__}: {cause})", "the whole file", "Run it again.")


def _check(path: Path, file: PublishedFile) -> None:
    """Hold a file that has just come against the hub's hash of it, which is its blob's name, and the known one.

    On a mismatch file and blob are deleted. Raises Failure.
    """
    told = _told(path)
    expected = {digest for digest in (told, file.sha256) if digest}
    for digest in expected:
        seen = sha256_of(path) if _SHA256.fullmatch(digest) else _git_hash(path)
        if seen != digest:
            for place in (os.path.realpath(path), path):
                Path(place).unlink(missing_ok=True)
            raise Failure(f"another hash, {seen}", f"{digest}, that of the published file", "It was deleted.")


def _told(path: Path) -> str:
    """The hash that the hub gave for a file: SHA-256 for large ones, Git's for others; empty without links."""
    try:
        name = Path(os.readlink(path)).name
    except OSError:  # where there are no links the file itself lies here
        return ""
    return name if _SHA256.fullmatch(name) or _GIT.fullmatch(name) else ""


def _git_hash(path: Path) -> str:
    digest = hashlib.sha1(f"blob {size_of(path)}\0".encode(), usedforsecurity=False)
    with open_file(path) as stream:
        for block in iter(lambda: stream.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()
