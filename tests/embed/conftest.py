"""What the tests of the C++ header share: the library, the probe, a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from embedded import SANITIZERS, TILE, Probe, compiled, needs_json, tool
from runtime_helpers import write_bundle


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ONNX Runtime's library of the wheel, under the names that a linker and a loader look for."""
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if not found:
        pytest.skip("needs an onnxruntime wheel with libonnxruntime.so")
    folder = tmp_path_factory.mktemp("lib")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(found[-1])
    return folder


@pytest.fixture(scope="module", params=["g++", pytest.param("clang++", marks=pytest.mark.slow)])
def probe(request: pytest.FixtureRequest, library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    compiler = tool(request.param)
    needs_json(compiler)
    folder = tmp_path_factory.mktemp("probe")
    started = Probe(compiled(compiler, library, folder / "probe", "-O0", *SANITIZERS), folder)
    yield started
    started.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, rng_for: Callable[[str], np.random.Generator]) -> Path:
    seed = int(rng_for("embed").integers(1 << 30))
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b", TILE, seed)
