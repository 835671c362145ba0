"""The bundle: strict manifest, atomic writing, and every way in which a bundle can be wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import small_bundles
from small_bundles import EMPTY_MODEL, TILE, model_with_external_data, write

import zoomrt.bundle.folder as bundle_module
from zoomrt import _scratch, files
from zoomrt.bundle import MANIFEST, Manifest, check_output, open_bundle, writing_bundle
from zoomrt.bundle.records import SpeedRecord, Timing
from zoomrt.errors import BundleError, StorageError


def test_round_trip(tmp_path: Path) -> None:
    timing = Timing(1, 0.5, 3)  # a whole number of milliseconds is read as 1.0
    speed = SpeedRecord(batch=1, threads=2, chosen="onnxruntime", engines={"onnxruntime": timing})
    write(tmp_path / "b", seeds={"noise": 7}, speed=speed)
    read = open_bundle(tmp_path / "b").manifest
    assert msgspec.json.decode(read.to_json(), type=Manifest) == read
    assert read.seeds == {"noise": 7}
    assert read.tile == TILE
    assert read.files["graph.onnx.data"].bytes == 500
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b"]


def _drop(b: Path) -> None:
    (b / "graph.onnx.data").unlink()


def _truncate(b: Path) -> None:
    (b / "graph.onnx").write_bytes(b"grap")


def _flip(b: Path) -> None:
    (b / "graph.onnx").write_bytes(b"graqh")


def _pipe(b: Path) -> None:
    (b / "graph.onnx").unlink()
    os.mkfifo(b / "graph.onnx")


def _link(b: Path) -> None:
    (b / "graph.onnx").rename(b.parent / "outside.onnx")
    (b / "graph.onnx").symlink_to(b.parent / "outside.onnx")


def _link_of(file: Path) -> None:
    _link(file.parent)


def _linked_folder(b: Path) -> None:
    (b / "kernels").rename(b.parent / "kernels")
    (b / "kernels").symlink_to("../kernels")


def _manifest(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(b: Path) -> None:
        (b / MANIFEST).unlink()
        make(b / MANIFEST)

    return apply


def _huge(place: Path) -> None:
    with place.open("wb") as stream:
        stream.truncate(1 << 40)


def _edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def apply(b: Path) -> None:
        document = json.loads((b / MANIFEST).read_text())
        change(document)
        (b / MANIFEST).write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_drop, ["graph.onnx.data", "nothing there", "500 bytes"]),
        (_truncate, ["graph.onnx", "bytes = 4", "5"]),
        (_flip, ["graph.onnx", "sha256"]),
        (_edit(lambda d: d["tile"].update(scale=2)), ["changed after the build", "digest"]),
        (_edit(lambda d: d["tile"].update(scale="4")), ["$.tile.scale", "int"]),
        (_edit(lambda d: d.update(extra=1)), ["extra"]),
        (_edit(lambda d: d.pop("family")), ["family"]),
        (_edit(lambda d: d.update(schema=99)), ["schema = 99", "need 3"]),
        (_edit(lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}})), ["changed after the build"]),
        (_pipe, ["graph.onnx", "not a file"]),
        (_link, ["graph.onnx", "leaves the bundle"]),
        (_linked_folder, ["kernels/k", "leaves the bundle"]),
        (lambda b: (b / MANIFEST).write_text("{"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_text("[1]"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_bytes(b"\xff\xfe"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_bytes(b"[" * 200_000), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_bytes(b""), ["not a manifest"]),
        (lambda b: (b / MANIFEST).unlink(), ["manifest.json", "nothing there"]),
        (_manifest(os.mkfifo), ["manifest.json", "not a file"]),
        (_manifest(lambda place: place.symlink_to("/dev/zero")), ["manifest.json", "not a file"]),
        (_manifest(Path.mkdir), ["manifest.json", "a folder"]),
        (_manifest(_huge), ["manifest.json", "1099511627776 bytes"]),
    ],
)
def test_damage_names_file_field_and_remedy(tmp_path: Path, damage: Callable[[Path], object], said: list[str]) -> None:
    write(tmp_path / "b")
    damage(tmp_path / "b")
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path / "b")
    for text in [*said, "uild it again"]:
        assert text in str(caught.value)


def test_a_resealed_manifest_cannot_leave_the_bundle(tmp_path: Path) -> None:
    write(tmp_path / "b")
    read = open_bundle(tmp_path / "b").manifest
    files = {**read.files, "../outside": read.files["graph.onnx"]}
    (tmp_path / "outside").write_bytes(b"graph")
    forged = msgspec.structs.replace(read, files=files).sealed()
    (tmp_path / "b" / MANIFEST).write_bytes(forged.to_json())
    with pytest.raises(BundleError, match=r"'\.\./outside', need paths inside the bundle"):
        open_bundle(tmp_path / "b")


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_bundle_there(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "b").write_text("")
    with pytest.raises(BundleError, match="trt-build"):
        open_bundle(tmp_path / "b")


def test_verify_false_skips_hashes_only(tmp_path: Path) -> None:
    write(tmp_path / "b")
    _flip(tmp_path / "b")
    open_bundle(tmp_path / "b", verify=False)
    _truncate(tmp_path / "b")
    with pytest.raises(BundleError):
        open_bundle(tmp_path / "b", verify=False)


def test_failure_keeps_the_old_bundle(tmp_path: Path) -> None:
    write(tmp_path / "b", payload=b"old")

    def fail() -> None:
        with writing_bundle(tmp_path / "b") as (scratch, _):
            (scratch / "graph.onnx").write_bytes(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "b" / "graph.onnx").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_replaces_an_older_bundle_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "b", payload=b"old")
    write(tmp_path / "b", payload=b"new")
    assert open_bundle(tmp_path / "b").read("graph.onnx") == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(StorageError, match="will not replace"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"dear"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


def test_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError):
        write(tmp_path / "f" / "b")


KILLED = """
import os, signal, sys
from pathlib import Path
from zoomrt import _scratch
sys.path.insert(0, {tests!r})
from small_bundles import write

calls = 0
def dying(function):
    def wrapped(*arguments, **keywords):
        global calls
        calls += 1
        if calls == {after}:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapped

for name in ("rename", "fsync", "chmod", "mkdir", "unlink", "rmdir"):
    setattr(os, name, dying(getattr(os, name)))
_scratch._exchange = dying(_scratch._exchange)
write(Path({path!r}), payload=b"new")
print("survived", calls)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_kill_9_at_any_moment_leaves_the_old_bundle_or_the_new_one(tmp_path: Path) -> None:
    """Kill the writer before its 1st, 2nd, ... system call that changes the disk; the next one finds no obstacle."""
    seen = set()
    for after in range(1, 40):
        place = tmp_path / str(after)
        place.mkdir()
        write(place / "b", payload=b"old")
        code = textwrap.dedent(KILLED).format(
            tests=os.path.dirname(small_bundles.__file__), after=after, path=str(place / "b")
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        seen.add(open_bundle(place / "b").read("graph.onnx"))
        _scratch._sweep.cache_clear()  # as in another process
        files.write_bytes(place / "other", b"")
        assert sorted(os.listdir(place)) == ["b", "other"]
        if run.returncode == 0:
            assert "survived" in run.stdout
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
    else:
        pytest.fail("the writer never finished")
    assert seen == {b"old", b"new"}


# --- closed: nothing is opened that is not listed and verified


def test_only_listed_files_are_handed_out(tmp_path: Path) -> None:
    write(tmp_path / "b")
    (tmp_path / "b" / "stranger").write_bytes(b"x")
    bundle = open_bundle(tmp_path / "b")
    for name in ("stranger", "../b/graph.onnx", str(tmp_path / "b" / "graph.onnx"), "./graph.onnx", "nothing", ""):
        for access in (bundle.file, bundle.read):
            with pytest.raises(BundleError, match="not listed"):
                access(name)
    assert bundle.file("graph.onnx") == tmp_path / "b" / "graph.onnx"
    assert bundle.read("graph.onnx") == b"graph"


@pytest.mark.parametrize("access", ["file", "read"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_bytes(b"graqh"), "sha256"),
        (lambda file: (file.unlink(), file.write_bytes(b"grap")), "bytes"),
        (lambda file: file.write_bytes(b"graphs"), "6 bytes|bytes = 6"),
        (Path.unlink, "nothing there"),
        (_link_of, "leaves the bundle"),
    ],
)
def test_a_file_that_changed_after_the_bundle_was_opened(
    access: str, change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    os.utime(tmp_path / "b" / "graph.onnx", ns=(0, 0))  # another time alone is no change
    getattr(bundle, access)("graph.onnx")
    change(tmp_path / "b" / "graph.onnx")
    with pytest.raises(BundleError, match=said):
        getattr(bundle, access)("graph.onnx")


def test_files_are_hashed_once_unless_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    hashed = []
    monkeypatch.setattr(files, "sha256_of", lambda path, _: hashed.append(path.name))
    bundle.file("graph.onnx")
    assert hashed == []


def test_a_bundle_replaced_while_it_is_opened_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "b", payload=b"old")
    parse, calls = bundle_module.parse_manifest, []

    def replacing(raw: bytes, where: str) -> Manifest:
        if not calls:
            calls.append(raw)
            write(tmp_path / "b", payload=b"newer")
            calls.append(raw)
        return parse(raw, where)

    monkeypatch.setattr(bundle_module, "parse_manifest", replacing)
    assert open_bundle(tmp_path / "b").read("graph.onnx") == b"newer"


def test_external_data_must_be_listed(tmp_path: Path) -> None:
    for location, listed in (("graph.onnx.data", True), ("./graph.onnx.data", True), ("../x", False), ("/x", False)):
        write(tmp_path / "b", payload=model_with_external_data(location))
        bundle = open_bundle(tmp_path / "b")
        if listed:
            assert bundle.graph("1") == tmp_path / "b" / "graph.onnx"
        else:
            with pytest.raises(BundleError, match="not listed"):
                bundle.graph("1")


def test_external_data_is_verified_when_the_graph_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "b", payload=model_with_external_data("graph.onnx.data"))
    bundle = open_bundle(tmp_path / "b")
    data = tmp_path / "b" / "graph.onnx.data"
    data.write_bytes(b"x" + data.read_bytes()[1:])
    with pytest.raises(BundleError, match=r"graph\.onnx\.data.*sha256"):
        bundle.graph("1")


def test_parts_that_a_bundle_lacks(tmp_path: Path) -> None:
    write(tmp_path / "b", payload=EMPTY_MODEL)
    bundle = open_bundle(tmp_path / "b")
    assert bundle.graph("1") == tmp_path / "b" / "graph.onnx"
    with pytest.raises(BundleError, match=r"graphs is incomplete.*one for 2"):
        bundle.graph("2")
    with pytest.raises(BundleError, match="engines is incomplete"):
        bundle.engine("1")


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"graphs\.1.*one of files"):
        write(tmp_path / "b", graphs={"1": "other.onnx"})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("target", [".", "photos", "photos/a.png"])
def test_an_output_that_cannot_be_is_known_before(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"dear")
    with pytest.raises(StorageError):
        check_output(target)
    assert os.listdir(tmp_path / "photos") == ["a.png"]
