"""Resampling against a slow float64 loop and against Pillow; its parts against the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from zoomrt.runtime.tiles.resample import BICUBIC, LANCZOS, Kernel, add_resampled, axis_sum, cut, plan_axis

KERNELS = {"bicubic": BICUBIC, "lanczos": LANCZOS}


def kernel_value(name: str, x: float) -> float:
    """The textbook formulas, one number at a time."""
    x = abs(x)
    if name == "lanczos":
        if x >= 3:
            return 0.0
        return 1.0 if x == 0 else 3 * np.sin(np.pi * x) * np.sin(np.pi * x / 3) / (np.pi * x) ** 2
    a = -0.5
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def slow_matrix(start: float, stop: float, count: int, size: int, name: str) -> NDArray[np.float64]:
    """(count, size) weights by a double loop over the definition."""
    step = (stop - start) / count
    stretch = max(step, 1.0)
    matrix = np.zeros((count, size))
    for out in range(count):
        centre = start + (out + 0.5) * step
        for pixel in range(size):
            matrix[out, pixel] = kernel_value(name, (pixel + 0.5 - centre) / stretch)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resampled(planes: NDArray[np.float32], rows: tuple, columns: tuple, kernel: Kernel) -> NDArray[np.float32]:  # type: ignore[type-arg]
    axes = [plan_axis(*part, size, kernel) for part, size in zip((rows, columns), planes.shape[1:], strict=True)]
    out = np.zeros((len(planes), axes[0].count, axes[1].count), np.float32)
    add_resampled(planes, axes[0].bands, axes[1].bands, out)
    return out


@pytest.mark.parametrize("name", KERNELS)
@given(
    size=st.integers(1, 70),
    count=st.integers(1, 90),
    a=st.floats(0, 1),
    b=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_axis_is_the_definition(name: str, size: int, count: int, a: float, b: float, seed: int) -> None:
    start, stop = sorted((a * size, b * size))
    stop = min(max(stop, start + 0.01), size)
    start = min(start, stop - 0.005)
    source = np.random.default_rng(seed).random((1, size, 1), np.float32)
    ours = resampled(source, (start, stop, count), (0, 1, 1), KERNELS[name])[0, :, 0]
    expected = slow_matrix(start, stop, count, size, name) @ source[0, :, 0].astype(np.float64)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "pillow"), [("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)]
)
def test_two_axes_are_pillows(name: str, pillow: Image.Resampling, rng: np.random.Generator) -> None:
    """Fractional boxes, larger and smaller; Pillow sums in float64 and keeps float32 between the axes."""
    source = rng.random((3, 211, 307), np.float32)
    for box, size in (
        ((10.25, 20.5, 200.1, 150.7), (413, 333)),
        ((0, 0, 307, 211), (61, 40)),
        ((5, 6, 7, 9.5), (90, 70)),
    ):
        ours = resampled(source, (box[1], box[3], size[1]), (box[0], box[2], size[0]), KERNELS[name])
        for plane, mine in zip(source, ours, strict=True):
            theirs = np.asarray(Image.fromarray(plane).resize(size, pillow, box=box))
            np.testing.assert_allclose(mine, theirs, atol=5e-5)


@given(st.integers(20, 120), st.integers(1, 90), st.integers(1, 19), st.integers(0, 2**32 - 1))
def test_parts_with_weights_that_sum_to_one_sum_to_the_whole(size: int, count: int, seam: int, seed: int) -> None:
    source = np.random.default_rng(seed).random((2, size, 4), np.float32)
    axis, other = plan_axis(0.3, size - 0.4, count, size, LANCZOS), plan_axis(0, 4, 4, 4, LANCZOS)
    ramp = np.linspace(0, 1, seam, dtype=np.float32)
    rising = np.concatenate([ramp, np.ones(size - seam, np.float32)])
    whole, parts = np.zeros((2, count, 4), np.float32), np.zeros((2, count, 4), np.float32)
    add_resampled(source, axis.bands, other.bands, whole)
    shares = []
    for start, weights in ((0, 1 - rising[:seam]), (0, rising)):
        bands = cut(axis, start, weights)
        shares.append(axis_sum(bands, count))
        add_resampled(source[:, start : start + len(weights)], bands, other.bands, parts)
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(sum(shares), 1, atol=1e-5)


def test_gain_integers_and_nothing_to_add(rng: np.random.Generator) -> None:
    source = rng.integers(0, 65536, (3, 40, 50)).astype(np.uint16)
    axes = plan_axis(2, 30, 33, 40, BICUBIC), plan_axis(4, 44, 21, 50, BICUBIC)
    plain, scaled = (np.zeros((3, 33, 21), np.float32) for _ in range(2))
    add_resampled(source.astype(np.float32) / 65535, axes[0].bands, axes[1].bands, plain)
    add_resampled(source, axes[0].bands, axes[1].bands, scaled, 1 / 65535)
    np.testing.assert_allclose(scaled, plain, atol=1e-5)
    add_resampled(source, [], axes[1].bands, plain)  # a tile that is not visible
    assert np.isfinite(plain).all()
