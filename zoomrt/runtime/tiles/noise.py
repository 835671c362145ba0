"""Start noise of diffusion models: one endless map for all frames, from which every tile cuts what lies at its place.

So neighbouring tiles see the same noise where they overlap, and equal frames become equal pixels. The map repeats after
`PERIOD` LR pixels, more than a tile is wide.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import NoiseFacts
from zoomrt.runtime.tiles.plan import TilePlan

PERIOD = 512
"""LR pixels after which the map repeats, both axes. Changing it changes what every bundle with noise gives."""


@lru_cache(maxsize=2)
def noise_map(noise: NoiseFacts) -> NDArray[np.float32]:
    """(channels, PERIOD, PERIOD) float32, standard normal, read-only.

    numpy promises that a bit generator's raw numbers never change, but not so for its distributions: hence the method
    of Box and Muller (1958) on the raw numbers of Philox.
    """
    count = noise.channels * PERIOD * PERIOD
    raw = np.random.Philox(noise.seed).random_raw(count).reshape(2, -1)
    radius, angle = ((raw >> np.uint64(11)) + 0.5) * 2.0**-53  # 53 bits, within (0, 1)
    radius, angle = np.sqrt(-2 * np.log(radius)), 2 * np.pi * angle
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    result = normal.astype(np.float32).reshape(noise.channels, PERIOD, PERIOD)
    result.flags.writeable = False
    return result


def noise_at(noise: NoiseFacts, y: int, x: int, height: int, width: int) -> NDArray[np.float32]:
    """(channels, height, width) float32: the map from LR pixel (y, x) of the frame on; either may be negative."""
    rows, columns = (np.arange(first, first + side) % PERIOD for first, side in ((y, height), (x, width)))
    return noise_map(noise)[:, rows[:, None], columns]


def gather(noise: NoiseFacts, plan: TilePlan, index: int, out: NDArray[np.float32]) -> None:
    """Cut one tile's noise from the map into `out`, (channels, tile height, tile width)."""
    row, column = plan.position(index)
    out[...] = noise_at(noise, plan.rows.spans[row].origin, plan.columns.spans[column].origin, *out.shape[1:])
