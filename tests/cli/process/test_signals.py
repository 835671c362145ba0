"""Signals at any moment: while modules are imported, at work, while cleaning up; one line, the shell's exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_helpers
import pytest
from cli_helpers import tree

SIGNALLED = Path(cli_helpers.__file__).parent / "signalled"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
WORDS = {
    signal.SIGINT: b"error: interrupted, nothing half-written left behind\n",
    signal.SIGTERM: b"error: terminated, nothing half-written left behind\n",
    signal.SIGHUP: b"error: hung up, nothing half-written left behind\n",
}


def run_signalled(*words: object, at: str, number: signal.Signals, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    """A command that is sent a signal as it imports the module `at`."""
    path = os.pathsep.join([str(SIGNALLED), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    env = os.environ | {"PYTHONPATH": path, "SIGNAL_AT": at, "SIGNAL": str(int(number))}
    line = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(line, capture_output=True, env=env, cwd=cwd, check=False)


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "module", ["click", "zoomrt.cli.process.signals", "zoomrt.runtime.resources", "zoomrt.cli._pictures"]
)
def test_before_the_command_has_begun_it_ends_without_words(
    module: str, number: signal.Signals, tmp_path: Path
) -> None:
    done = run_signalled("zoomrt.cli.upscale", "b", "p.png", "-o", "o", at=module, number=number, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-number, b"", b"")  # 128 + number to a shell


@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "module", ["numpy", "onnxruntime.capi._pybind_state", "PIL.Image", "zoomrt.runtime.tiles.plan"]
)
def test_later_it_is_one_line_and_nothing_is_left(
    module: str, number: signal.Signals, nearest_bundle: Path, picture: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    words = ("zoomrt.cli.upscale", nearest_bundle, picture, "-o", "o")
    done = run_signalled(*words, at=module, number=number, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, b"", WORDS[number])
    assert tree(tmp_path) == before


PROGRAM = """
import atexit, os, signal, time
import click
from zoomrt.cli._common import start

@click.command("trt-test")
def cli():
    {body}

start(cli)
"""


def program(body: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    text = PROGRAM.format(body=body.strip().replace("\n", "\n    "))
    return subprocess.run([sys.executable, "-c", text], capture_output=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_a_second_signal_does_not_stop_the_cleaning_up() -> None:
    done = program("""
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
finally:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    click.echo("cleaned")
""")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"cleaned\n", WORDS[signal.SIGINT])


def test_a_signal_that_a_library_swallows_can_be_sent_again() -> None:
    done = program("""
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except BaseException:
    time.sleep(0.6)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
""")
    assert (done.returncode, done.stderr) == (143, WORDS[signal.SIGTERM])


def test_while_python_shuts_down_there_are_no_words() -> None:
    done = program("atexit.register(lambda: [os.kill(os.getpid(), signal.SIGINT), time.sleep(60)])")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["script's background", "nohup"])
def test_a_signal_that_was_ignored_stays_ignored(number: signal.Signals) -> None:
    done = program(
        f"os.kill(os.getpid(), {int(number)}); click.echo('went on')",
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"went on\n", b"")


def test_a_program_that_imports_a_command_keeps_its_ctrl_c() -> None:
    code = "import zoomrt.cli.upscale, signal; assert signal.getsignal(2) is signal.default_int_handler"
    subprocess.run([sys.executable, "-c", code], check=True)


COMPILING = """
import sys, click
from pathlib import Path
from zoomrt.cli._common import start
from zoomrt.export.engines.tensorrt import build_engine

folder = Path(sys.argv.pop(1))

@click.command("trt-test")
def cli():
    build_engine(folder / "g.onnx", folder / "out" / "e.engine", backend="tensorrt_rtx",
                 compute_capabilities=("SM89",), precision="fp16")

start(cli)
"""
ENDLESS_COMPILER = """
import os, time
with open(os.environ["CHILD"], "w") as stream:
    stream.write(str(os.getpid()))
while True:
    time.sleep(1)  # as deaf as native code
"""


@pytest.mark.parametrize("number", [*WORDS, signal.SIGKILL], ids=lambda number: number.name)
def test_a_compiler_under_way_is_ended_and_its_scratch_gone(number: signal.Signals, tmp_path: Path) -> None:
    """SIGKILL too, which nobody can catch: the compiler notices that its parent is gone."""
    pytest.importorskip("onnx")
    from engine_graphs import stand_in, tiny_graph

    tiny_graph(tmp_path / "g.onnx")
    (tmp_path / "out").mkdir()
    path = os.pathsep.join(
        [stand_in(tmp_path / "fake", "tensorrt_rtx", ENDLESS_COMPILER), os.environ.get("PYTHONPATH", "")]
    )
    env = os.environ | {"PYTHONPATH": path, "CHILD": str(tmp_path / "child")}
    line = [sys.executable, "-c", COMPILING, tmp_path]
    with subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        child = int(wait_for(lambda: (tmp_path / "child").read_text()))
        parent.send_signal(number)
        out, err = parent.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert parent.returncode == -number
    else:
        assert (parent.returncode, out, err) == (128 + number, b"", WORDS[number])
    wait_for(lambda: not is_running(child))
    wait_for(lambda: not list((tmp_path / "out").iterdir()))


def wait_for(look: Callable[[], Any]) -> Any:
    """What `look` returns once it is something."""
    for _ in range(600):
        with contextlib.suppress(OSError):
            if found := look():
                return found
        time.sleep(0.1)
    raise TimeoutError


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")  # one that has ended may wait for whoever adopted it
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
