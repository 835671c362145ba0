"""The C++ header against the Python runtime: the same pictures to one code, and an error value for whatever is wrong.

`probe.cpp` makes the calls. It is compiled with every compiler that is here, under AddressSanitizer and
UndefinedBehaviorSanitizer where the compiler has them, and runs with the library of the `onnxruntime` wheel. That wheel
has no header, so `include/` declares the part of the C API that is called.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from runtime_helpers import facts, model_of, write_bundle

from zoomrt.bundle import SCHEMA
from zoomrt.runtime.frames.pixel_formats import CameraFrame, empty_like
from zoomrt.runtime.frames.rgb_view import RgbView
from zoomrt.runtime.frames.yuv import write_view
from zoomrt.runtime.upscaler import load
from zoomrt.runtime.zoom.crop import crop_of
from zoomrt.runtime.zoom.session import ZoomSession

ROOT = Path(__file__).parents[2]
EMBED, HERE = ROOT / "embed", Path(__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MATRICES, SITINGS = ("bt601", "bt709", "bt2020"), ("left", "center", "top-left")
TILE = facts(height=24, width=32, overlap=10, context=2, batches=(1, 2), value_range=(0.0, 2.0))
FRAME, VIEW = (90, 70), (120, 64)
"""(width, height) of the largest frame and view that the probe has room for."""


def tool(*names: str) -> str:
    """The first of these programs that is here; without one the test is skipped, and says so."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"needs {' or '.join(names)}")


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


class Probe:
    """The probe at work: a line in, a line out."""

    def __init__(self, program: Path, folder: Path) -> None:
        settings = {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        self.folder, self._errors = folder, (folder / "stderr").open("w+")
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **settings},
        )

    def __call__(self, *words: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().rstrip("\n")
        assert answer, f"the probe died:\n{(self.folder / 'stderr').read_text()[-4000:]}"
        return answer

    def load(self, bundle: Path, *more: object) -> str:
        return self("load", bundle, *FRAME, *VIEW, 1, 1, *more)

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()
        assert self._process.returncode == 0, (self.folder / "stderr").read_text()[-4000:]


def compiled(compiler: str, library: Path, program: Path, *flags: str) -> Path:
    include = [f"-I{EMBED / 'include'}", f"-I{HERE / 'include'}"]
    link = [f"-L{library}", "-Wl,--no-as-needed", "-lonnxruntime", "-ldl", f"-Wl,-rpath,{library}"]
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", *flags, *include, HERE / "probe.cpp"]
    done = subprocess.run([*command, "-o", program, *link], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return program


def needs_json(compiler: str) -> None:
    source = "#include <nlohmann/json.hpp>\n"
    command = [compiler, "-std=c++17", "-fsyntax-only", "-x", "c++", "-DJSON_NO_IO", "-M", "-"]
    if subprocess.run(command, input=source, capture_output=True, text=True, check=False).returncode:
        pytest.skip("needs nlohmann/json.hpp (apt install nlohmann-json3-dev)")


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


def camera(rng: np.random.Generator, format: Any, width: int, height: int, **meaning: Any) -> CameraFrame:
    """Smooth colours with noise, so that neither the network's range nor the codes' is only hit at its ends."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    rgb = np.stack(waves) * 0.6 + 0.5 + rng.normal(0, 0.1, (3, height, width))
    frame = CameraFrame((np.zeros((height, width, 3), np.uint8),), "rgb", **meaning)
    frame = empty_like(frame, (height, width), format)
    write_view(rgb.clip(0, 1).astype(np.float32), frame)
    return frame


class Room:
    """A picture in a file, for the probe: rows apart, upside down or not, and bytes between that must stay."""

    def __init__(self, path: Path, frame: CameraFrame, gap: int = 0, *, upside_down: bool = False) -> None:
        self.path, self.frame, self._gap, self._upside_down = path, frame, gap, upside_down
        height, width = frame.shape
        is_rgb = frame.format == "rgb"
        self._step = 3 if is_rgb else 1
        self._stride = width * self._step + gap
        self._chroma_stride = 0 if is_rgb else 2 * -(-width // 2) + gap
        chroma_rows = 0 if is_rgb else -(-height // 2)
        last = gap if gap else 0  # the last row has no gap behind it
        self._size = height * self._stride + chroma_rows * self._chroma_stride - (last if is_rgb else gap)
        self.write()

    def _planes(self, flat: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        height, width = self.frame.shape
        wide = width * self._step
        luma = np.lib.stride_tricks.as_strided(flat, (height, wide), (self._stride, 1))
        planes = [luma[::-1] if self._upside_down else luma]
        if self._chroma_stride:
            rest = flat[height * self._stride :]
            shape = (-(-height // 2), 2 * -(-width // 2))
            planes.append(np.lib.stride_tricks.as_strided(rest, shape, (self._chroma_stride, 1)))
        return planes

    def write(self) -> None:
        flat = np.full(self._size, 0xA5, np.uint8)
        for room, plane in zip(self._planes(flat), self.frame.planes, strict=True):
            room[...] = plane.reshape(room.shape)
        flat.tofile(self.path)

    def read(self) -> tuple[NDArray[Any], ...]:
        """The planes as the probe left them; whatever lies between rows is as it was."""
        flat = np.fromfile(self.path, np.uint8)
        assert flat.size == self._size
        planes = tuple(
            room.reshape(p.shape).copy() for room, p in zip(self._planes(flat), self.frame.planes, strict=True)
        )
        for room in self._planes(flat):
            room[...] = 0xA5
        assert (flat == 0xA5).all(), "bytes between the rows were written to"
        return planes

    @property
    def words(self) -> str:
        height = self.frame.shape[0]
        offset = (height - 1) * self._stride if self._upside_down else 0
        stride = -self._stride if self._upside_down else self._stride
        chroma = height * self._stride
        u, v = (chroma + 1, chroma) if self.frame.format == "nv21" else (chroma, chroma + 1)
        kind = "rgb" if self.frame.format == "rgb" else "yuv"
        meaning = MATRICES.index(self.frame.matrix), int(self.frame.full_range), SITINGS.index(self.frame.siting)
        size = f"{self.frame.shape[1]} {height}"
        numbers = (offset, stride, self._step, u, v, self._chroma_stride, 2, *meaning)
        return f"{self.path} {kind} {size} {' '.join(map(str, numbers))}"


def difference(ours: tuple[NDArray[Any], ...], theirs: CameraFrame) -> int:
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(ours, theirs.planes, strict=True))


def meaning_of(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "matrix": MATRICES[rng.integers(3)],
        "full_range": bool(rng.integers(2)),
        "siting": SITINGS[rng.integers(3)],
    }


@pytest.mark.parametrize("format", ["rgb", "nv12", "nv21"])
@pytest.mark.parametrize("size", [(90, 70), (31, 24), (33, 5), (1, 1)], ids=str)
def test_whole_frames_are_pythons(
    probe: Probe, bundle: Path, tmp_path: Path, rng: np.random.Generator, format: Any, size: tuple[int, int]
) -> None:
    """Tiles, mirrored edges, blend, YUV on both sides; odd sizes, gaps between rows, and pictures upside down."""
    frame = camera(rng, format, *size, **meaning_of(rng))
    given = Room(tmp_path / "in", frame, int(rng.integers(0, 9)), upside_down=bool(rng.integers(2)))
    assert probe.load(bundle) == "ok"
    with load(bundle, threads=1) as upscaler:
        large = (size[1] * upscaler.scale, size[0] * upscaler.scale)
        as_floats = RgbView(frame)[:, :] if format != "rgb" else np.float32(1 / 255) * frame.planes[0]
        exact = upscaler(np.ascontiguousarray(as_floats, np.float32))
        codes = upscaler(frame)
    for into in ("rgb", "nv12"):
        expected = empty_like(frame, large, into)
        write_view(exact.transpose(2, 0, 1), expected)
        out = Room(tmp_path / "out", empty_like(frame, large, into), int(rng.integers(0, 9)))
        assert probe("upscale", given.words, out.words) == "ok"
        assert difference(out.read(), expected) <= 1
        if into == "rgb":
            assert difference(out.read(), CameraFrame((codes,), "rgb")) <= 1


def test_the_last_rows_of_chroma_wait_for_the_next_tiles(
    probe: Probe, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Without context a tile's rows count from the first to the last, and three more before them are still needed."""
    tile = facts(scale=2, height=16, width=32, overlap=7, context=0)
    bundle = write_bundle(tmp_path / "b", tile, int(rng.integers(1 << 30)))
    test_whole_frames_are_pythons(probe, bundle, tmp_path, rng, "nv12", (41, 70))


@pytest.mark.slow
def test_the_shipped_edge_on_photographs(probe: Probe, tmp_path: Path) -> None:
    from skimage import data

    from zoomrt.export.build import build
    from zoomrt.export.request import BuildRequest

    edge = build(BuildRequest(backend="onnxruntime"), tmp_path / "edge", use_cache=False).path
    with load(edge, threads=1) as upscaler:
        for name in ("astronaut", "chelsea", "coffee"):
            pixels = np.ascontiguousarray(getattr(data, name)()[:150, :260])
            frame = empty_like(CameraFrame((pixels,)), pixels.shape[:2], "nv12")
            write_view(np.float32(1 / 255) * pixels.transpose(2, 0, 1), frame)
            for source in (CameraFrame((pixels,)), frame):
                expected = CameraFrame((upscaler(source),))
                given = Room(tmp_path / "in", source)
                out = Room(tmp_path / "out", empty_like(expected, expected.shape))
                assert probe("load", edge, 260, 150, 0, 0, 1, 1) == "ok"
                assert probe("upscale", given.words, out.words) == "ok"
                assert difference(out.read(), expected) <= 1


@pytest.mark.parametrize("format", ["rgb", "nv12"])
@pytest.mark.parametrize("zoom", [1.0, 1.6, 2.0, 7.3, 64.0])
def test_zoomed_views_are_pythons(
    probe: Probe, bundle: Path, tmp_path: Path, rng: np.random.Generator, format: Any, zoom: float
) -> None:
    """A view that shrinks, one between the frame's and the network's pixels, and two that enlarge. One code."""
    size = (88, 66)
    view = (60, 44) if zoom < 2 else (119, 63)
    frame, center = camera(rng, format, *size, **meaning_of(rng)), tuple(rng.uniform(0, 1, 2))
    given = Room(tmp_path / "in", frame, 3)
    words = probe("crop", *size, *view, zoom, *center).split()
    crop = crop_of(size[::-1], view[::-1], zoom, center)
    assert [float(word) for word in words] == pytest.approx([crop.top, crop.left, crop.height, crop.width], abs=1e-9)
    assert probe.load(bundle) == "ok"
    with ZoomSession(bundle, view, threads=1) as session:
        for network, make in (
            (1, lambda: session.process(frame, zoom, center).frame),
            (0, lambda: session.bicubic(frame, zoom, center)),
        ):
            expected = make()
            out = Room(tmp_path / "out", empty_like(frame, view[::-1], format), 5)
            assert probe("zoom", given.words, out.words, *words, network) == "ok"
            assert difference(out.read(), expected) <= 1


def test_the_header_reads_this_schema() -> None:
    """Whoever changes the schema looks at what the header reads of a manifest: detail/bundle.hpp."""
    header = (EMBED / "include" / "zoomrt" / "types.hpp").read_text()
    assert re.findall(r"last_schema = (\d+)", header) == [str(SCHEMA)]


def edited(bundle: Path, to: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a bundle with another manifest; what `change` returns, unless None, is written in place of it."""
    shutil.copytree(bundle, to)
    manifest = json.loads((to / "manifest.json").read_bytes())
    other = change(manifest)
    text = other if isinstance(other, str) else json.dumps(manifest)
    (to / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    return to


def setting(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *outer, last = path.split(".")
        for key in outer:
            manifest = manifest[key]
        manifest[last] = value

    return change


ABSURD: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda _: "", "bundle manifest.json is not a manifest"),
    (lambda _: "[]", "bundle manifest.json is not a manifest"),
    (lambda _: "{" * 9, "bundle manifest.json is not a manifest"),
    (lambda _: "[" * 100_000, "bundle manifest.json is not a manifest"),
    (lambda _: '{"schema": 1e999}', "bundle manifest.json is not a manifest"),
    (lambda _: '{"schema": 3, "\udcff": 1}', "bundle manifest.json is not a manifest"),
    (lambda _: " " * (9 << 20), "bundle manifest.json has more than 8 MiB"),
    (lambda _: "{}", "bundle manifest.json: field schema"),
    (setting("schema", "3"), "bundle manifest.json: field schema"),
    (setting("schema", 1), "unsupported manifest.json has schema 1; this header reads 2 to"),
    (setting("schema", 99), "unsupported manifest.json has schema 99"),
    *((setting("tile.scale", value), "bundle manifest.json: field scale") for value in (0, 17, 4.5, "4", None, 10**30)),
    *((setting("tile.height", value), "bundle manifest.json: field height") for value in (0, -1, 16385)),
    *((setting("tile.overlap", value), "bundle manifest.json: field overlap") for value in (0, 24, -(2**63))),
    *((setting("tile.context", value), "bundle manifest.json: field context") for value in (-1, 5, 2**64)),
    *(
        (setting("tile.value_range", v), "bundle manifest.json: field value_range")
        for v in (None, [0], [1, 1], ["", 1])
    ),
    (setting("tile", []), "unsupported this header cannot run the bundle: element type"),
    (setting("tile.dtype", "float16"), "unsupported this header cannot run the bundle: element type float16"),
    (setting("tile.noise", {"channels": 4, "seed": 0}), "unsupported this header cannot run the bundle: start noise"),
    (setting("tile.colour.method", "adain"), "unsupported this header cannot run the bundle: colour step adain"),
    (setting("sampling", {"channels": 4}), "unsupported this header cannot run the bundle: several steps"),
    (setting("backend", "tensorrt"), "unsupported this header cannot run the bundle: backend tensorrt"),
    (setting("arithmetic", "bf16"), "unsupported this header cannot run the bundle: arithmetic bf16"),
    (setting("graphs", {}), "bundle manifest.json: field graphs has no file for one tile"),
    (setting("graphs", 7), "bundle manifest.json: field graphs has no file for one tile"),
    (setting("files", None), "bundle manifest.json: field graphs has no file for one tile"),
    *(
        (lambda m, name=name: m["files"].__setitem__(name, {}), "is not inside the bundle")
        for name in ("../up", "/etc/passwd", "a//b", "./a", "c:x", "a\\b", "", "new\nline", "n" * 2000)
    ),
    (setting("files.graph_1", 1), "bundle manifest.json: field bytes"),
    (lambda m: m["files"]["graph_1.onnx"].update(bytes=-1), "bundle manifest.json: field bytes"),
    (lambda m: m["files"]["graph_1.onnx"].update(bytes=1), "bundle bundle: file graph_1.onnx has"),
    (lambda m: m["files"]["graph_1.onnx"].update(sha256=7), "bundle bundle: file graph_1.onnx has sha256"),
    (lambda m: m["files"].update(more={"bytes": 1, "sha256": "0" * 64}), "bundle bundle: file more is missing"),
]


def test_absurd_manifests_are_error_values(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    for number, (change, expected) in enumerate(ABSURD):
        answer = probe.load(edited(bundle, tmp_path / str(number), change))
        assert expected in answer, (number, answer)
        assert answer.isascii()
        assert probe("crop", 1, 1, 1, 1, 1, 0, 0) == "0 0 1 1"  # it lives


def test_a_field_that_it_does_not_read_does_not_matter(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    assert probe.load(edited(bundle, tmp_path / "b", setting("warnings", {"new": ["kind"]}))) == "ok"


def test_damaged_files_are_error_values(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    def damaged(name: str, change: Callable[[Path], object]) -> Path:
        copy = edited(bundle, tmp_path / name, lambda _: None)
        change(copy)
        return copy

    def flip(copy: Path) -> None:
        content = bytearray((copy / "graph_1.onnx").read_bytes())
        content[len(content) // 2] ^= 1
        (copy / "graph_1.onnx").write_bytes(content)

    def truncate(copy: Path, *, listed: bool) -> None:
        graph = copy / "graph_1.onnx"
        content = graph.read_bytes()[:-100]
        graph.write_bytes(content)
        if listed:
            manifest = json.loads((copy / "manifest.json").read_bytes())
            manifest["files"][graph.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            (copy / "manifest.json").write_text(json.dumps(manifest))

    assert "no manifest.json" in probe.load(tmp_path / "nowhere")
    assert "no manifest.json" in probe.load(damaged("a", lambda copy: (copy / "manifest.json").unlink()))
    assert "graph_1.onnx has sha256" in probe.load(damaged("b", flip))
    assert "graph_1.onnx has" in probe.load(damaged("c", lambda copy: truncate(copy, listed=False)))
    assert probe.load(damaged("d", lambda copy: truncate(copy, listed=True))).startswith("engine cannot load the graph")
    assert "graph_1.onnx is missing" in probe.load(damaged("e", lambda copy: (copy / "graph_1.onnx").unlink()))
    # another batch size's graph is not opened, so it need not be there
    assert probe.load(damaged("f", lambda copy: (copy / "graph_2.onnx").unlink())) == "ok"


def enlarging(*more: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None, output: str = "y") -> bytes:
    """A graph of nearest-neighbour enlargement, whose result `y` goes on into `more`."""
    nodes = [
        helper.make_node("Concat", ["x"] * 16, ["c"], axis=1),
        helper.make_node("DepthToSpace", ["c"], ["y" if not more else "z"], blocksize=4, mode="DCR"),
        *more,
    ]
    small, large = (1, 3, TILE.height, TILE.width), (1, 3, TILE.height * 4, TILE.width * 4)
    model = model_of(nodes, *(shapes or (small, large)))
    if output != "y":
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, (1, 48, *small[2:])))
    return model.SerializeToString()


def test_graphs_that_do_not_fit_are_error_values(probe: Probe, tmp_path: Path, rng: np.random.Generator) -> None:
    one = facts(height=24, width=32, overlap=10, context=2)
    other = ((1, 3, 32, 32), (1, 3, 128, 128))
    integers = [helper.make_node("Cast", ["z"], ["y"], to=TensorProto.INT32)]
    for number, graph in enumerate((enlarging(shapes=other), enlarging(output="c"), b"\x08\x0a", b"", b"\xff" * 1000)):
        answer = probe.load(write_bundle(tmp_path / str(number), one, {1: graph}))
        assert answer.startswith(("bundle the graph's", "engine cannot load the graph")), answer
    assert probe.load(write_bundle(tmp_path / "i", one, {1: enlarging(*integers)})).startswith("engine cannot load")
    frame = Room(tmp_path / "in", camera(rng, "rgb", 20, 20))
    out = Room(tmp_path / "out", empty_like(frame.frame, (80, 80)))
    nan = enlarging(helper.make_node("Log", ["z"], ["y"]))  # of -1, which black is
    assert (
        probe.load(write_bundle(tmp_path / "n", one, {1: nan}))
        == "engine the engine failed: 36864 of 36864 values are not finite"
    )
    assert probe("upscale", frame.words, out.words) == "input cannot upscale: nothing is loaded"


def test_calls_that_make_no_sense_are_error_values(
    probe: Probe, bundle: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    frame = Room(tmp_path / "in", camera(rng, "rgb", 40, 30))
    out = Room(tmp_path / "out", empty_like(frame.frame, (120, 160)))
    view = Room(tmp_path / "view", empty_like(frame.frame, (40, 40)))
    assert probe.load(tmp_path / "nowhere").startswith("bundle")
    assert probe("upscale", frame.words, out.words) == "input cannot upscale: nothing is loaded"
    assert probe("zoom", frame.words, view.words, 0, 0, 9, 9, 1) == "input cannot zoom: nothing is loaded"
    for sizes in ("0 0 9 9", "-5 9 9 9", "65536 9 9 9", "9 9 -1 9", "9 9 9 65536", "9 99999999 9 9"):
        assert probe("load", bundle, sizes, 1, 1).startswith("input the options make no sense"), sizes
    assert probe("load", bundle, "65535 65535 65535 65535", 1, 1).startswith("memory no memory")
    assert probe("load", bundle, "40 30 0 0", 1, 1) == "ok"
    assert probe("zoom", frame.words, view.words, 0, 0, 9, 9, 1) == "input cannot zoom: the options of load left it out"
    assert probe("load", bundle, "40 30 40 40", 0, 1) == "ok"
    assert probe("upscale", frame.words, out.words) == "input cannot upscale: the options of load left it out"
    assert probe("zoom", frame.words, view.words, 0, 0, 9, 9, 1) == "ok"
    assert probe("load", bundle, "39 30 40 40", 1, 1) == "ok"
    assert "needed: 1x1 to 39x30" in probe("upscale", frame.words, out.words)
    assert probe.load(bundle) == "ok"
    answer = probe("absurd", frame.words)
    assert answer.startswith("refused ")
    assert int(answer.split()[1]) > 90
    assert probe("upscale", frame.words, out.words) == "ok"  # none of it did harm


def test_an_execution_provider_by_its_name(probe: Probe, bundle: Path, tmp_path: Path) -> None:
    assert probe.load(bundle, "CPUExecutionProvider") == "ok"
    answer = probe.load(bundle, "QNNExecutionProvider")
    assert answer.startswith("engine QNNExecutionProvider: "), answer
    assert probe.load(bundle, "QNNExecutionProvider", tmp_path / "libmissing.so").startswith(
        "engine QNNExecutionProvider: "
    )


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
