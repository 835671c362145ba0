"""Histograms against numpy's, however the values arrive; ranges against slow searches in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.calibration import ranges
from zoomrt.calibration.observers import Observer
from zoomrt.calibration.ranges import METHODS, range_of
from zoomrt.errors import RuntimeFault, UsageError

BINS = 2048  # as NVIDIA's pytorch-quantization has it, and the percentile below: calib/histogram.py

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)


def observed(*tensors: torch.Tensor, channel_axis: int = -1) -> Observer:
    observer = Observer(tensors[0].shape[channel_axis])
    for tensor in tensors:
        observer.update(tensor, channel_axis)
    return observer


def numpy_counts(values: np.ndarray, exponent: int) -> np.ndarray:
    return np.histogram(np.abs(values.astype(np.float64)), BINS, (0.0, math.ldexp(1.0, exponent)))[0]


@given(st.lists(st.lists(FLOATS, min_size=1, max_size=20), min_size=1, max_size=5))
def test_streaming_equals_all_at_once(parts: list[list[float]]) -> None:
    """Bin for bin, whatever the order in which the range had to grow."""
    tensors = [torch.tensor(part)[:, None] for part in parts]
    streamed = observed(*tensors)
    whole = observed(torch.cat(tensors))
    assert torch.equal(streamed.counts, whole.counts)
    assert streamed.exponent == whole.exponent
    values = np.concatenate([np.float32(part) for part in parts])
    assert streamed.largest == np.abs(values).max()
    np.testing.assert_array_equal(streamed.counts.numpy(), numpy_counts(values, streamed.exponent))
    if streamed.largest > 2.0**-90:
        assert math.ldexp(1.0, streamed.exponent - 1) <= streamed.largest < math.ldexp(1.0, streamed.exponent)


def test_zeros_leave_the_range_as_it_is() -> None:
    zeros, small = torch.zeros(3, 1), torch.full((1, 1), 2.0**-20)
    assert observed(zeros, small).exponent == observed(small).exponent == -19


def test_values_on_the_edges_of_bins() -> None:
    edges = np.float32(np.arange(BINS) / BINS)
    below = np.nextafter(edges[1:], np.float32(0))
    values = np.concatenate([edges, below])
    np.testing.assert_array_equal(observed(torch.from_numpy(values)[:, None]).counts, numpy_counts(values, 0))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channel_maxima(rng: np.random.Generator, axis: int) -> None:
    values = rng.normal(size=(2, 5, 4, 3)).astype(np.float32)
    observer = observed(torch.from_numpy(values), torch.from_numpy(values * 0.5), channel_axis=axis)
    others = tuple({0, 1, 2, 3} - {axis % 4})
    np.testing.assert_array_equal(observer.channel_max, np.abs(values).max(others))


def test_state_comes_back(rng: np.random.Generator) -> None:
    first, second = (torch.from_numpy(rng.normal(size=(50, 4)).astype(np.float32)) for _ in range(2))
    resumed = Observer.from_state(observed(first).state())
    resumed.update(second * 9, -1)
    straight = observed(first, second * 9)
    assert all(torch.equal(value, straight.state()[key]) for key, value in resumed.state().items())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite(bad: float) -> None:
    with pytest.raises(RuntimeFault, match="finite"):
        observed(torch.tensor([[1.0], [bad]]))


@pytest.mark.parametrize("method", METHODS)
def test_only_zeros(method: str) -> None:
    assert range_of(observed(torch.zeros(10, 2)), method) == 0.0


def test_unknown_method() -> None:
    with pytest.raises(UsageError, match="entropy"):
        range_of(observed(torch.ones(1, 1)), "entropi")


# --- ranges ---------------------------------------------------------------------------------------------------------


def draw(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Activations as they occur: bell-shaped, after SiLU, heavy-tailed, and with one far outlier."""
    values = rng.normal(size=20_000) * rng.uniform(0.01, 30)
    if kind == "silu":
        values = values / (1 + np.exp(-values))
    elif kind == "heavy":
        values = rng.laplace(size=20_000) ** 3
    elif kind == "outlier":
        values[0] = 20 * np.abs(values).max()
    return values.astype(np.float32)


KINDS = ["normal", "silu", "heavy", "outlier"]


@pytest.mark.parametrize("kind", KINDS)
def test_max_and_percentile(rng: np.random.Generator, kind: str) -> None:
    values = draw(rng, kind)
    observer = observed(torch.from_numpy(values)[:, None])
    assert range_of(observer, "max") == np.abs(values).max()
    wanted = np.sort(np.abs(values))[math.ceil(20_000 * 99.99 / 100) - 1]  # the smallest that holds the share
    assert 0 <= range_of(observer, "percentile") - wanted <= observer.width * 1.001


def rounding_error(values: np.ndarray, amax: float) -> float:
    scale = amax / 127
    return float(np.mean((np.clip(np.round(values / scale), -127, 127) * scale - values) ** 2))


@pytest.mark.parametrize("kind", KINDS)
def test_mse_finds_the_best_of_a_brute_force_search(rng: np.random.Generator, kind: str) -> None:
    """On the values themselves, every half percent. The bins and the 4 % grid cost up to 4 %."""
    values = draw(rng, kind).astype(np.float64)
    found = range_of(observed(torch.from_numpy(values)[:, None]), "mse")
    largest = np.abs(values).max()
    best = min(rounding_error(values, largest * 0.995**step) for step in range(1000))
    assert rounding_error(values, found) <= 1.1 * best


def test_mse_clips_what_is_rare() -> None:
    """A single value far out is not worth a coarser scale for a hundred million others."""
    counts = np.zeros(BINS)
    counts[:100], counts[-1] = 1e6, 1.0
    assert 96 <= ranges._mse(counts, 0.5, BINS * 0.5) / 0.5 <= 110


def test_closed_form_of_the_squared_error(rng: np.random.Generator) -> None:
    """Against 2000 points in each bin, rounded one by one."""
    counts = rng.integers(0, 50, 64).astype(np.float64)
    width, amax = float(rng.uniform(0.01, 2)), float(rng.uniform(0.5, 64))
    points = (np.arange(64)[:, None] + (np.arange(2000) + 0.5) / 2000) * width
    scale = amax / 127
    errors = (np.minimum(np.rint(points / scale), 127) * scale - points) ** 2
    wanted = float((errors.mean(1) * counts).sum())
    got = ranges._squared_error(counts / width, np.arange(65) * width, amax)
    assert got == pytest.approx(wanted, rel=1e-3)


def slow_divergence(counts: list[int], bins: int) -> float:
    """As the talk describes it, one bin at a time."""
    wanted = [float(count) for count in counts[:bins]]
    had = [0.0] * bins
    for level in range(128):
        members = [bin for bin in range(bins) if bin * 128 // bins == level]
        filled = [bin for bin in members if counts[bin] > 0]
        for bin in filled:
            had[bin] = sum(counts[other] for other in members) / len(filled)
    wanted[-1] += sum(counts[bins:])
    total_wanted, total_had = sum(wanted), sum(had)
    divergence = 0.0
    for p, q in zip(wanted, had, strict=True):
        if p > 0 and q == 0:
            return math.inf
        if p > 0:
            divergence += p / total_wanted * math.log((p / total_wanted) / (q / total_had))
    return divergence


def test_entropy_against_a_slow_loop(rng: np.random.Generator) -> None:
    counts = rng.poisson(200 * np.exp(-np.arange(300) / rng.uniform(20, 60)))
    counts[rng.integers(280, 300)] += 1  # an outlier, so that clipping has a price and a gain
    for bins in (128, 129, 200, 255, 256, 257, 299):
        got = ranges._divergence(counts.astype(np.float64), bins)
        assert got == pytest.approx(slow_divergence(counts.tolist(), bins), rel=1e-9)
    top = int(np.flatnonzero(counts)[-1]) + 1
    best = min(range(128, top + 1), key=lambda bins: slow_divergence(counts.tolist(), bins))
    padded = np.zeros(BINS)
    padded[:300] = counts
    assert ranges._entropy(padded, 0.5, 0.0) == best * 0.5


@pytest.mark.parametrize("method", METHODS)
def test_range_scales_with_the_values(method: str, rng: np.random.Generator) -> None:
    """Powers of two move the bins along, so the range follows exactly."""
    values = torch.from_numpy(draw(rng, "heavy"))[:, None]
    assert range_of(observed(values * 8), method) == 8 * range_of(observed(values), method)
    assert 0 < range_of(observed(values), method) <= float(values.abs().max())
