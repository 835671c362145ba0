"""The options of trt-build that fetch published files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from zoomrt.errors import UsageError
from zoomrt.export.request import BuildRequest
from zoomrt.models.published.fetch import fetch
from zoomrt.models.published.records import Published, chosen


def needed(request: BuildRequest, weights: str | None) -> tuple[Published, ...]:
    """What a build has to fetch or to have here: nothing where weights are given or inside the package.

    weights : the name of a published checkpoint, from --published. Raises UsageError.
    """
    family = request.family
    if weights is not None and (request.weights is not None or family is None or not family.published):
        raise UsageError(
            "nothing published can be chosen",
            seen=f"--published {weights}" + (" and --weights" if request.weights else ""),
            needed="--model with a family whose weights are published, and no --weights",
            remedy="Leave one of them out; trt-build --list names what is published.",
        )
    if request.weights is not None or family is None or family.embedded_weights is not None:
        return ()
    return chosen(family.published, request.options, weights)


def with_stand_ins(request: BuildRequest, items: tuple[Published, ...]) -> BuildRequest:
    """The request as it will be, to be checked before anything is fetched."""
    places: dict[str, Path] = {one.key: Path() for one in items}
    return _with(request, places)


def with_files(
    request: BuildRequest,
    items: tuple[Published, ...],
    *,
    accept_licence: bool,
    offline: bool,
    on_progress: Callable[[str, float], None],
) -> BuildRequest:
    """The request with the published files, which are fetched where they are not here. Raises as `fetch`."""
    places = fetch(items, request.options, accept_licence=accept_licence, offline=offline, on_progress=on_progress)
    return _with(request, places)


def _with(request: BuildRequest, places: dict[str, Path]) -> BuildRequest:
    """places : by what stands for them, `weights` or an option's key."""
    options = {key: place for key, place in places.items() if key != "weights"}
    return replace(request, weights=places.get("weights", request.weights), options={**request.options, **options})
