"""What leaves the machine and what is written where: nothing, and only in the cache, the temporary folder and at -o.

The commands run as a user runs them, with engines and libraries as they are installed, under the helper `guard`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cli_helpers
import pytest
from cli_helpers import tree, write_noise

GUARD = Path(cli_helpers.__file__).parent / "guard"
Guarded = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    """Run a command line under the guard, with an empty home; it must end well and leave home and folder empty."""
    places = {name: tmp_path / name for name in ("home", "here", "cache", "out", "temporary")}
    for place in places.values():
        place.mkdir()
    report = tmp_path / "report"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))} | {
        "PYTHONPATH": os.pathsep.join([str(GUARD), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GUARD_ALLOWED": os.pathsep.join(str(places[name]) for name in ("cache", "out", "temporary")),
        "GUARD_REPORT": str(report),
        "HOME": str(places["home"]),
        "TMPDIR": str(places["temporary"]),
        "ZOOMRT_CACHE": str(places["cache"]),
    }
    left = ("TORCHINDUCTOR_CACHE_DIR", "SKIMAGE_DATADIR")  # torch sets the first in this very process
    for name in ("ORT_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "CI", *left):
        environment.pop(name, None)

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=places["here"], env=environment, check=False)
        breaches = report.read_text() if report.exists() else ""
        assert (done.returncode, done.stderr, breaches) == (0, "", "")
        assert tree(places["home"]) == tree(places["here"]) == tree(places["temporary"]) == {}
        return done

    return run


@pytest.mark.parametrize(
    ("code", "breach"),
    [
        ("open('stray', 'w')", "open"),
        ("import os; os.mkdir('stray')", "os.mkdir"),
        ("import socket; socket.getaddrinfo('localhost', 80)", "socket.getaddrinfo"),
    ],
)
def test_the_guard_sees_a_breach(code: str, breach: str, guarded: Guarded) -> None:
    guarded("-c", "import os; os.mkdir(os.environ['ZOOMRT_CACHE'] + '/kept')")
    with pytest.raises(AssertionError, match=breach):
        guarded("-c", code)


@pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp")
def test_the_guard_stops_sockets_of_native_code(guarded: Guarded) -> None:
    with pytest.raises(AssertionError, match="-31"):  # SIGSYS
        guarded("-c", "import _socket; _socket.socket(_socket.AF_INET)")


def test_a_bundle_is_built_run_and_timed(
    guarded: Guarded, tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    out, picture = tmp_path / "out", write_noise(tmp_path / "picture.png")
    tiny = ("--model", "edge", "--weights", tiny_edge_weights, "--tile", 32)
    guarded("-m", "zoomrt.cli.build", *tiny, "--backend", "onnxruntime", "-o", out / "bundle")
    for backend in ("onnxruntime", "openvino"):
        options = ("--backend", backend, "-o", out / f"{backend}.png")
        guarded("-m", "zoomrt.cli.upscale", out / "bundle", picture, *options)
    guarded("-m", "zoomrt.cli.doctor", out / "bundle")
    keep_ceilings(tmp_path / "cache", monkeypatch)
    peers = ("--peers", "onnxruntime,openvino", "--threads", 1, "--repeats", 1, "--seconds", 0)
    records = ("--json", out / "a.json", "--html", out / "a.html")
    guarded("-m", "zoomrt.cli.bench", out / "bundle", *peers, *records)


def keep_ceilings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this machine had been measured before, which takes seconds."""
    from zoomrt.bench import roofline
    from zoomrt.bench.record import Ceilings

    fast = Ceilings(machine="", threads=1, tflops={"fp32": 1.0}, gb_per_s=1.0, us_per_node=1.0, how="")
    monkeypatch.setattr(roofline, "measure_ceilings", lambda _threads: fast)
    monkeypatch.setenv("ZOOMRT_CACHE", str(cache))
    roofline.ceilings(1)
