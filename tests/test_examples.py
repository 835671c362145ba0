"""Every program in examples/ runs as its docstring says; only a missing optional library skips one."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from zoomrt.bundle import Manifest, TileFacts, writing_bundle

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
TILE, SCALE = 64, 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear enlargement in ONNX Runtime: what the examples show does not depend on the network."""
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, kind, [1, 3, side, side])
        for name, side in (("image", TILE), ("upscaled_image", TILE * SCALE))
    ]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, SCALE, SCALE], np.float32), "scales")
    node = helper.make_node("Resize", ["image", "", "scales"], ["upscaled_image"], mode="linear")
    graph = helper.make_graph([node], "linear", ends[:1], ends[1:], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    tile = TileFacts(
        scale=SCALE,
        height=TILE,
        width=TILE,
        batches=(1,),
        overlap=12,
        context=2,
        value_range=(0.0, 1.0),
        dtype="float32",
    )
    path = tmp_path_factory.mktemp("bundle") / "linear"
    with writing_bundle(path) as (scratch, manifests):
        onnx.save(model, str(scratch / "graph.onnx"))
        facts = {"family": "linear", "target": "cpu", "backend": "onnxruntime", "precision": "fp32"}
        manifests.append(Manifest(tile=tile, graphs={"1": "graph.onnx"}, **facts))
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    av = pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        y, x = np.mgrid[:96, :128]
        for count in range(6):
            pixels = np.stack([2 * x, 2 * y, 0 * x + 40 * count], axis=2).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def run(name: str, *words: object) -> str:
    line = [sys.executable, str(EXAMPLES[0].parent / f"{name}.py"), *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_opencv_loop(bundle: Path, clip: Path) -> None:
    pytest.importorskip("cv2")
    counts = eval(run("opencv_loop", bundle, clip, "--no-window", "--budget-ms", 5000))
    assert counts == {"full": 6}


def test_pyav_loop(bundle: Path, clip: Path, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    assert run("pyav_loop", bundle, clip, tmp_path / "out.mp4") == "6 frames\n"
    with av.open(str(tmp_path / "out.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6
    middle = frames[-1].astype(float).mean(axis=(0, 1))
    assert np.abs(middle - [127, 95, 200]).max() < 12  # the middle of the ramps, and the last frame's blue


def test_asyncio_server(bundle: Path) -> None:
    out = run("asyncio_server", bundle, "--frames", 10)
    assert sum(eval(out[: out.index("}") + 1]).values()) == 10
    assert int(out.split("}")[1].split()[0]) > 5


def test_ring_buffer(bundle: Path) -> None:
    assert sum(eval(run("ring_buffer", bundle, "--frames", 25)).values()) == 25


@pytest.mark.gpu
@pytest.mark.parametrize("library", ["cupy", "pycuda"])
def test_cuda_arrays(bundle: Path, library: str) -> None:
    pytest.importorskip(library)
    assert "same" in run("cuda_arrays", bundle, "--library", library)


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert EXAMPLES
    assert [path.stem for path in EXAMPLES if f'run("{path.stem}"' not in source] == []
