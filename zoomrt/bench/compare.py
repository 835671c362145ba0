"""Two records beside each other: what changed beyond noise, and whether the engine got slower than is allowed.

The two were measured at different times, so nothing is paired: a change counts where the intervals of the medians do
not meet. Machines drift between runs, and no interval knows that; the lines say what else differs between the records.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zoomrt.bench.record import Record
from zoomrt.bench.statistics import CONFIDENCE
from zoomrt.errors import InputError

_PSNR_STEP_DB = 0.1


@dataclass(frozen=True)
class Change:
    """One row. ratio : of the medians, after over before. least, most : by the ends of the intervals.
    coverage : of the two intervals, the lower one."""

    name: str
    before_ms: float
    after_ms: float
    ratio: float
    least: float
    most: float
    coverage: float
    psnr_db: tuple[float | None, float | None]

    @property
    def enough(self) -> bool:
        """Whether there were runs enough to tell."""
        return self.coverage >= CONFIDENCE

    @property
    def beyond_noise(self) -> bool:
        return self.enough and not self.least <= 1 <= self.most


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
                coverage=min(was.coverage, now.coverage),
                psnr_db=(old[name].psnr_db, new[name].psnr_db),
            )
        )
    only = [f"{name} is timed in one record only" for name in sorted(old.keys() ^ new.keys())]
    engine = before.rows[0].name
    if engine not in old.keys() | new.keys():
        only.append(f"{engine} is timed in neither record")
    return Changes(tuple(rows), engine, tuple(only), tuple(_unlike(before, after)))


def check_comparable(before: Record, after: Record) -> None:
    """Raises InputError where the times are of different work or of different machines: no check may pass on that."""
    facts = ("what is timed", "input", "threads", "tile", "cpu", "cores")
    if told := _unlike(before, after, facts):
        remedy = "Measure both in the same way on the same machine, or leave out --fail-if."
        raise InputError("cannot check one record by the other", seen=", ".join(told), needed="the same", remedy=remedy)


def is_slower(found: Changes, allowed: float) -> bool:
    """Whether the engine's median grew by more than that share, and beyond noise. Not measured twice, or with too few
    runs to tell, counts as slower: a check must not pass because there was nothing to check."""
    engine = next((row for row in found.rows if row.name == found.engine), None)
    return engine is None or not engine.enough or (engine.beyond_noise and engine.ratio > 1 + allowed)


def lines(found: Changes) -> list[str]:
    """For people."""
    said = []
    for row in found.rows:
        word = "slower" if row.ratio > 1 else "faster"
        verdict = f"{abs(row.ratio - 1):.1%} {word}" if row.beyond_noise else "no change beyond noise"
        if not row.enough:
            verdict = f"too few runs to tell (intervals hold the medians with {row.coverage:.0%})"
        said.append(
            f"{row.name}: {row.before_ms:.2f} -> {row.after_ms:.2f} ms, "
            f"ratio {row.ratio:.3f} ({row.least:.3f} to {row.most:.3f}): {verdict}"
        )
        was, now = row.psnr_db
        if was is not None and now is not None and abs(was - now) >= _PSNR_STEP_DB:
            said.append(f"{row.name}: PSNR {was:.1f} -> {now:.1f} dB")
    return [*said, *found.only, *(f"not the same: {one}" for one in found.differs)]


def _unlike(before: Record, after: Record, names: Iterable[str] = ()) -> list[str]:
    """Which facts of two records are not the same: all, or those named."""
    was, now = _facts(before), _facts(after)
    known = names or [*was, *sorted(now.keys() - was.keys())]
    return [f"{name} ({was.get(name)} -> {now.get(name)})" for name in known if was.get(name) != now.get(name)]


def _facts(record: Record) -> dict[str, object]:
    return {
        **{name: record.machine.get(name) for name in ("cpu", "cores", "affinity", "governor")},
        "threads": record.threads,
        "what is timed": record.what,
        "input": record.input,
        "bundle": record.bundle.get("key"),
        **{name: record.bundle.get(name) for name in ("target", "tile", "precision")},
        "code": record.code,
        **dict(sorted(record.versions.items())),
    }
