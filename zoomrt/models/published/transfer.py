"""What the two ways of fetching share: how far they are, and why a file did not come."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

Reached = Callable[[int, int | None], None]
"""Called with the bytes that are here, and those there will be where that is known."""


def own_version() -> str:
    """What servers are told about the asker, beside its name."""
    try:
        return version("zoomrt")
    except PackageNotFoundError:
        return "0"


class Failure(Exception):
    """seen, needed : as in `ZoomrtError`. advice : what else may help, a sentence or nothing.

    elsewhere : whether a mirror may do better: this server refuses, but the network works.
    """

    def __init__(self, seen: str, needed: str, advice: str = "", *, elsewhere: bool = False) -> None:
        self.seen, self.needed, self.advice, self.elsewhere = seen, needed, advice, elsewhere
        super().__init__(seen)


def refusal(status: int, server: str, retry_after: str = "", *, access: str = "") -> Failure:
    """For a status of HTTP. access : how one gets access there, a sentence."""
    seen = f"HTTP status {status} from {server}"
    if status in (401, 403):
        return Failure(f"{seen}: gated, private or gone", "a file that may be read", access, elsewhere=True)
    if status in (404, 410):
        return Failure(f"{seen}: no such file any more", "a file at that address", elsewhere=True)
    if status == 429:
        wait = f"in {retry_after} s" if retry_after.isdigit() else "later"
        return Failure(f"{seen}: too many requests", "a server that answers", f"Try again {wait}.", elsewhere=True)
    return Failure(seen, "a server that answers", "Try again later.", elsewhere=True)
