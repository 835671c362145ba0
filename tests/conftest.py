"""Shared fixtures: random numbers that can be replayed, a cache that is not the user's, one thread, a tiny `edge`.

Every run draws another seed, prints it in its first lines, and `pytest --seed N` draws the same inputs again, also of a
single test: what a test is given depends on the seed and on the test's own name alone.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import kept_exports
import numpy as np
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings
from seeds import SEED_VARIABLE, rng_for, run_seed

from zoomrt import registry

# nothing here is timed: a busy machine must not fail a property
settings.register_profile("zoomrt", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("zoomrt")

# two threads in all, also where `make test` runs two processes, which inherit what the first one set
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
else:
    os.environ.setdefault("OMP_NUM_THREADS", "2")

# nothing is sent from here either, also where a test imports an engine itself; see zoomrt/runtime/quiet.py
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # nor fetched, but from the server of tests/models/published
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="draw the random inputs of the run that printed this seed")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--seed")
    if seed is None:
        seed = int(os.environ.get(SEED_VARIABLE) or int.from_bytes(os.urandom(4), "little"))
    os.environ[SEED_VARIABLE] = str(seed)


def pytest_report_header() -> str:
    return f"seed: {run_seed()} (pytest --seed N draws these inputs again)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("seed", f"pytest --seed {run_seed()} '{item.nodeid}'"))
    return report


def pytest_itemcollected(item: pytest.Item) -> None:
    """Hypothesis draws from the run's seed too, and keeps no examples of earlier runs."""
    if is_hypothesis_test(test := getattr(item, "obj", None)):
        hypothesis.seed(int(rng_for(item.nodeid.partition("[")[0]).integers(2**32)))(test)


def seed_globals(name: str) -> None:
    """Python's and torch's own generators, for what draws from them; torch is not imported for it."""
    seed = int(rng_for(name).integers(2**32))
    random.seed(seed)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seed_globals(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """A fixture that tests share draws the same whichever of them is first, and that one draws as if it were not."""
    if fixturedef.scope == "function":
        return (yield)
    torch = sys.modules.get("torch")
    before = random.getstate(), torch and torch.get_rng_state()
    seed_globals(f"{fixturedef.baseid}::{fixturedef.argname}[{getattr(request, 'param', '')}]")
    try:
        return (yield)
    finally:
        random.setstate(before[0])
        if torch:
            torch.set_rng_state(before[1])


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """The generator of this test's random inputs."""
    return rng_for(request.node.nodeid)


@pytest.fixture(name="rng_for", scope="session")
def _rng_for() -> Callable[[str], np.random.Generator]:
    """`seeds.rng_for`, for fixtures that many tests share."""
    return rng_for


@pytest.fixture(scope="module")
def toys() -> Iterator[Path]:
    """The folder of a package that brings a backend and a model family `toy` and a precision `toy16`."""
    folder = Path(__file__).parent / "helpers" / "toys"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        registry.entry_points_of.cache_clear()
        yield folder
    registry.entry_points_of.cache_clear()


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for each test, in a folder of their own: `mktemp` reads the names of all before it makes one."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := next(_caches)).mkdir()
    monkeypatch.setenv("ZOOMRT_CACHE", str(folder))
    monkeypatch.setattr("zoomrt.files._told", [])  # whether a cache that cannot be used was told: once per process


@pytest.fixture(scope="session")
def _exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `kept_exports` keeps, one folder for all processes of a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exports"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def _quick_builds(_exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds export a network once per run, and time engines in one turn; tests of either override this fixture."""
    for module, name in kept_exports.users():
        monkeypatch.setattr(module, name, kept_exports.keeping(getattr(module, name), _exports))
    if speed := sys.modules.get("zoomrt.export.engines.speed"):
        monkeypatch.setattr(speed, "TURNS", 1)
        monkeypatch.setattr(speed, "_SETTLE_S", 0.0)


@pytest.fixture(scope="session")
def tiny_edge_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `edge` checkpoint of 0.2 M random parameters; loads and exports in two seconds."""
    import torch
    from safetensors.torch import save_file

    from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork

    torch.manual_seed(run_seed())  # torch may not have been there to be seeded
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1)))
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, path)
    return path
