"""Peak memory in bytes: both frames, a strip one seam high, what the tile size sets, and what a colour step or another
size needs by their documentation. Nothing else may grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from runtime_helpers import facts, fake_upscaler

SEAM = (16 - 2 * 4) * 4
"""Output rows of one seam."""
ROWS = 64 * 4
"""Output rows of one tile."""
TILE_OUTPUT = 3 * ROWS * ROWS * 4
"""Bytes of one output tile in float32."""


def peak_bytes(frame: np.ndarray, colour: str, size: tuple[int, int] | None = None) -> int:
    """Most bytes held at once during a call, the output included and the input not."""
    upscaler, _ = fake_upscaler(facts(height=64, width=64, overlap=16, context=4, colour=colour))
    upscaler(frame[:70, :70])
    tracemalloc.start()
    try:
        upscaler.upscale(frame, size=size)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def waiting(output: int, colour: str, dtype: type) -> int:
    """Bytes of what `adain` cannot finish yet: floats wait in the output, codes of 8 bits in 16."""
    return 2 * output if colour in ("osediff", "adcsr") and dtype is np.uint8 else 0


def columns(side: int, colour: str) -> int:
    """Bytes of rows that `wavelet` holds, once more while there are more of them, and its bands."""
    return side * 4 * (2 * 12 * (ROWS + 62) + 5000) if colour == "hypir" else 0


@pytest.mark.parametrize("colour", ["none", "osediff", "adcsr", "hypir"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("side", [256, 640])
def test_the_peak_is_both_frames_one_strip_and_a_constant(side: int, dtype: type, colour: str) -> None:
    """1 and 6.5 megapixels of output."""
    frame = np.full((side, side, 3), 0.5 if dtype is np.float32 else 128, dtype)
    output = frame.nbytes * 16
    strip = SEAM * side * 4 * 3 * 4
    beyond = peak_bytes(frame, colour) - output - strip - waiting(output, colour, dtype)
    print(f"{beyond} bytes beyond output and strip")
    assert 0 < beyond <= TILE_OUTPUT * (2 if colour == "none" else 5) + columns(side, colour)


@pytest.mark.parametrize("colour", ["osediff", "hypir"])
def test_a_tall_frame_needs_no_more_than_a_short_one(colour: str) -> None:
    """What is not output does not depend on the height, but for the enlarged reference: 150 bytes of weights a row."""
    peaks = []
    for rows in (512, 4096):
        output = rows * 128 * 3 * 16
        peaks.append(
            peak_bytes(np.zeros((rows, 128, 3), np.uint8), colour) - output - waiting(output, colour, np.uint8)
        )
    assert abs(peaks[0] - peaks[1]) < 150 * 4 * (4096 - 512) + 100_000


@pytest.mark.parametrize("colour", ["none", "osediff"])
def test_another_size_holds_no_picture_of_the_network(colour: str) -> None:
    """At half the model's scale: 12 MB of result, where the network's picture would be 48 MB."""
    frame = np.full((1024, 1024, 3), 128, np.uint8)
    output = frame.nbytes * 4
    beyond = peak_bytes(frame, colour, (2048, 2048)) - output - waiting(output, colour, np.uint8)
    strip = (SEAM * 2 + ROWS * 2) * 1024 * 4 * 3 * 4  # of the blend, and rows of the result that are not whole yet
    assert beyond <= strip + TILE_OUTPUT * 5
