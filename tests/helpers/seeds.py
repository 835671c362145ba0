"""The run's seed, and generators of random inputs made from it.

A test draws from its `rng` fixture, or from torch's or Python's own generator, which start anew in every test and in
every shared fixture (`conftest.py`). Where neither reaches, in a constant of a test file or in a helper, there is
`rng_for("a name")`. Nothing else may draw: `test_house.py`.
"""

from __future__ import annotations

import os
import zlib

import numpy as np

SEED_VARIABLE = "ZOOMRT_TEST_SEED"  # in the environment, so that xdist's processes have the same


def run_seed() -> int:
    """What the run printed in its first lines; `conftest.py` has set it before any test file is imported."""
    return int(os.environ[SEED_VARIABLE])


def rng_for(name: str) -> np.random.Generator:
    """A generator that depends on the run's seed and the name alone, whichever tests run, in whatever order."""
    return np.random.default_rng((run_seed(), zlib.crc32(name.encode())))
