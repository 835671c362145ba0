"""Peak memory in bytes: both frames, a strip one seam high, and what the tile size sets. Nothing else may grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from runtime_helpers import facts, fake_upscaler

SEAM = (16 - 2 * 4) * 4
"""Output rows of one seam."""
TILE_OUTPUT = 3 * 256 * 256 * 4
"""Bytes of one output tile in float32."""


def peak_bytes(frame: np.ndarray, colour: str) -> int:
    """Most bytes held at once during a call, the output included and the input not."""
    upscaler, _ = fake_upscaler(facts(height=64, width=64, overlap=16, context=4, colour=colour))
    upscaler(frame[:70, :70])
    tracemalloc.start()
    try:
        upscaler(frame)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("colour", ["none", "mean_std"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("side", [256, 1024])
def test_the_peak_is_both_frames_one_strip_and_a_constant(side: int, dtype: type, colour: str) -> None:
    """1 and 16 megapixels of output. Measured at both: 1.1 MB beyond output and strip, with mean_std 2.5 MB."""
    frame = np.full((side, side, 3), 0.5 if dtype is np.float32 else 128, dtype)
    output = frame.nbytes * 16
    strip = SEAM * side * 4 * 3 * 4
    beyond = peak_bytes(frame, colour) - output - strip
    print(f"{beyond} bytes beyond output and strip")
    assert 0 < beyond <= TILE_OUTPUT * (2 if colour == "none" else 4)


def test_a_tall_frame_needs_no_more_than_a_short_one() -> None:
    peaks = [peak_bytes(np.zeros((rows, 128, 3), np.uint8), "mean_std") - rows * 128 * 3 * 16 for rows in (512, 4096)]
    assert abs(peaks[0] - peaks[1]) < 100_000, "what is not output does not depend on the height"
