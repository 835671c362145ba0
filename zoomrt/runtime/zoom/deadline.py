"""What fits into a frame's budget: pure arithmetic over measured costs, no clock, no threads.

A cost is estimated as TCP estimates round trips (Jacobson 1988, RFC 6298): a running mean plus some running deviations,
so that one slow run is not taken for the rule, and a jittery engine gets more room than a steady one.
A budget's frame is answered in one of three ways: with all its tiles, with those nearest to the centre that fit, or
without any. The tiles that are missing show as bicubic.
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["full", "centre_first", "bicubic", "dropped"]

GAIN, DEVIATION_GAIN = 1 / 8, 1 / 4
"""Share of a new sample in mean and deviation (RFC 6298 section 2.3)."""
DEVIATIONS = 2.0
"""Deviations above the mean that a plan counts on. TCP takes 4, where being early costs more than being late does here:
a tile that is late shows as bicubic for one frame."""
PROBE_EVERY = 30
"""Frames without any tile after which one is run all the same, beside the answer: costs that are not measured do not
fall, and an engine that was slow once would never be asked again."""
PROBE_UNSURE = 3
"""The same where the mean would fit and only what is added for deviations does not: runs make an estimate surer."""


class CostEstimate:
    """Seconds that something takes, from the runs seen so far."""

    def __init__(self) -> None:
        self.mean: float | None = None
        self.deviation = 0.0

    def observe(self, seconds: float) -> None:
        """Take a measured run, 0 or more."""
        if self.mean is None:
            self.mean, self.deviation = seconds, seconds / 2
            return
        self.deviation += DEVIATION_GAIN * (abs(seconds - self.mean) - self.deviation)
        self.mean += GAIN * (seconds - self.mean)

    def forget(self) -> None:
        """Begin again: it is another engine now."""
        self.mean, self.deviation = None, 0.0

    @property
    def seconds(self) -> float | None:
        """What to count on; None before the first run."""
        return None if self.mean is None else self.mean + DEVIATIONS * self.deviation


class Planner:
    """Decides, frame by frame, how many tiles to compute before answering.

    budget_s : from a frame's arrival to its answer; None means that every tile is computed, however long it takes.

    `tile` and `finish` are fed by whoever measures: one tile in the engine, and what follows the last tile (blend,
    resample, conversion).
    """

    def __init__(self, budget_s: float | None) -> None:
        self.budget_s = budget_s
        self.tile = CostEstimate()
        self.finish = CostEstimate()
        self._idle_frames = 0

    def time_left(self, spent_s: float) -> float | None:
        """Seconds until waiting for tiles must end, 0 or more, `spent_s` after the frame arrived; None for no limit."""
        return None if self.budget_s is None else max(self.budget_s - (self.finish.seconds or 0.0) - spent_s, 0.0)

    def tiles_now(self, spent_s: float, missing: int, busy_s: float = 0.0) -> int:
        """Tiles to start now, of `missing`, with `spent_s` gone since the frame arrived.

        busy_s : what the engine still owes to an earlier frame, which comes first.
        """
        left = self.time_left(spent_s)
        if left is None or missing == 0:
            return missing
        if self.tile.seconds is None:
            return 1  # nobody knows what a tile costs: find out
        room = max(left - busy_s, 0.0)
        chosen = missing if room >= self.tile.seconds * missing else int(room / self.tile.seconds)
        self._idle_frames = 0 if chosen else self._idle_frames + 1
        if self._idle_frames > (PROBE_UNSURE if room >= (self.tile.mean or 0.0) else PROBE_EVERY):
            self._idle_frames = 0
            return 1
        return chosen


def mode_of(shown: int, needed: int) -> Mode:
    """How a frame was answered: tiles shown, of those that its crop needs."""
    if shown == needed:
        return "full"
    return "centre_first" if shown else "bicubic"
