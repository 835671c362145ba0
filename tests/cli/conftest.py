"""A real bundle that anyone can check by eye: nearest neighbour x4, so that every result pixel is known."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import SCALE, TILE, write_noise

from zoomrt.cli._common import run

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def nearest_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that repeats each pixel SCALE x SCALE times, tiles of TILE px."""
    onnx = pytest.importorskip("onnx")
    from zoomrt.bundle import Manifest, TileFacts, writing_bundle

    helper = onnx.helper
    # channel c of the picture -> its SCALE^2 phases, in the order of DepthToSpace's CRD mode
    spread = np.kron(np.eye(3, dtype=np.float32), np.ones((SCALE * SCALE, 1), np.float32))[:, :, None, None]
    shapes = {"image": [1, 3, TILE, TILE], "upscaled_image": [1, 3, TILE * SCALE, TILE * SCALE]}
    tensors = {
        name: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    nodes = [
        helper.make_node("Conv", ["image", "spread"], ["phases"]),
        helper.make_node("DepthToSpace", ["phases"], ["upscaled_image"], blocksize=SCALE, mode="CRD"),
    ]
    graph = helper.make_graph(
        nodes,
        "nearest",
        [tensors["image"]],
        [tensors["upscaled_image"]],
        [onnx.numpy_helper.from_array(spread, "spread")],
    )
    path = tmp_path_factory.mktemp("bundles") / "nearest"
    with writing_bundle(path) as (scratch, manifests):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.save(model, str(scratch / "graph.onnx"))
        tile = TileFacts(
            scale=SCALE,
            height=TILE,
            width=TILE,
            batches=(1,),
            overlap=6,
            context=1,
            value_range=(0.0, 1.0),
            dtype="float32",
        )
        manifests.append(
            Manifest(
                family="nearest",
                target="cpu",
                backend="onnxruntime",
                precision="fp32",
                tile=tile,
                graphs={"1": "graph.onnx"},
            )
        )
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A 21 x 17 PNG of fresh noise: more than one tile."""
    return write_noise(tmp_path / "in" / "picture.png")


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Run a command as a shell would: command("upscale", bundle, "a.png", "-o", "out", cwd=...)."""

    def start(name: str, *words: object, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", f"zoomrt.cli.{name}", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=False)

    return start


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The same without a process of its own, for tests of many commands."""
    monkeypatch.chdir(tmp_path)

    def run_here(name: str, *words: object) -> subprocess.CompletedProcess[str]:
        command, line = importlib.import_module(f"zoomrt.cli.{name}").cli, [str(word) for word in words]
        capfd.readouterr()
        code = run(command, line)
        return subprocess.CompletedProcess(line, code, *capfd.readouterr())

    return run_here
