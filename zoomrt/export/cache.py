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
from zoomrt.folders import cache_root
from zoomrt.kernels.compile import kernel_folder

__all__ = ["cache_folder", "calibration_folder", "content_key", "fetch", "keep", "source_digest"]


def cache_folder() -> Path:
    """Where finished bundles are kept. May be deleted at any time."""
    return cache_root() / "bundles"


def calibration_folder() -> Path:
    """Where `calibration` keeps statistics and measurements, beside `cache_folder`."""
    return cache_root() / "calibration"


def content_key(request: Mapping[str, object]) -> str:
    """SHA-256 over everything that decides the bundle's content, the exporter's own code and weights included."""
    text = json.dumps({**request, "zoomrt_source": source_digest()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 over the code and the data of export, calibration and kernels."""
    root = Path(zoomrt.__file__).parent
    digest = hashlib.sha256()
    files = [file for part in ("calibration", "export", "kernels") for file in (root / part).rglob("*")]
    sources = [file for file in files if file.suffix in (".py", ".safetensors", ".png")]
    for source in sorted([root / "bundle.py", *sources]):
        digest.update(source.relative_to(root).as_posix().encode() + source.read_bytes())
    return digest.hexdigest()


def fetch(key: str) -> Bundle | None:
    """The kept bundle, verified; None if there is none or it is damaged (it is then thrown away)."""
    path = cache_folder() / key
    if not path.exists():
        return None
    try:
        bundle = open_bundle(path)
    except BundleError:
        shutil.rmtree(path, ignore_errors=True)
        return None
    return bundle if bundle.manifest.key == key else None


def keep(bundle: Bundle) -> str | None:
    """Keep a copy under the bundle's own key. A cache that cannot be written returns the reason; it is not an error."""
    try:
        copy_bundle(bundle, cache_folder() / bundle.manifest.key)
    except StorageError as cause:
        return str(cause)
    return None


def copy_bundle(bundle: Bundle, output: Path) -> None:
    """Write a byte-equal copy of the bundle, atomically. Raises StorageError."""
    with writing_bundle(output) as (scratch, manifests):
        for name in bundle.manifest.files:
            target = scratch / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.file(name), target)
        manifests.append(bundle.manifest)


def clear() -> int:
    """Delete everything kept; returns how many bytes that freed."""
    freed = 0
    for folder in (cache_folder(), calibration_folder(), kernel_folder()):
        freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
    return freed
