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
from small_bundles import TILE, write

from zoomrt.bundle import MANIFEST, Manifest, open_bundle, writing_bundle
from zoomrt.errors import BundleError, StorageError


def test_round_trip(tmp_path: Path) -> None:
    write(tmp_path / "b", seeds={"noise": 7}, parity={"1": {"psnr": 99.5}})
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
        (_edit(lambda d: d.update(schema=99)), ["schema = 99", "need 2"]),
        (_edit(lambda d: d["files"].update({"../x": {"bytes": 1, "sha256": ""}})), ["changed after the build"]),
        (lambda b: (b / MANIFEST).write_text("{"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_text("[1]"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).write_bytes(b"\xff\xfe"), ["not a manifest"]),
        (lambda b: (b / MANIFEST).unlink(), ["manifest.json", "No such file"]),
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
    with pytest.raises(BundleError, match="leaves the bundle"):
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
    assert open_bundle(tmp_path / "b").file("graph.onnx").read_bytes() == b"new"
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
import zoomrt.bundle as bundle
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
write(Path({path!r}), payload=b"new")
print("survived", calls)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX signals")
def test_kill_9_at_any_moment_leaves_the_old_bundle_or_none(tmp_path: Path) -> None:
    """Kill the writer before its 1st, 2nd, ... system call that changes the disk."""
    seen = set()
    for after in range(1, 40):
        place = tmp_path / str(after)
        place.mkdir()
        write(place / "b", payload=b"old")
        code = textwrap.dedent(KILLED).format(
            tests=os.path.dirname(small_bundles.__file__), after=after, path=str(place / "b")
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if (place / "b").exists():
            payload = open_bundle(place / "b").file("graph.onnx").read_bytes()  # verified: whole
            assert payload in (b"old", b"new")
            seen.add(payload)
        else:
            seen.add(None)
        if run.returncode == 0:
            assert "survived" in run.stdout
            break
        assert run.returncode == -signal.SIGKILL, run.stderr
    else:
        pytest.fail("the writer never finished")
    assert seen == {b"old", None, b"new"}


def test_leftovers_of_killed_builds_are_swept_after_a_day(tmp_path: Path) -> None:
    for name, age in (("old", 2 * 86400), ("new", 60)):
        part = tmp_path / f".b.part-{name}"
        part.mkdir()
        (part / "x").write_text("")
        for item in (part / "x", part):
            stamp = item.stat().st_mtime - age
            os.utime(item, (stamp, stamp))
    write(tmp_path / "b")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.part-new", "b"]
