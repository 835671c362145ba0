"""trt-upscale on a real bundle whose result is known pixel by pixel, through the real command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import failure_line, repeated, tree, write_noise
from PIL import Image

from zoomrt.cli import upscale
from zoomrt.cli._common import run
from zoomrt.errors import OutOfMemory, RuntimeFault, StorageError


def test_one_picture_to_one_file(nearest_bundle: Path, picture: Path, tmp_path: Path, command) -> None:
    done = command("upscale", nearest_bundle, picture, "-o", tmp_path / "new" / "large.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert "21 x 17 -> 84 x 68 px" in done.stdout
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "large.png")), repeated(picture))
    assert list(tree(tmp_path / "new")) == ["large.png"]


def test_another_colour_step(nearest_bundle: Path, picture: Path, tmp_path: Path, capfd) -> None:
    """Repeated noise has more contrast than noise that Pillow enlarges, to which `adain` brings it back."""
    large = Image.open(picture).resize((84, 68), Image.Resampling.BICUBIC)
    for colour, expected in (("none", repeated(picture)), ("adain", np.asarray(large))):
        out = tmp_path / f"{colour}.png"
        assert run(upscale.cli, [str(nearest_bundle), str(picture), "-o", str(out), "--colour", colour]) == 0
        found = np.asarray(Image.open(out))
        np.testing.assert_allclose(found.std((0, 1)), expected.std((0, 1)), rtol=0.01)
    assert repeated(picture).std() > 1.1 * np.asarray(large).std()
    capfd.readouterr()
    assert run(upscale.cli, [str(nearest_bundle), str(picture), "-o", str(tmp_path / "x"), "--colour", "adian"]) == 2
    assert "unknown colour step: got 'adian', need one of adain, none, wavelet" in capfd.readouterr().err


def test_folder_then_again_then_overwrite(nearest_bundle: Path, tmp_path: Path, capfd) -> None:
    pictures = [write_noise(tmp_path / "in" / name) for name in ("a.png", "b.webp", "deep/c.png")]
    words = [str(nearest_bundle), str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--recursive"]
    assert run(upscale.cli, words) == 0
    assert capfd.readouterr().out.splitlines()[-1] == "3 upscaled"
    assert list(tree(tmp_path / "out")) == ["a.png", "b.webp", "deep", "deep/c.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), repeated(pictures[0]))

    (tmp_path / "out" / "a.png").unlink()
    kept = tree(tmp_path / "out")
    assert run(upscale.cli, words) == 0
    assert (
        capfd.readouterr().out.splitlines()[-1]
        == "1 upscaled, 2 skipped because the result exists (--overwrite replaces)"
    )
    assert {name: data for name, data in tree(tmp_path / "out").items() if name in kept} == kept

    (tmp_path / "out" / "a.png").write_bytes(b"mine")
    assert run(upscale.cli, words) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() == b"mine"
    assert run(upscale.cli, [*words, "--overwrite", "--quiet"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/a.png")), repeated(pictures[0]))


def test_a_bad_picture_among_many_is_reported_and_the_rest_goes_on(
    nearest_bundle: Path, tmp_path: Path, command
) -> None:
    for name in ("a.png", "c.png"):
        write_noise(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("not a picture")
    done = command("upscale", nearest_bundle, tmp_path / "in", "-o", tmp_path / "out", "--threads", 1)
    assert "b.png" in failure_line(done, 3)
    assert done.stdout.splitlines()[-1] == "2 upscaled, 1 failed"
    assert list(tree(tmp_path / "out")) == ["a.png", "c.png"]


def test_what_is_not_kept_is_a_warning_each_way(nearest_bundle: Path, tmp_path: Path, monkeypatch, capfd) -> None:
    """Of reader and writer, although warnings of libraries are hidden."""
    import warnings

    from zoomrt.runtime.pictures import images

    plain = images.read_picture

    def noting(path: Path) -> images.Picture:
        warnings.warn("its EXIF is damaged", images.PictureWarning, stacklevel=2)
        warnings.warn("an old name", DeprecationWarning, stacklevel=2)
        return dataclasses.replace(plain(path), iptc=b"\x1c\x02\x05\0\0")

    monkeypatch.setattr(images, "read_picture", noting)
    source = write_noise(tmp_path / "a.png")
    assert run(upscale.cli, [str(nearest_bundle), str(source), "-o", str(tmp_path / "b.png")]) == 0
    first, second = capfd.readouterr().err.splitlines()
    assert first == "warning: its EXIF is damaged"
    assert second.startswith("warning: ")
    assert "b.png': IPTC is not kept, PNG has no place for it" in second


@pytest.mark.parametrize(
    ("problem", "code", "tried"),
    [
        (RuntimeFault("tile 3 is not finite", seen="nan", needed="numbers", remedy="Report it."), 12, 3),
        (OutOfMemory("no room", seen="8 GB", needed="9 GB", remedy="Close programs."), 11, 3),
        (MemoryError(), 11, 3),
        (StorageError("jpg cannot hold alpha", seen="alpha", needed="none", remedy="Use png."), 13, 3),
        (OSError(28, "No space left on device"), 13, 1),
        (ValueError("a bug"), 1, 1),
    ],
)
def test_the_run_goes_on_only_where_the_next_picture_may_succeed(
    nearest_bundle: Path, tmp_path: Path, monkeypatch, capfd, problem: Exception, code: int, tried: int
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_noise(tmp_path / "in" / name)
    seen: list[Path] = []

    def failing(_result: object, path: Path) -> None:
        seen.append(path)
        if isinstance(problem, OSError):
            raise StorageError("cannot write", seen="full", needed="room", remedy="Make room.") from problem
        raise problem

    from zoomrt.runtime.pictures import images

    monkeypatch.setattr(images, "write_picture", failing)
    assert run(upscale.cli, [str(nearest_bundle), str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == code
    assert len(seen) == tried
    assert capfd.readouterr().err.count("\n") == tried
    assert not (tmp_path / "out").exists()


def test_threads_must_be_positive(nearest_bundle: Path, picture: Path, command) -> None:
    assert "--threads" in failure_line(command("upscale", nearest_bundle, picture, "-o", "x.png", "--threads", 0), 2)


def test_edited_manifest_and_missing_bundle(nearest_bundle: Path, picture: Path, tmp_path: Path, command) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in nearest_bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tile"]["overlap"] = 4
    (copy / "manifest.json").write_text(json.dumps(manifest))
    before = tree(tmp_path)
    line = failure_line(command("upscale", copy, picture, "-o", tmp_path / "out" / "x.png"), 9)
    assert "edited" in line
    assert "Build it again" in line
    line = failure_line(command("upscale", tmp_path / "gone", picture, "-o", tmp_path / "out"), 9)
    assert "nothing there" in line
    assert tree(tmp_path) == before


def test_a_bundle_for_another_machine_says_how_to_get_one_for_this(
    nearest_bundle: Path, picture: Path, tmp_path: Path, command
) -> None:
    import msgspec

    from zoomrt.bundle import open_bundle, writing_bundle

    manifest = open_bundle(nearest_bundle).manifest
    with writing_bundle(tmp_path / "gpu") as (scratch, manifests):
        (scratch / "graph.onnx").write_bytes((nearest_bundle / "graph.onnx").read_bytes())
        manifests.append(msgspec.structs.replace(manifest, backend="tensorrt_rtx", target="sm89"))
    line = failure_line(command("upscale", tmp_path / "gpu", picture, "-o", tmp_path / "x.png"), 10)
    assert "--target cpu" in line
    assert not (tmp_path / "x.png").exists()


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
sys.argv = ["trt-upscale", *sys.argv[1:]]
from zoomrt.cli.upscale import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_leaves_no_partial_picture(nearest_bundle: Path, picture: Path, tmp_path: Path) -> None:
    """A limit on file sizes makes the kernel refuse the write with a real OSError (EFBIG), as a full disk would."""
    line = [sys.executable, "-c", LIMITED, str(nearest_bundle), str(picture), "-o", str(tmp_path / "out" / "x.png")]
    before = tree(tmp_path)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert "File too large" in failure_line(done, 13)
    assert tree(tmp_path) == before


def test_a_file_where_the_folder_should_be(nearest_bundle: Path, picture: Path, tmp_path: Path, command) -> None:
    (tmp_path / "out").write_text("mine")
    line = failure_line(command("upscale", nearest_bundle, picture, "-o", tmp_path / "out"), 13)
    assert "a file of that name" in line
    assert (tmp_path / "out").read_text() == "mine"


SLOW = """
import sys, time
from zoomrt.runtime import upscaler
plain = upscaler.Upscaler._upscale
def slow(self, frame, size, on_tile):
    def dawdle(done, total):
        print("tile", flush=True)
        time.sleep(60)
    return plain(self, frame, size, dawdle)
upscaler.Upscaler._upscale = slow
sys.argv = ["trt-upscale", *sys.argv[1:]]
from zoomrt.cli.upscale import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
def test_ctrl_c_in_the_middle_leaves_nothing(nearest_bundle: Path, picture: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    line = [sys.executable, "-c", SLOW, str(nearest_bundle), str(picture), "-o", str(tmp_path / "out" / "x.png")]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "tile\n"
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    assert err == "error: interrupted, nothing half-written left behind\n"
    assert tree(tmp_path) == before
