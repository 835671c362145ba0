"""Which published files are here already, and where each belongs. Opens no connection.

Files of the Hugging Face hub lie in Hugging Face's own cache, which other programs share; files of other servers in
`$ZOOMRT_CACHE/weights`. What is put into that folder by hand counts like what was fetched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from zoomrt.errors import MissingDependency, StorageError
from zoomrt.files import cache_path, is_file, read_bytes, shown, size_of
from zoomrt.models.published.records import Published, PublishedFile, Repository, files_for

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024


def weights_folder() -> Path:
    """Where published files are kept. StorageError for a user without a home folder."""
    if (folder := cache_path("weights")) is None:
        raise StorageError(
            "there is no place for published weights",
            seen="no home folder",
            needed="a folder to keep them in",
            remedy="Set ZOOMRT_CACHE to a folder that can be written.",
        )
    return folder


def by_hand(one: Published, file: PublishedFile) -> Path:
    """Where a file may be put by hand: `weights/NAME`, or `weights/OWNER--REPOSITORY/PATH`."""
    if not one.repositories:
        return weights_folder() / file.name
    return weights_folder() / one.repositories[0].name.replace("/", "--") / file.place


def found(one: Published, given: Mapping[str, object]) -> Path | None:
    """The file, or the folder with all files that these options need; None where any of them is not here."""
    files = files_for(one, given)
    places = [by_hand(one, file) for file in files]
    if all(is_whole(place, file) for place, file in zip(places, files, strict=True)):
        return root_of(places[0], files[0]) if one.folder else places[0]
    for repository in one.repositories:
        kept = [path for file in files if (path := _in_hub_cache(repository, file)) is not None]
        if len(kept) == len(files):
            return root_of(kept[0], files[0]) if one.folder else kept[0]
    return None


def is_whole(path: Path, file: PublishedFile) -> bool:
    """Whether a file of the right size is there, and not a pointer that Git LFS leaves in its place."""
    if not is_file(path):
        return False
    size = size_of(path)
    if size <= _POINTER_BYTES and read_bytes(path, limit=_POINTER_BYTES).startswith(_POINTER):
        return False
    return file.size is None or size == file.size


def misfit(path: Path, file: PublishedFile) -> str | None:
    """What lies at a file's place without being it, for a message; None where nothing does."""
    return f"{size_of(path)} bytes at {shown(path)}" if is_file(path) and not is_whole(path, file) else None


def root_of(path: Path, file: PublishedFile) -> Path:
    """The folder below which a file lies at its place."""
    return path.parents[file.place.count("/")]


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, or Hugging Face's own."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def huggingface_hub() -> Any:
    """The module. Imported so that it sends nothing of its own accord: otherwise it fetches a list of "agent harnesses"
    first, and tells which of them runs it. Raises MissingDependency."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "files of the Hugging Face hub are fetched by huggingface_hub",
            seen=f"no module {cause.name}",
            needed="huggingface_hub",
            remedy="Run: pip install 'zoomrt[fetch]'",
        ) from cause


def _in_hub_cache(repository: Repository, file: PublishedFile) -> Path | None:
    """None too where huggingface_hub is not installed: nothing of its cache can be used then."""
    try:
        path = huggingface_hub().try_to_load_from_cache(repository.name, file.place, revision=repository.revision)
    except MissingDependency:
        return None
    return Path(path) if isinstance(path, str) else None
