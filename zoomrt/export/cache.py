"""Finished bundles kept by the content of their request, so that the second identical build is a copy; and what
calibration has measured so far, so that a build goes on where it was stopped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import zoomrt
from zoomrt.bundle import Bundle, open_bundle, writing_bundle
from zoomrt.errors import BundleError, StorageError
from zoomrt.files import cache_path, exists, total_bytes, warn_no_cache

_PARTS = ("bundles", "calibration", "ceilings", "kernels", "runtime")
"""Folders of the cache."""
_AFTERWARDS = frozenset({"bench", "cli"})
"""Folders of the package that have no part in a bundle."""
_UNREAD = frozenset({".md", ".pyc", ".typed"})
"""Endings of files that have none."""


def content_key(request: Mapping[str, object]) -> str:
    """SHA-256 over everything that decides the bundle's content, the exporter's own code and weights included."""
    text = json.dumps({**request, "zoomrt_source": source_digest()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache
def source_digest() -> str:
    """SHA-256 over the package's code and data, but for what only parses, prints or measures what is finished."""
    return digest_of(Path(zoomrt.__file__).parent)


def digest_of(root: Path) -> str:
    """`source_digest` of a package in that folder."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        place = file.relative_to(root)
        if place.parts[0] in _AFTERWARDS or file.suffix in _UNREAD or not file.is_file():
            continue
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{place.as_posix()} {content}\n".encode())
    return digest.hexdigest()


def fetch(key: str) -> Bundle | None:
    """The kept bundle, verified; None if there is none or it is damaged (it is then thrown away)."""
    path = cache_path("bundles", key)
    if path is None:
        return None
    try:
        if not exists(path, StorageError):
            return None
        bundle = open_bundle(path)
    except StorageError:
        return None  # `keep` will say why
    except BundleError:
        shutil.rmtree(path, ignore_errors=True)
        return None
    return bundle if bundle.manifest.key == key else None


def keep(bundle: Bundle) -> None:
    """Keep a copy under the bundle's own key. A cache that cannot be written is a CacheWarning, not an error."""
    path = cache_path("bundles", bundle.manifest.key)
    if path is None:
        warn_no_cache("no home folder")
        return
    try:
        copy_bundle(bundle, path)
    except StorageError as cause:
        warn_no_cache(f"{cause.what}: {cause.seen}")


def copy_bundle(bundle: Bundle, output: Path) -> None:
    """Write a byte-equal copy of the bundle, atomically. Raises StorageError."""
    with writing_bundle(output) as (scratch, manifests):
        for name in bundle.manifest.files:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(name), scratch / name)
        manifests.append(bundle.manifest)


def clear() -> int:
    """Delete everything kept; returns how many bytes that freed."""
    freed = 0
    for folder in filter(None, (cache_path(part) for part in _PARTS)):
        freed += total_bytes(folder)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
    return freed
