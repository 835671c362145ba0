"""The bundle: a directory with a manifest, graphs and engines. The only thing that ships.

The contract between export, which writes it, and runtime, which reads it. Neither knows the other.

A bundle is closed: nothing is opened that its manifest does not list with a hash, and nothing before it was verified.
It is written beside its final place and put there in one step, so that a kill leaves the old bundle or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from zoomrt import files
from zoomrt.bundle.kernel_file import check_binary
from zoomrt.bundle.manifest import FileEntry, Manifest, parse_manifest, sealed_json
from zoomrt.bundle.onnx_file import external_locations
from zoomrt.errors import BundleError, StorageError

MANIFEST = "manifest.json"

_LARGEST_MANIFEST = 8 << 20
"""Bytes; those of int8 builds, which list every layer, have 0.1 million."""
_REBUILD = "Build it again with trt-build, or copy it again from where it came."


class _Unreadable(BundleError):
    """What `files` raises here, before it is said of which bundle."""


class Bundle:
    """A bundle whose manifest was read: `path` and `manifest`. Made by `open_bundle`.

    Every access raises BundleError for what the manifest does not list, and for a file that is not what it lists.

    Parameters
    ----------
    verify
        Whether files are hashed (about 1 GB/s) when they are first asked for, and again if they changed since; False
        compares their sizes.
    """

    def __init__(self, path: Path, manifest: Manifest, *, verify: bool = True) -> None:
        self.path, self.manifest = path, manifest
        self._verify = verify
        self._verified: dict[str, files.Identity] = {}

    def replaced(self, manifest: Manifest) -> Bundle:
        """The same files under another manifest."""
        other = Bundle(self.path, manifest, verify=self._verify)
        other._verified = self._verified
        return other

    def file(self, name: str) -> Path:
        """The place of a file, which is as the manifest says."""
        entry, path = self._entry(name), self.path / name
        with self._explained(name, entry):
            stamp = files.identity(path, _Unreadable)
            if self._verified.get(name) == stamp:
                return path
            self._check(name, "bytes", stamp.size, entry.bytes)
            if self._verify:
                self._check(name, "sha256", files.sha256_of(path, _Unreadable), entry.sha256)
        self._verified[name] = stamp
        return path

    def read(self, name: str) -> bytes:
        """The content of a file, hashed as it was read."""
        entry, path = self._entry(name), self.path / name
        with self._explained(name, entry):
            content = files.read_bytes(path, _Unreadable, limit=entry.bytes)
            self._check(name, "bytes", len(content), entry.bytes)
            if self._verify:
                self._check(name, "sha256", hashlib.sha256(content).hexdigest(), entry.sha256)
        return content

    def graph(self, part: str) -> Path:
        """An ONNX file, by batch size or part; the files that it takes weights from are verified too."""
        name = _named(self.manifest.graphs, part, "graphs")
        path = self.file(name)
        for location in external_locations(path):
            self.file((PurePosixPath(name).parent / location).as_posix())
        return path

    def engine(self, part: str) -> bytes:
        """A compiled engine, by batch size or part."""
        return self.read(_named(self.manifest.engines, part, "engines"))

    def _entry(self, name: str) -> FileEntry:
        """What the manifest says of a file, which is inside the bundle."""
        if (entry := self.manifest.files.get(name)) is None:
            raise self._mismatch(name, "a file that is not listed", "one of files")
        root, real = (files.resolved(place, BundleError) for place in (self.path, self.path / name))
        if os.path.commonpath([root, real]) != root:
            raise self._mismatch(name, "a link that leaves the bundle", "a file inside it")
        return entry

    def _check(self, name: str, field: str, seen: object, needed: object) -> None:
        if seen != needed:
            raise self._mismatch(name, f"field {field} = {str(seen)[:16]}", str(needed)[:16])

    @contextlib.contextmanager
    def _explained(self, name: str, entry: FileEntry) -> Iterator[None]:
        """What the file system says, as something about the bundle."""
        try:
            yield
        except _Unreadable as cause:
            raise self._mismatch(name, cause.seen, f"{entry.bytes} bytes") from cause

    def _mismatch(self, name: str, seen: object, needed: object) -> BundleError:
        what = f"bundle {files.shown(self.path)}: file {files.shown(name)} does not match the manifest"
        return BundleError(what, seen=seen, needed=needed, remedy=_REBUILD)


def unfinished(folder: Path, manifest: Manifest) -> Bundle:
    """A bundle that is still being made: the files that lie in the folder, as they are. For trying its graphs."""
    entries = {name: FileEntry(bytes=size, sha256="0" * 64) for name, size in _sizes_in(folder).items()}
    return Bundle(folder, msgspec.structs.replace(manifest, files=entries), verify=False)


def _sizes_in(folder: Path) -> dict[str, int]:
    found = files.walk(folder, StorageError)
    return {file.relative_to(folder).as_posix(): files.size_of(file, StorageError) for file in found}


def _named(files_of: Mapping[str, str], part: str, field: str) -> str:
    if (name := files_of.get(part)) is None:
        seen, needed = sorted(files_of), f"one for {part}"
        remedy = "Build the bundle again with trt-build."
        raise BundleError(f"manifest field {field} is incomplete", seen=seen, needed=needed, remedy=remedy)
    return name


def open_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Read and verify a bundle.

    Parameters
    ----------
    path
        Its folder.
    verify
        Also hash every file (about 1 GB/s); False checks presence and size only.

    Raises
    ------
    BundleError
        It names the file, the field and the way out.
    """
    root = Path(path)
    while True:
        before = files.inode(root)
        try:
            return _opened(root, verify)
        except BundleError:
            if files.inode(root) == before:
                raise
            # replaced by a newer one while it was read: that one is read


def _opened(root: Path, verify: bool) -> Bundle:
    what = f"cannot open bundle {files.shown(root)}"
    needed = f"a directory with {MANIFEST}"
    try:
        if not files.is_folder(root, _Unreadable):
            seen = "a file" if files.exists(root, _Unreadable) else "nothing there"
            raise BundleError(what, seen=seen, needed=needed, remedy="Build one with trt-build.")
    except _Unreadable as cause:
        raise BundleError(what, seen=cause.seen, needed=needed, remedy=cause.remedy) from cause
    try:
        raw = files.read_bytes(root / MANIFEST, _Unreadable, limit=_LARGEST_MANIFEST)
    except _Unreadable as cause:
        raise BundleError(what, seen=f"{MANIFEST}: {cause.seen}", needed=needed, remedy=_REBUILD) from cause
    where = f"bundle {files.shown(root)}: {MANIFEST}"
    bundle = Bundle(root, parse_manifest(raw, where), verify=verify)
    for name in bundle.manifest.files:
        bundle.file(name)
    for key, kernel in bundle.manifest.kernels.items():
        check_binary(key, kernel, bundle.read(kernel.file), where=where, remedy=_REBUILD)
    return bundle


def check_output(path: str | os.PathLike[str]) -> None:
    """Raise StorageError, before the work, where `writing_bundle` could not write or would replace something else."""
    final = Path(path)
    files.check_writable(final, folder=True)
    if not files.is_folder(final, StorageError) or files.is_file(final / MANIFEST, StorageError):
        return
    if files.entries(final, StorageError):
        raise StorageError(
            f"will not replace {files.shown(final)}",
            seen="something that is not a bundle",
            needed="a free name, an empty folder or an older bundle",
            remedy="Choose another output folder with -o.",
        )


@contextlib.contextmanager
def writing_bundle(path: str | os.PathLike[str]) -> Iterator[tuple[Path, list[Manifest]]]:
    """Write a bundle atomically: fill the scratch folder, append one manifest to the list, and leave the block.

        with writing_bundle(out) as (scratch, manifests):
            (scratch / "graph.onnx").write_bytes(...)
            manifests.append(Manifest(...))          # `files` and `digest` are filled in here

    On any exception the scratch folder is removed and an older bundle at `path` stays as it was.
    Raises StorageError when the place cannot be written.
    """
    check_output(path)
    with files.atomic_folder(path) as scratch:
        manifests: list[Manifest] = []
        yield scratch, manifests
        (manifest,) = manifests
        listed = {
            name: FileEntry(bytes=size, sha256=files.sha256_of(scratch / name, StorageError))
            for name, size in _sizes_in(scratch).items()
        }
        where = f"bundle {files.shown(path)}"
        raw = sealed_json(msgspec.structs.replace(manifest, files=listed), where)
        (scratch / MANIFEST).write_bytes(raw)
