"""The planner against a simulated engine and clock: frames in time, all of the budget used, recovery."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zoomrt.runtime.zoom.deadline import CostEstimate, Planner, mode_of

DEVIATIONS, PROBE_EVERY = 2.0, 30

COSTS = st.floats(1e-3, 1.0)


@given(st.lists(COSTS, min_size=1, max_size=50))
def test_the_estimate_is_rfc_6298s(costs: list[float]) -> None:
    """The recurrences of the RFC, written out; its order: deviation first, with the old mean."""
    estimate = CostEstimate()
    assert estimate.seconds is None
    mean, deviation = costs[0], costs[0] / 2
    estimate.observe(costs[0])
    for cost in costs[1:]:
        deviation = 0.75 * deviation + 0.25 * abs(mean - cost)
        mean = 0.875 * mean + 0.125 * cost
        estimate.observe(cost)
    assert estimate.seconds == pytest.approx(mean + DEVIATIONS * deviation)


@given(st.integers(0, 100), st.floats(0, 10))
def test_without_a_budget_every_tile_is_computed(missing: int, spent: float) -> None:
    planner = Planner(None)
    planner.tile.observe(100.0)
    assert planner.tiles_now(spent, missing, 50.0) == missing
    assert planner.time_left(spent) is None


def steady(budget: float, tile: float, finish: float) -> Planner:
    planner = Planner(budget)
    for _ in range(60):
        planner.tile.observe(tile)
        planner.finish.observe(finish)
    return planner


@given(COSTS, COSTS, COSTS, st.integers(1, 60), st.floats(0, 0.5), st.floats(0, 0.5))
def test_with_steady_costs_what_is_started_fits_and_what_fits_is_started(
    budget: float, tile: float, finish: float, missing: int, spent: float, busy: float
) -> None:
    planner = steady(budget, tile, finish)
    count = planner.tiles_now(spent, missing, busy)
    assert 0 <= count <= missing
    assert count == 0 or spent + busy + count * tile + finish <= budget * (1 + 1e-4)
    if count < missing:  # one more would be late, by what the estimates keep in reserve at most
        reserve = (count + 1) * (planner.tile.seconds - tile) + planner.finish.seconds - finish  # type: ignore[operator]
        assert spent + busy + (count + 1) * tile + finish + reserve > budget * (1 - 1e-4)
    left = planner.time_left(spent)
    assert left is not None
    assert 0 <= left <= budget


def simulate(
    planner: Planner, budget: float, frames: int, tiles: int, cost: float, jitter: float, finish: float, seed: int
) -> list[tuple[float, int]]:
    """(latency, tiles shown) of each frame of a moving view, on a clock that only this loop moves.

    One frame arrives each `budget`. Waiting ends at `time_left`; the engine finishes the tile it is in, and owes the
    rest of it to the frame after.
    """
    rng = np.random.default_rng(seed)
    clock, engine_free, answers = 0.0, 0.0, []
    for frame in range(frames):
        arrival = frame * budget
        clock = max(clock, arrival)
        count = planner.tiles_now(clock - arrival, tiles, max(engine_free - clock, 0.0))
        deadline = clock + (planner.time_left(clock - arrival) or 0.0)
        shown = 0
        engine_free = max(engine_free, clock)
        for _ in range(count):
            if engine_free >= deadline:
                break  # replaced before it began
            seconds = cost * float(np.exp(rng.normal(0, jitter)))
            planner.tile.observe(seconds)
            engine_free += seconds
            shown += engine_free <= deadline
        clock = max(clock, min(deadline, engine_free) if count else clock) + finish
        planner.finish.observe(finish)
        answers.append((clock - arrival, shown))
    return answers


@given(
    budget=st.floats(0.01, 0.1),
    overload=st.floats(0.05, 40),
    jitter=st.floats(0, 0.3),
    share=st.floats(0.01, 0.5),
    tiles=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
)
@example(0.0625, 0.375, 0.0, 0.5, 1, 0)  # what a first run leaves in doubt kept a tile out that would fit
def test_frames_are_answered_at_their_rate_whatever_a_tile_costs(
    budget: float, overload: float, jitter: float, share: float, tiles: int, seed: int
) -> None:
    """`overload` 4 and 8 tiles: the tiles of a frame take 4 budgets. After the first frames none is late."""
    answers = simulate(Planner(budget), budget, 200, tiles, overload * budget / tiles, jitter, share * budget, seed)
    late = [latency for latency, _ in answers[40:]]
    assert max(late) <= budget * 1.01
    if overload * (1 + 4 * jitter) < 0.4:  # room for all, with reserve: then all are shown
        assert [shown for _, shown in answers[40:]] == [tiles] * 160
    if overload / tiles * (1 + 4 * jitter) < 0.2 and overload > 1:  # room for some: the centre is never starved
        assert min(shown for _, shown in answers[40:]) >= 1


def test_a_slow_spell_is_forgotten() -> None:
    planner = steady(0.033, 0.002, 0.005)
    assert planner.tiles_now(0, 8) == 8
    for _ in range(30):
        planner.tile.observe(3.0)
    started = [planner.tiles_now(0, 8) for _ in range(10 * PROBE_EVERY)]
    assert sum(started) == pytest.approx(10, abs=1)  # one tile in each PROBE_EVERY frames
    frames = 0
    while planner.tiles_now(0, 8) < 8:
        frames += 1
        assert frames < 100 * PROBE_EVERY
        if frames % PROBE_EVERY == 0:
            planner.tile.observe(0.002)
    assert planner.tiles_now(0, 8) == 8


def test_an_unknown_cost_is_found_out_with_one_tile() -> None:
    assert Planner(0.033).tiles_now(0, 8) == 1
    assert Planner(0.033).tiles_now(0, 0) == 0


@pytest.mark.parametrize(
    ("shown", "wanted", "mode"), [(0, 0, "full"), (3, 3, "full"), (1, 3, "centre_first"), (0, 3, "bicubic")]
)
def test_modes(shown: int, wanted: int, mode: str) -> None:
    assert mode_of(shown, wanted) == mode
