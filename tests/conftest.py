"""Shared fixtures: a cache folder that is not the user's, one thread, a tiny `edge` for tests about the machinery."""

from __future__ import annotations

import os
from pathlib import Path

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


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tiny_edge_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An `edge` checkpoint of 0.2 M random parameters; loads and exports in two seconds."""
    import torch
    from safetensors.torch import save_file

    from zoomrt.export.families.edge import EdgeConfig, EdgeNetwork

    torch.manual_seed(int.from_bytes(os.urandom(4), "little"))
    network = EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1)))
    torch.nn.init.normal_(network.conv_out.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({key: value.half().contiguous() for key, value in network.state_dict().items()}, path)
    return path
