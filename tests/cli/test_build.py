"""trt-build: what it refuses before any work, what it prints, and what is left when it fails or is stopped.

Builds use a tiny `edge` checkpoint; quality and parity are tested beside the exporter.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cli_helpers import failure_line, tree

from zoomrt.bundle import open_bundle
from zoomrt.bundle.records import BuildFigures, EngineReport
from zoomrt.cli import _build_summary, _common, bench, build
from zoomrt.cli._common import run
from zoomrt.models import families
from zoomrt.models.family import Family
from zoomrt.runtime.backends import BACKENDS

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("words", "code", "texts"),
    [
        (["--model", "egde"], 2, ["unknown model", "'egde'", "Did you mean edge"]),
        (["--model", "auto"], 2, ["--model auto", "--weights"]),
        (["--target", "sm98"], 2, ["unknown target", "Did you mean sm89"]),
        (["--precision", "fp61"], 2, ["unknown precision", "Did you mean fp16"]),
        (["--precision", "fp8", "--target", "sm86"], 2, ["cannot run fp8", "SM86", "89 or newer"]),
        (["--backend", "tensorrt_rxt", "--target", "sm89"], 2, ["unknown backend", "Did you mean tensorrt_rtx"]),
        (["--backend", "tensorrt_rtx"], 2, ["target cpu", "--backend"]),
        (["--batch", "1,x"], 2, ["--batch", "'1,x'"]),
        (["--batch", "0,1"], 2, ["--batch"]),
        (["--timeout", "0"], 2, ["--timeout"]),
        (["--timeout", "nan"], 2, ["--timeout"]),
        *(
            (["--max-memory", word], 2, ["--max-memory", repr(word)])
            for word in ("12", "much", "0G", "-1G", "1e3M", "12GG")
        ),
        (["--max-memory", "100M"], 11, ["--max-memory", "100 MB or less", "MB for the program"]),
        (["--tiles", "4"], 2, ["fp32 needs no calibration", "--precision int8"]),
        (["--precision", "int8", "--method", "msee"], 2, ["unknown range method", "Did you mean mse?"]),
        (["--precision", "int8", "--min-psnr", "-1"], 2, ["--min-psnr", "-1"]),
        (["--precision", "int8", "--search-minutes", "inf"], 2, ["--search-minutes", "inf"]),
        (["--precision", "int8", "--calibration-hr"], 2, ["without --calibration"]),
        (["--precision", "int8", "--calibration", "none"], 3, ["'none'", "nothing there"]),
        (["--precision", "int8", "--target", "sm75"], 2, ["INT8 convolutions there in FP16"]),
        (["--tile", "63"], 2, ["tile", "63"]),
        (["--overlap", "1000"], 2, ["overlap", "1000"]),
        (["--tile", "many"], 2, ["--tile", "many"]),
        (["--wieghts", "x"], 2, ["--weights"]),
        (["--model", "edsr", "--guidance", "2"], 2, ["edsr does not take --guidance", "--model jit-sr"]),
        (["--denoise-strength", "0.5"], 2, ["edge does not take --denoise-strength", "real-esrgan-compact"]),
        (["--model", "edsr", "--residual-scael", "1"], 2, ["--residual-scale"]),
        (["--model", "edsr", "--residual-scale", "11"], 2, ["--residual-scale", "'11'", "above 0, up to 10"]),
        (["--model", "jit-sr", "--sampler", "huen"], 2, ["unknown sampler", "Did you mean heun"]),
        (["--model", "adcsr", "--decoder", "gone"], 4, ["what --decoder names", "nothing at 'gone'"]),
        (["--model", "egde", "--help"], 2, ["unknown model", "Did you mean edge"]),
    ],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    words: list[str], code: int, texts: list[str], tmp_path: Path, capfd, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(build.cli, words) == code
    _, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert all(text in err for text in texts), err
    assert tree(tmp_path) == {}


def test_names_are_checked_without_torch(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_common.EXTRAS, "export", ("no_torch_here",))
    assert run(build.cli, ["--model", "egde"]) == 2
    assert "Did you mean edge" in capfd.readouterr().err
    assert run(build.cli, ["--model", "edge"]) == 14
    assert "pip install 'zoomrt[export]'" in capfd.readouterr().err
    monkeypatch.setitem(_common.EXTRAS, "export", ())
    with BACKENDS.added(replace(BACKENDS.named("tensorrt_rtx"), module="no_rtx_here")):
        assert run(build.cli, ["--target", "sm89"]) == 14
    assert "pip install 'zoomrt[rtx]'" in capfd.readouterr().err
    assert tree(tmp_path) == {}


def test_list_without_torch(capfd, monkeypatch) -> None:
    monkeypatch.setitem(_common.EXTRAS, "export", ("no_torch_here",))
    assert run(build.cli, ["--list"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert " ".join(out.split("\n")[0].split()) == "model variant scale parameters GMAC at 512 steps licence status"
    models, _, files = out.partition("\n\n")
    assert {line.split()[0] for line in models.splitlines()[1:]} == set(families.FAMILIES.names())
    assert files.split("\n")[0].split() == ["model", "for", "published", "file", "size"]
    published = {family.name for family in families.FAMILIES.records() if family.published}
    assert {line.split()[0] for line in files.splitlines()[1:]} == published


def test_auto_recognises_by_keys(tmp_path: Path, tiny_edge_weights: Path, capfd) -> None:
    words = ["--model", "auto", "--weights", str(tiny_edge_weights), "--tile", "32", "-o", str(tmp_path / "b")]
    assert run(build.cli, words) == 0
    assert open_bundle(tmp_path / "b").manifest.family == "edge"
    _save({"conv.weight": [2, 2]}, tmp_path / "w.safetensors")
    capfd.readouterr()
    assert run(build.cli, ["--model", "auto", "--weights", str(tmp_path / "w.safetensors")]) != 0
    assert "cannot tell the model" in capfd.readouterr().err


class Malice:
    """Unpickles by creating a file: proof that nothing of a checkpoint runs."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def torch_zip(payload: bytes) -> bytes:
    """A file laid out like torch.save's: a zip archive with one pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


BAD_WEIGHTS: dict[str, Callable[[Path, Path], object]] = {
    "missing": lambda *_: None,
    "empty": lambda path, _: path.write_bytes(b""),
    "truncated": lambda path, good: path.write_bytes(good.read_bytes()[:-1000]),
    "cut in the header": lambda path, good: path.write_bytes(good.read_bytes()[:100]),
    "text": lambda path, _: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "a folder": lambda path, _: path.mkdir(),
    "a pickle of code": lambda path, _: path.write_bytes(pickle.dumps(Malice(path.with_name("ran")))),
    "a torch file of code": lambda path, _: path.write_bytes(
        torch_zip(pickle.dumps(Malice(path.with_name("ran")), protocol=2))
    ),
    "of another model": lambda path, _: _save({"conv.weight": [2, 2]}, path),
}


def _save(shapes: dict[str, list[int]], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, path)


@pytest.mark.parametrize("case", BAD_WEIGHTS)
@pytest.mark.parametrize("model", [[], ["--model", "edge"]], ids=["by keys", "named"])
def test_bad_weights(case: str, model: list[str], tiny_edge_weights: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad.ckpt"
    BAD_WEIGHTS[case](bad, tiny_edge_weights)
    before = tree(tmp_path)
    assert run(build.cli, [*model, "--weights", str(bad), "-o", "out"]) == 4
    _, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert "bad.ckpt" in err
    assert tree(tmp_path) == before


def test_build_then_build_again_from_the_cache(tiny_edge_weights: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--weights", str(tiny_edge_weights), "--tile", "32"]
    assert run(build.cli, words) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert {"weights ...", "export ...", "parity ..."} <= set(out.splitlines())
    assert "tiny-fp32-cpu built in" in out
    assert "32 x 32 -> 128 x 128 px" in out
    assert "dB or better against torch FP32 in onnxruntime" in out
    assert "trt-upscale tiny-fp32-cpu" in out
    first = tree(tmp_path / "tiny-fp32-cpu")
    assert open_bundle("tiny-fp32-cpu").manifest.tile.width == 32
    assert run(build.cli, [*words, "-o", "again"]) == 0
    assert "again from the cache" in capfd.readouterr().out
    assert tree(tmp_path / "again") == first
    assert run(build.cli, [*words, "-o", "again", "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")


def test_build_in_int8(tiny_edge_weights: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "--precision", "int8", "--tiles", "2"]
    assert run(build.cli, [*words, "--min-psnr", "15", "--search-minutes", "0", "--method", "entropy"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert {"calibrate ...", "quality ..."} <= set(out.splitlines())
    assert "% of multiply-adds in int8, ranges by entropy from 2 tiles" in out
    assert "on the worst of 2 other tiles" in out
    assert "(needed 15 dB)" in out
    assert "  8 bits   kept: 1 layers, first or last layer" in out
    assert open_bundle("tiny-int8-cpu").manifest.calibration.tiles.count == 2
    before = tree(tmp_path)
    assert run(build.cli, [*words, "--min-psnr", "149", "-o", "no"]) == 6
    _, err = capfd.readouterr()
    assert err.count("\n") == 1
    assert "no part of the network can be quantised" in err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "count"),
    [("800M", 800e6), ("12G", 12e9), ("12GiB", 12 * 2**30), ("1.5gb", 1.5e9), ("1MiB", 2**20), ("2MB", 2e6)],
)
def test_sizes_of_memory(text: str, count: float) -> None:
    assert build._memory_bytes(text) == count


def test_memory_is_planned_and_refused_before_the_work(tiny_edge_weights: Path, tmp_path: Path, capfd) -> None:
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "-o", str(tmp_path / "out")]
    assert run(build.cli, words) == 0
    lines = capfd.readouterr().out.splitlines()
    table = lines.index("memory           weights  activations   workspace     total")
    assert lines.index("weights ...") < table < lines.index("reference ...")
    memory = open_bundle(tmp_path / "out").manifest.memory
    assert any(line.endswith(f"expected at most, in {memory.peak.name}") for line in lines)
    # the same build under a limit just below its plan, and just above: a limit is no part of what is built
    limit = memory.peak.total // 10**6
    assert run(build.cli, [*words, "--no-cache", "--max-memory", f"{limit}M", "-o", str(tmp_path / "no")]) == 11
    out, err = capfd.readouterr()
    assert "reference ..." not in out
    assert f"{memory.peak.name} {limit}" in err or f"{memory.peak.name} {limit + 1}" in err
    assert run(build.cli, [*words, "--max-memory", f"{limit + 1}M", "-o", str(tmp_path / "yes")]) == 0
    assert "yes from the cache" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "yes"]


def test_a_folder_that_is_no_bundle_is_not_replaced(tiny_edge_weights: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    before = tree(tmp_path)
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "-o", str(tmp_path / "photos")]
    assert run(build.cli, words) == 13
    assert "not a bundle" in capfd.readouterr().err
    assert tree(tmp_path) == before


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
sys.argv = ["trt-build", *sys.argv[1:]]
from zoomrt.cli.build import main
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_full_disk_leaves_no_partial_bundle(tiny_edge_weights: Path, tmp_path: Path) -> None:
    """A limit on file sizes makes the kernel refuse the write with a real OSError (EFBIG), as a full disk would."""
    line = [sys.executable, "-c", LIMITED, "--weights", str(tiny_edge_weights), "--tile", "32", "-o"]
    done = subprocess.run([*line, str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert "File too large" in failure_line(done, 13)
    assert tree(tmp_path) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="needs process groups")
@pytest.mark.parametrize("stage", ["export", "engine: parse"])
def test_ctrl_c_in_the_middle_leaves_the_old_bundle(stage: str, tiny_edge_weights: Path, tmp_path: Path) -> None:
    words = ["--weights", str(tiny_edge_weights), "--tile", "32", "-o", str(tmp_path / "out")]
    if stage.startswith("engine"):
        pytest.importorskip("tensorrt_rtx")
        words += ["--target", "sm89", "--precision", "fp16"]
    line = [sys.executable, "-m", "zoomrt.cli.build", *words]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout is not None
        while said := child.stdout.readline():
            if said.startswith(stage):
                break
        else:
            pytest.fail(f"never reached {stage}: {child.stderr.read() if child.stderr else ''}")
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 130, err
    assert err == "error: interrupted, nothing half-written left behind\n"
    assert tree(tmp_path) == {}


def test_summary_of_an_engine() -> None:
    """Figures as the plan reader writes them, and what is left of the line where they could not be read."""
    read = EngineReport(
        backend="tensorrt_rtx",
        backend_version="1.7.1.116",
        precision="fp16",
        sms=("SM86", "SM89"),
        kernels=171,
        attentions_fused=1,
        attentions_expected=2,
        share_in_precision=0.7945,
        static_bytes=109757336,
        engine_bytes=12182812,
        sha256="0" * 64,
        build=BuildFigures(seconds=3.3, peak_rss_bytes=301682688),
    )
    small = BuildFigures(seconds=3.3, peak_rss_bytes=0)
    unread = msgspec.structs.replace(read, sms=None, kernels=None, static_bytes=None, build=small)
    first, second = _build_summary._engine_lines({"1": read, "4": unread})
    assert first == (
        "batch 1: SM86/SM89, tensorrt_rtx 1.7.1.116, 12.2 MB, compiled in 3 s within 302 MB, 171 kernels, "
        "attention fused 1 of 2, 79% of kernels in fp16, 110 MB read and written per run"
    )
    assert second == "batch 4: tensorrt_rtx 1.7.1.116, 12.2 MB, compiled in 3 s"


def options_in_help(words: list[str], capfd) -> set[str]:
    assert run(build.cli, [*words, "--help"]) == 0
    return set(re.findall(r"^ +(?:-\w, )?(--[a-z0-9-]+)", capfd.readouterr().out, re.MULTILINE))


@pytest.mark.parametrize("family", families.FAMILIES.records(), ids=lambda family: family.name)
def test_help_of_one_model_shows_its_options_and_no_others(family: Family, capfd) -> None:
    own = {option.flag for option in family.options}
    assert options_in_help(["--model", family.name], capfd) - options_in_help([], capfd) == own
    assert options_in_help(["--weights", "x", f"--model={family.name}"], capfd) >= own


def test_help_says_how_to_see_the_options_of_a_model(capfd) -> None:
    assert options_in_help([], capfd).isdisjoint(option.flag for option in families.options_of(None))
    for words in ([], ["--model", "auto"]):
        assert run(build.cli, [*words, "--help"]) == 0
        out = " ".join(capfd.readouterr().out.split())
        assert "trt-build --model NAME --help, where NAME is one of adcsr, edsr, hypir" in out
        headings = ["Model:", "Where it runs:", "Tiles:", "8-bit layers:", "Checks and limits:", "Output:"]
        assert [out.index(heading) for heading in headings] == sorted(out.index(heading) for heading in headings)


def test_no_option_of_a_family_hides_a_common_one() -> None:
    common = {flag for command in (build.cli, bench.cli) for param in command.params for flag in param.opts}
    assert common.isdisjoint(option.flag for option in families.options_of(None))
