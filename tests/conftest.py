"""Shared fixtures: random numbers that can be replayed, a cache that is not the user's, one thread, a tiny `edge`.

Every run draws another seed, prints it in its first lines, and `pytest --seed N` draws the same inputs again, also of a
single test: what a test is given depends on the seed and on the test's own name alone.
"""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# nothing here is timed: a busy machine must not fail a property
settings.register_profile("zoomrt", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("zoomrt")

# two threads in all, also where `make test` runs two processes, which inherit what the first one set
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")


SEED_VARIABLE = "ZOOMRT_TEST_SEED"  # how xdist's processes get the seed of the run


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="draw the random inputs of the run that printed this seed")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    if seed is None:
        seed = int(os.environ.get(SEED_VARIABLE) or int.from_bytes(os.urandom(4), "little"))
    os.environ[SEED_VARIABLE] = str(seed)


def pytest_report_header() -> str:
    return f"seed: {os.environ[SEED_VARIABLE]} (pytest --seed N draws these inputs again)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.failed:
        report.sections.append(("seed", f"pytest --seed {os.environ[SEED_VARIABLE]} '{item.nodeid}'"))
    return report


def seed_of(name: str) -> tuple[int, int]:
    """What `numpy.random.default_rng` takes: the run's seed and a number of the name's own."""
    return int(os.environ[SEED_VARIABLE]), zlib.crc32(name.encode())


@pytest.fixture(autouse=True)
def _seeded(request: pytest.FixtureRequest) -> None:
    """torch's and Python's own generators, for tests that draw from them; torch is not imported for it."""
    seed = int(np.random.default_rng(seed_of(request.node.nodeid)).integers(2**32))
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """The generator of this test's random inputs."""
    return np.random.default_rng(seed_of(request.node.nodeid))


@pytest.fixture(scope="session")
def rng_for() -> Callable[[str], np.random.Generator]:
    """Makes a generator from the run's seed and a name: for fixtures that many tests share, in whatever order."""
    return lambda name: np.random.default_rng(seed_of(name))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("zoomrt.files._told", [])  # whether a cache that cannot be used was told: once per process


@pytest.fixture(scope="session")
def tiny_edge_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `edge` checkpoint of 0.2 M random parameters; loads and exports in two seconds."""
    import torch
    from safetensors.torch import save_file

    from zoomrt.export.families.edge import EdgeConfig, EdgeNetwork

    torch.manual_seed(seed_of("tiny_edge_weights")[0])
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1)))
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, path)
    return path
