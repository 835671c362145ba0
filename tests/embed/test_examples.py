"""The examples of embed/ and the C++ of the pages: built as a user builds them, and run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from embedded import EMBED, HERE, ROOT, camera, needs_json, tool
from numpy.typing import NDArray

from zoomrt.runtime.upscaler import load
from zoomrt.runtime.zoom.session import ZoomSession


@pytest.fixture(scope="module")
def examples(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built with CMake against an installed zoomrt, by clang where it is here."""
    cmake, compiler = tool("cmake"), tool("clang++", "g++")
    needs_json(compiler)
    folder = tmp_path_factory.mktemp("cmake")

    def run(*words: object) -> None:
        done = subprocess.run([cmake, *map(str, words)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]

    common = [
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_BUILD_TYPE=Debug",
        f"-DONNXRUNTIME_INCLUDE={HERE / 'include'}",
        f"-DONNXRUNTIME_LIBRARY={library / 'libonnxruntime.so'}",
        "-DCMAKE_CXX_FLAGS=-g0 -Wall -Wextra -Wpedantic -Wshadow -Werror",
    ]
    run("-S", EMBED, "-B", folder / "embed", *common)
    run("--install", folder / "embed", "--prefix", folder / "prefix")
    assert (folder / "prefix" / "include" / "zoomrt" / "zoomrt.hpp").is_file()
    run("-S", EMBED / "examples", "-B", folder / "build", f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}", *common)
    cache = (folder / "build" / "CMakeCache.txt").read_text()
    assert f"zoomrt_DIR:PATH={folder / 'prefix' / 'lib' / 'cmake' / 'zoomrt'}" in cache
    run("--build", folder / "build", "--parallel", 2)
    return folder / "build"


def ppm(path: Path, pixels: NDArray[np.uint8]) -> Path:
    height, width = pixels.shape[:2]
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + pixels.tobytes())
    return path


def zoom_cli(examples: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([examples / "zoom_cli", *map(str, words)], capture_output=True, text=True, check=False)


def test_zoom_cli(examples: Path, bundle: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    frame = camera(rng, "rgb", 61, 47)
    given, out = ppm(tmp_path / "in.ppm", frame.planes[0]), tmp_path / "out.ppm"
    done = zoom_cli(examples, bundle, given, out)
    assert (done.returncode, done.stderr) == (0, "")
    with load(bundle, threads=1) as upscaler:
        expected = upscaler(frame.planes[0])
    result = np.frombuffer(out.read_bytes()[len(b"P6\n244 188\n255\n") :], np.uint8).reshape(188, 244, 3)
    assert np.abs(result.astype(int) - expected).max() <= 1
    done = zoom_cli(examples, bundle, given, out, "--view", "40x30", "--zoom", 3, "--at", "0.2,0.7")
    assert (done.returncode, done.stderr) == (0, "")
    with ZoomSession(bundle, (40, 30), threads=1) as session:
        view = session.process(frame, 3, (0.2, 0.7)).pixels
    result = np.frombuffer(out.read_bytes()[len(b"P6\n40 30\n255\n") :], np.uint8).reshape(30, 40, 3)
    assert np.abs(result.astype(int) - view).max() <= 1


def test_zoom_cli_says_what_is_wrong(examples: Path, bundle: Path, tmp_path: Path) -> None:
    given, out = ppm(tmp_path / "in.ppm", np.zeros((9, 9, 3), np.uint8)), tmp_path / "out.ppm"
    broken = [b"", b"P6", b"P6\n9 9\n255\n" + bytes(242), b"P5\n9 9\n255\n" + bytes(243), b"P6 99999999999 9 255 "]
    for content in (*broken, b"P6\n9 9\n65535\n" + bytes(486), b"P6\n0 9\n255\n", b"P6 -1 9 255 "):
        (tmp_path / "bad.ppm").write_bytes(content)
        done = zoom_cli(examples, bundle, tmp_path / "bad.ppm", out)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), (content[:20], done.stderr)
        assert "needed: a binary PPM" in done.stderr
    for words, expected in (
        ((), "usage"),
        ((bundle, given, out, "--view", "big"), "usage"),
        ((bundle, given, out, "--what", "1"), "usage"),
        ((tmp_path, given, out), "no manifest.json"),
        ((bundle, given, tmp_path / "no" / "out.ppm"), "cannot write"),
        ((bundle, given, out, "--view", "9x9", "--zoom", "65"), "the crop is"),
    ):
        done = zoom_cli(examples, *words)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert expected in done.stderr


@pytest.mark.slow
def test_a_snapdragons_npu_as_a_plugin(examples: Path, bundle: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    """The whole graph in the simulator of Qualcomm's wheel, in FP16: near the CPU's picture, and not the same."""
    qnn = pytest.importorskip("onnxruntime_qnn")
    given = ppm(tmp_path / "in.ppm", camera(rng, "rgb", 40, 24).planes[0])
    options = [f"backend_path={qnn.get_qnn_htp_path()}", "soc_model=69", "htp_arch=79"]
    words = ["--provider", "QNNExecutionProvider", "--library", qnn.get_library_path()]
    for option in options:
        words += ["--set", option]
    pictures = []
    for name, more in (("cpu.ppm", []), ("npu.ppm", words)):
        done = zoom_cli(examples, bundle, given, tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        pictures.append(np.frombuffer((tmp_path / name).read_bytes()[15:], np.uint8).astype(int))
    assert 1 <= np.abs(pictures[0] - pictures[1]).max() <= 2


def test_camera_loop(examples: Path, bundle: Path) -> None:
    done = subprocess.run([examples / "camera_loop", bundle, "3"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"frame (\d): sharp", done.stdout)[:1] == ["0"]
    assert done.stdout.count("\n") == 3


def test_cmake_says_where_onnx_runtime_goes(tmp_path: Path) -> None:
    words = [tool("cmake"), "-S", EMBED / "examples", "-B", tmp_path, "-DONNXRUNTIME_INCLUDE=/nowhere"]
    needs_json(tool("g++", "clang++"))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "ONNXRUNTIME_INCLUDE='/nowhere'" in " ".join(done.stderr.split())


def test_the_pages_compile(tmp_path: Path) -> None:
    """The C++ of docs/cpp.md and docs/android.md; the NDK's headers are stand-ins."""
    compiler = tool("g++", "clang++")
    needs_json(compiler)
    pages = [(ROOT / "docs" / f"{name}.md").read_text() for name in ("cpp", "android")]
    blocks = [block for page in pages for block in re.findall(r"^```cpp\n(.*?)^```", page, re.MULTILINE | re.DOTALL)]
    assert len(blocks) == 2
    (tmp_path / "pages.cpp").write_text("\n".join(blocks))
    include = [f"-I{EMBED / 'include'}", f"-I{HERE / 'include'}"]
    command = [compiler, "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", *include, tmp_path / "pages.cpp"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
