"""Licences are shown; one that forbids commercial use is accepted once, which the cache remembers with the date."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import date

from zoomrt.errors import UsageError
from zoomrt.files import cache_path, read_cached, write_cached
from zoomrt.models.published.records import Licence, Published

_MOST_BYTES = 1 << 20


def notices(published: Iterable[Published]) -> list[str]:
    """A line for each licence, with the files that are under it."""
    names: dict[Licence, list[str]] = {}
    for one in published:
        names.setdefault(one.licence, []).append(one.name)
    return [
        f"licence of {' and '.join(files)}: {licence.name}"
        f"{'' if licence.commercial else ', no commercial use'}, {licence.url}"
        for licence, files in names.items()
    ]


def accept(published: Iterable[Published], *, now: bool) -> None:
    """Raise UsageError where a licence that forbids commercial use has been accepted neither before nor `now`."""
    held = _accepted()
    needed = {one.licence: one.name for one in published if not one.licence.commercial}
    new = {licence: name for licence, name in needed.items() if licence.url not in held}
    if not new:
        return
    if not now:
        raise UsageError(
            f"{' and '.join(new.values())} may not be used commercially",
            seen=" and ".join(f"{licence.name}, not accepted yet" for licence in new),
            needed="--accept-licence, once",
            remedy=f"Read {' and '.join(licence.url for licence in new)}; to accept, add --accept-licence.",
        )
    today = date.today().isoformat()
    held |= {licence.url: {"name": licence.name, "accepted": today} for licence in new}
    write_cached(cache_path("licences.json"), json.dumps(held, indent=2, sort_keys=True).encode())


def _accepted() -> dict[str, object]:
    """Address of a licence -> its name and when it was accepted; nothing where the file is missing or damaged."""
    try:
        held = json.loads(read_cached(cache_path("licences.json"), _MOST_BYTES) or b"{}")
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}
