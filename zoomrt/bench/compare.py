"""Two records beside each other: what changed beyond noise, and whether the engine got slower than is allowed.

The two were measured at different times, so nothing is paired: a change counts where the intervals of the medians do
not meet. Machines drift between runs, and no interval knows that; the lines say what else differs between the records.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoomrt.bench.record import Record

__all__ = ["Change", "Changes", "changes", "is_slower", "lines"]

_PSNR_STEP_DB = 0.1


@dataclass(frozen=True)
class Change:
    """One row. ratio : of the medians, after over before. least, most : by the ends of the intervals."""

    name: str
    before_ms: float
    after_ms: float
    ratio: float
    least: float
    most: float
    psnr_db: tuple[float | None, float | None]

    @property
    def beyond_noise(self) -> bool:
        return not self.least <= 1 <= self.most


@dataclass(frozen=True)
class Changes:
    """engine : the first row of the record before, which `--fail-if` is about. differs : what else is not the same."""

    rows: tuple[Change, ...]
    engine: str
    only: tuple[str, ...]
    differs: tuple[str, ...]


def changes(before: Record, after: Record) -> Changes:
    """Rows with figures in both, by name."""
    old = {row.name: row for row in before.rows if row.latency is not None}
    new = {row.name: row for row in after.rows if row.latency is not None}
    rows = []
    for name in [name for name in old if name in new]:
        was, now = old[name].latency, new[name].latency
        assert was is not None
        assert now is not None
        rows.append(
            Change(
                name=name,
                before_ms=was.p50_ms,
                after_ms=now.p50_ms,
                ratio=now.p50_ms / was.p50_ms,
                least=now.interval_ms[0] / was.interval_ms[1],
                most=now.interval_ms[1] / was.interval_ms[0],
                psnr_db=(old[name].psnr_db, new[name].psnr_db),
            )
        )
    only = [f"{name} is in one record only" for name in sorted(old.keys() ^ new.keys())]
    return Changes(tuple(rows), before.rows[0].name, tuple(only), tuple(_differences(before, after)))


def is_slower(found: Changes, allowed: float) -> bool:
    """Whether the engine's median grew by more than that share, and beyond noise. Not measured twice counts as slower:
    a check must not pass because there was nothing to check."""
    engine = next((row for row in found.rows if row.name == found.engine), None)
    return engine is None or (engine.beyond_noise and engine.ratio > 1 + allowed)


def lines(found: Changes) -> list[str]:
    """For people."""
    said = []
    for row in found.rows:
        word = "slower" if row.ratio > 1 else "faster"
        verdict = f"{abs(row.ratio - 1):.1%} {word}" if row.beyond_noise else "no change beyond noise"
        said.append(
            f"{row.name}: {row.before_ms:.2f} -> {row.after_ms:.2f} ms, "
            f"ratio {row.ratio:.3f} ({row.least:.3f} to {row.most:.3f}): {verdict}"
        )
        was, now = row.psnr_db
        if was is not None and now is not None and abs(was - now) >= _PSNR_STEP_DB:
            said.append(f"{row.name}: PSNR {was:.1f} -> {now:.1f} dB")
    return [*said, *found.only, *(f"not the same: {one}" for one in found.differs)]


def _differences(before: Record, after: Record) -> list[str]:
    pairs = {
        "machine": (before.machine.get("cpu"), after.machine.get("cpu")),
        "threads": (before.threads, after.threads),
        "what is timed": (before.what, after.what),
        "input": (before.input, after.input),
        "bundle": (before.bundle.get("key"), after.bundle.get("key")),
        "precision": (before.bundle.get("precision"), after.bundle.get("precision")),
        "code": (before.code, after.code),
    }
    names = sorted(before.versions.keys() | after.versions.keys())
    pairs |= {name: (before.versions.get(name), after.versions.get(name)) for name in names}
    return [f"{name} ({was} -> {now})" for name, (was, now) in pairs.items() if was != now]
