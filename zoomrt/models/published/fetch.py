"""Bring published files here: see what is missing and what its licence is, fetch it, or say what to do by hand.

Needs no torch. pooch and huggingface_hub (extra `fetch`) are imported only where something is to be fetched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from zoomrt.errors import FetchError, MissingDependency, StorageError
from zoomrt.files import check_writable, exists, sha256_of, shown
from zoomrt.models.published.cache import by_hand, endpoint, found, huggingface_hub, misfit, root_of, weights_folder
from zoomrt.models.published.licences import accept
from zoomrt.models.published.records import Published, PublishedFile, Repository, files_for, size_text
from zoomrt.models.published.transfer import Failure

if TYPE_CHECKING:
    from zoomrt.models.published.transfer import Reached

Progress = Callable[[str, float], None]
"""Called with (what is fetched, fraction of it that is here)."""

_TRUE = ("1", "ON", "YES", "TRUE")


def fetch(
    published: Iterable[Published],
    given: Mapping[str, object] | None = None,
    *,
    accept_licence: bool = False,
    offline: bool = False,
    on_progress: Progress | None = None,
) -> dict[str, Path]:
    """The files, by the key of what each stands for; those that are here are not fetched again.

    given : the family's options, which may make some files superfluous.
    offline : open no connection; HF_HUB_OFFLINE=1 says the same.

    Raises FetchError, StorageError, MissingDependency, UsageError for a licence that is not accepted.
    """
    items, options = tuple(published), given or {}
    accept(items, now=accept_licence)
    places = {one.key: found(one, options) for one in items}
    missing = [one for one in items if places[one.key] is None]
    for one in items:
        if one not in missing:
            _check_kept(one, places[one.key], options)
    if missing and (offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE):
        raise _offline(missing, options)
    for one in missing:
        places[one.key] = _fetched(one, files_for(one, options), on_progress or _silent)
    return {key: place for key, place in places.items() if place is not None}


def _silent(_stage: str, _fraction: float) -> None:
    """Progress for callers who did not ask for it."""


def _fetched(one: Published, files: tuple[PublishedFile, ...], on_progress: Progress) -> Path:
    """Fetch all files of one; those of the hub from the first repository that does not refuse them."""
    if not one.repositories:
        return _one_file(one, files[0], None, on_progress)
    for repository in one.repositories:
        try:
            paths = [_one_file(one, file, repository, on_progress) for file in files]
            return root_of(paths[0], files[0]) if one.folder else paths[0]
        except FetchError as problem:
            cause = problem.__cause__
            if repository == one.repositories[-1] or not (isinstance(cause, Failure) and cause.elsewhere):
                raise
    raise AssertionError("a published file without a place")


def _one_file(one: Published, file: PublishedFile, repository: Repository | None, on_progress: Progress) -> Path:
    label = f"fetch {file.name} ({size_text([file])})"

    def reached(here: int, whole: int | None) -> None:
        on_progress(label, here / whole if whole else 0.0)

    on_progress(label, 0.0)
    try:
        return _downloaded(one, file, repository, reached)
    except Failure as cause:
        raise FetchError(
            f"cannot fetch {file.name}",
            seen=cause.seen,
            needed=cause.needed,
            remedy=f"{cause.advice} By hand: download {_address(file, repository)} to {shown(by_hand(one, file))}.",
        ) from cause
    except StorageError as cause:
        variable = "ZOOMRT_CACHE" if repository is None else "HF_HOME"
        raise StorageError(
            cause.what,
            seen=cause.seen,
            needed=f"a writable place with room for {file.name}, {size_text([file])}",
            remedy=f"Make room, or set {variable} to another place. By hand: download {_address(file, repository)} "
            f"anywhere and pass {_flag(one)}.",
        ) from cause


def _downloaded(one: Published, file: PublishedFile, repository: Repository | None, reached: Reached) -> Path:
    try:
        from zoomrt.models.published import hub, web
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "published files are fetched by packages that are not installed",
            seen=f"no module {cause.name}",
            needed="the extra 'fetch'",
            remedy=f"Run: pip install 'zoomrt[fetch]'. By hand: download {_address(file, repository)} to "
            f"{shown(by_hand(one, file))}.",
        ) from cause
    if repository is None:
        _check_room(weights_folder(), file)
        return web.download(file, by_hand(one, file), reached)
    _check_room(Path(huggingface_hub().constants.HF_HUB_CACHE), file)
    return hub.download(repository, file, reached)


def _check_room(folder: Path, file: PublishedFile) -> None:
    """StorageError before a connection is opened, where the file cannot be kept."""
    check_writable(folder / file.name)
    nearest = next(place for place in (folder, *folder.parents) if exists(place))
    free = shutil.disk_usage(nearest).free
    if file.size is not None and free < file.size:
        raise StorageError(
            f"cannot write {shown(folder)}", seen=f"{free} bytes free", needed=f"{file.size} bytes", remedy="Make room."
        )


def _check_kept(one: Published, place: Path | None, given: Mapping[str, object]) -> None:
    """Files in our own folder, which may have been put there by hand, are held against their published hashes."""
    if place is None or weights_folder() not in (place, *place.parents):
        return
    for file in files_for(one, given):
        kept = by_hand(one, file)
        if file.sha256 and exists(kept) and (seen := sha256_of(kept)) != file.sha256:
            raise FetchError(
                f"{shown(kept)} is not the published file",
                seen=f"SHA-256 {seen}",
                needed=file.sha256,
                remedy="Delete it, then it is fetched again; or pass your own file with " + _flag(one) + ".",
            )


def _offline(missing: list[Published], given: Mapping[str, object]) -> FetchError:
    """What is missing, where it is published, and where to put it."""
    files = {one: files_for(one, given) for one in missing}
    wrong = [text for one in missing for file in files[one] if (text := misfit(by_hand(one, file), file))]
    return FetchError(
        f"cannot fetch {' and '.join(one.name for one in missing)} without a network",
        seen=" and ".join(["--offline or HF_HUB_OFFLINE", *wrong]),
        needed=f"the published files here, {size_text([file for one in missing for file in files[one]])}",
        remedy=f"Download by hand: {'; '.join(_errand(one, files[one]) for one in missing)}.",
    )


def _errand(one: Published, files: tuple[PublishedFile, ...]) -> str:
    """Where to get what, and where to put it."""
    repository = one.repositories[0] if one.repositories else None
    place = by_hand(one, files[0])
    if not one.folder or repository is None:
        return f"{_address(files[0], repository)} to {shown(place)}"
    names = ", ".join(file.place for file in files)
    folder = shown(root_of(place, files[0]))
    return f"{names} of {endpoint()}/{repository.name}/tree/{repository.revision} to the folder {folder}"


def _address(file: PublishedFile, repository: Repository | None) -> str:
    """Where a browser finds the file."""
    if repository is None:
        return file.place
    return f"{endpoint()}/{repository.name}/resolve/{repository.revision}/{file.place}"


def _flag(one: Published) -> str:
    return f"--{one.key.replace('_', '-')} {'FOLDER' if one.folder else 'FILE'}"
