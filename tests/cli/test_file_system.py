"""What the file system can do to a command: one line, the right exit code, and nothing left behind."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from cli_helpers import failure_line, repeated, tree, write_noise
from PIL import Image

from zoomrt.bundle import MANIFEST, Manifest, open_bundle
from zoomrt.bundle.manifest import parse_manifest
from zoomrt.errors import BundleError, CheckpointError, InputError, StorageError

Command = Callable[..., "subprocess.CompletedProcess[str]"]
LONG = "n" * 300


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("upscale", "-o", "o.png", "{bundle}", LONG + ".png"), InputError.exit_code),
        (("upscale", "-o", LONG + ".png", "{bundle}", "{picture}"), StorageError.exit_code),
        (("upscale", "-o", "new/" + LONG + "/o.png", "{bundle}", "{picture}"), StorageError.exit_code),
        (("upscale", "-o", "o.png", LONG, "{picture}"), BundleError.exit_code),
        (("upscale", "-o", "o.png", "--fallback", LONG, "{bundle}", "{picture}"), BundleError.exit_code),
        (("upscale", "-o", "o.png", "/dev/zero", "{picture}"), BundleError.exit_code),
        (("upscale", "-o", "o.png", "{bundle}", "/dev/zero"), InputError.exit_code),
        (("upscale", "-o", "o.png", "{bundle}", "pipe"), InputError.exit_code),
        (("upscale", "-o", "/dev/full", "{bundle}", "{picture}"), StorageError.exit_code),
        (("upscale", "--overwrite", "-o", "pipe.png", "{bundle}", "{picture}"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "."), StorageError.exit_code),
        (("build", "--model", "edge", "-o", ".."), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "/proc"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "/proc/x"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "/dev/null"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "pipe"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", LONG), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "in"), StorageError.exit_code),
        (("build", "--model", "edge", "--weights", "pipe", "-o", "b"), CheckpointError.exit_code),
        (("build", "--model", "edge", "--weights", "/dev/zero", "-o", "b"), CheckpointError.exit_code),
        (("build", "--model", "edge", "--weights", LONG, "-o", "b"), CheckpointError.exit_code),
        (("bench", "{bundle}", "--json", "/dev/full"), StorageError.exit_code),
        (("bench", "{bundle}", "--json", "/dev/stdout"), StorageError.exit_code),
        (("bench", "{bundle}", "--html", "in"), StorageError.exit_code),
        (("bench", "{bundle}", "--json", LONG), StorageError.exit_code),
        (("doctor", "pipe"), BundleError.exit_code),
        (("zoom", "-o", LONG + ".mp4", "{bundle}", "in/%d.png"), StorageError.exit_code),
        (("zoom", "-o", "/dev/full", "{bundle}", "in/%d.png"), StorageError.exit_code),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else str(value),
)
def test_one_line_before_the_work(
    words: tuple[str, ...],
    code: int,
    nearest_bundle: Path,
    picture: Path,
    in_process: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("pipe", "pipe.png"):
        os.mkfifo(tmp_path / name)
    before = sorted(tree_of_names(tmp_path))
    if code == StorageError.exit_code:  # known before anything is loaded
        monkeypatch.setattr("zoomrt.runtime.upscaler.open_session", lambda *_: pytest.fail("a bundle was loaded"))
    done = in_process(*(word.format(bundle=nearest_bundle, picture=picture) for word in words))
    assert failure_line(done, code)
    assert len(done.stderr) < 1000
    assert sorted(tree_of_names(tmp_path)) == before


def tree_of_names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*")]


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root to become somebody else")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("upscale", "-o", "open/o.png", "{bundle}", "locked/x.png"), InputError.exit_code),
        (("upscale", "-o", "locked/o.png", "{bundle}", "open/x.png"), StorageError.exit_code),
        (("upscale", "-o", "locked", "{bundle}", "open/x.png"), StorageError.exit_code),
        (("upscale", "-o", "readable/o.png", "{bundle}", "open/x.png"), StorageError.exit_code),
        (("upscale", "-o", "open/o.png", "locked/b", "open/x.png"), BundleError.exit_code),
        (("upscale", "-o", "open/o.png", "{bundle}", "open/x.png", "--fallback", "locked/b"), BundleError.exit_code),
        (("build", "--model", "edge", "--weights", "locked/x", "-o", "open/b"), CheckpointError.exit_code),
        (("build", "--model", "edge", "--weights", "open/secret", "-o", "open/b"), CheckpointError.exit_code),
        (("build", "--model", "edge", "-o", "locked/b"), StorageError.exit_code),
        (("build", "--model", "edge", "-o", "readable/b"), StorageError.exit_code),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else str(value),
)
def test_without_rights(words: tuple[str, ...], code: int, nearest_bundle: Path, tmp_path: Path) -> None:
    readable_by_all(nearest_bundle)
    readable_by_all(tmp_path)
    for name, mode in (("open", 0o777), ("locked", 0o700), ("readable", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    for name in ("open/x.png", "locked/x.png"):
        write_noise(tmp_path / name)
    (tmp_path / "open" / "secret").touch(mode=0o600)
    before = tree(tmp_path)
    name, *rest = (word.format(bundle=nearest_bundle) for word in words)
    line = [*NOBODY, sys.executable, "-m", f"zoomrt.cli.{name}", *rest]
    environment = {**os.environ, "ZOOMRT_CACHE": str(tmp_path / "open")}
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert "Permission denied" in failure_line(done, code)
    assert tree(tmp_path) == before


def readable_by_all(folder: Path) -> None:
    """pytest's own folders are closed to others."""
    for place in [folder, *folder.parents]:
        if place.stat().st_mode & 0o5 != 0o5:
            place.chmod(place.stat().st_mode | 0o5)


def test_results_over_links_leave_what_they_point_to(nearest_bundle: Path, picture: Path, in_process: Command) -> None:
    victim, link = picture.parent / "victim", picture.parent / "link.png"
    victim.write_bytes(b"dear")
    link.symlink_to(victim)
    done = in_process("upscale", "--overwrite", "-o", link, nearest_bundle, picture)
    assert done.returncode == 0, done.stderr
    assert victim.read_bytes() == b"dear"
    assert (repeated(picture) == Image.open(link)).all()


def test_the_current_folder_is_gone(nearest_bundle: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = f"""
import os, sys
os.chdir({str(tmp_path / "gone")!r}); os.rmdir(os.getcwd())
from zoomrt.cli._common import run
from zoomrt.cli.upscale import cli
sys.exit(run(cli, ["-o", "o.png", {str(nearest_bundle)!r}, {str(picture)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "No such file" in failure_line(done, InputError.exit_code)


# --- bundles that an attacker made: any manifest, with a seal that fits


def forged(source: Path, target: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """A copy of a bundle with another manifest."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    manifest = parse_manifest((source / MANIFEST).read_bytes(), "source")
    (target / MANIFEST).write_bytes(change(manifest).sealed().to_json())
    return target


def _tile(**changes: object) -> Callable[[Manifest], Manifest]:
    return lambda m: msgspec.structs.replace(m, tile=msgspec.structs.replace(m.tile, **changes))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, files={}, graphs={"1": "../outside.onnx"}),
        lambda m: msgspec.structs.replace(m, files={}),
        lambda m: msgspec.structs.replace(m, files={}, graphs={"1": "x" * 300}),
        lambda m: msgspec.structs.replace(m, graphs={"1": "/etc/passwd"}),
        _tile(scale=2**40),
        _tile(height=16384, width=16384, scale=2),
        _tile(batches=(1, 4096)),
        _tile(scale=2),
        _tile(dtype="float16"),
        lambda m: msgspec.structs.replace(m, backend="x\n\x1b[31m"),
    ],
    ids=["outside", "no files", "long name", "absolute", "2^40", "large tile", "large batch", "scale", "dtype", "name"],
)
def test_forged_manifests(
    backend: str,
    change: Callable[[Manifest], Manifest],
    nearest_bundle: Path,
    picture: Path,
    in_process: Command,
    tmp_path: Path,
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    (tmp_path / "outside.onnx").write_bytes((nearest_bundle / "graph.onnx").read_bytes())
    bundle = forged(nearest_bundle, tmp_path / "b", lambda m: change(msgspec.structs.replace(m, backend=backend)))
    done = in_process("upscale", "-o", "o.png", bundle, picture)
    assert done.returncode in (BundleError.exit_code, 10), done.stderr
    assert failure_line(done, done.returncode).isprintable()
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "stranger.bin"])
@pytest.mark.parametrize("command_name", ["upscale", "upscale openvino", "bench", "doctor"])
def test_external_data_that_is_not_of_the_bundle(
    location: str, command_name: str, nearest_bundle: Path, picture: Path, in_process: Command, tmp_path: Path
) -> None:
    import onnx

    if command_name == "upscale openvino":
        pytest.importorskip("openvino")
    (tmp_path / "b").mkdir()
    model = onnx.load(str(nearest_bundle / "graph.onnx"))
    (weights,) = model.graph.initializer
    for place in (tmp_path / "secret.bin", tmp_path / "b" / "stranger.bin"):
        place.write_bytes(weights.raw_data)
    length = len(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    (tmp_path / "b" / "graph.onnx").write_bytes(model.SerializeToString())
    manifest = parse_manifest((nearest_bundle / MANIFEST).read_bytes(), "source")
    entry = msgspec.structs.replace(manifest.files["graph.onnx"], bytes=(tmp_path / "b" / "graph.onnx").stat().st_size)
    digest = hashlib.sha256((tmp_path / "b" / "graph.onnx").read_bytes()).hexdigest()
    listed = {"graph.onnx": msgspec.structs.replace(entry, sha256=digest)}
    sealed = msgspec.structs.replace(manifest, files=listed).sealed()
    (tmp_path / "b" / MANIFEST).write_bytes(sealed.to_json())
    open_bundle(tmp_path / "b")  # nothing else is wrong with it
    words = {
        "upscale": ("upscale", "-o", "o.png", "b", picture),
        "upscale openvino": ("upscale", "--backend", "openvino", "-o", "o.png", "b", picture),
        "bench": ("bench", "b", "--peers", "onnxruntime", "--repeats", "1"),
        "doctor": ("doctor", "b"),
    }[command_name]
    done = in_process(*words)
    assert "not listed" in failure_line(done, BundleError.exit_code)
