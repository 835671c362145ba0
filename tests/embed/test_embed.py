"""The C++ header against the Python runtime: the same pictures to one code, and an error value for whatever is wrong.

`probe.cpp` makes the calls. It is compiled with every compiler that is here, under AddressSanitizer and
UndefinedBehaviorSanitizer where the compiler has them, and runs with the library of the `onnxruntime` wheel. That wheel
has no header, so `include/` declares the part of the C API that is called.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedded import EMBED, MATRICES, SITINGS, TILE, Probe, camera
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
