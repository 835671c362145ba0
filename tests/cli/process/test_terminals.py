"""Streams that are closed, full, or of another encoding, and names that a terminal would act on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cli_helpers
import pytest
from cli_helpers import write_noise
from commands import COMMANDS
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.cli._common import report, say
from zoomrt.cli.process.streams import Stderr, printable

HELPERS = Path(cli_helpers.__file__).parent
unix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and /dev/full")

CLEAR_TITLE = "\x1b]0;owned\x07"
"""What changes the title of a terminal's window."""


def closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def without_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def full(*descriptors: int) -> Callable[[], None]:
    def fill() -> None:
        for descriptor in descriptors:
            os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)

    return fill


TERMINALS: dict[str, tuple[Callable[[], None] | None, dict[str, str], int]] = {
    "plain": (None, {}, 0),
    "stdout closed": (closed(1), {}, 0),
    "stderr closed": (closed(2), {}, 0),
    "all closed": (closed(0, 1, 2), {}, 0),
    "stdout full": (full(1), {}, 13),
    "stderr full": (full(2), {}, 0),
    "both full": (full(1, 2), {}, 13),
    "no reader": (without_reader, {}, 1),
    "cp1252": (None, {"PYTHONIOENCODING": "cp1252"}, 0),
    "ascii": (None, {"PYTHONIOENCODING": "ascii"}, 0),
    "latin-1": (None, {"PYTHONIOENCODING": "latin-1"}, 0),
    "no UTF-8": (None, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, 0),
}
"""What is done to the streams, the environment, and the exit code of --help and --version."""


@unix
@pytest.mark.parametrize("terminal", TERMINALS)
def test_help_and_version_of_every_command(terminal: str, tmp_path: Path) -> None:
    prepare, environment, code = TERMINALS[terminal]
    done = subprocess.run(
        [sys.executable, HELPERS / "forked_commands.py", tmp_path / "report"],
        preexec_fn=prepare,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "report").read_text().splitlines()
    assert found == [f"{code} {name} {option}" for name in COMMANDS for option in ("--help", "--version")]
    lines = 2 * len(COMMANDS) if code == 13 and terminal != "both full" else 0
    assert done.stderr.count(b"\n") == lines
    assert done.stderr.count(b"cannot print the results") == lines


@unix
@pytest.mark.parametrize("terminal", TERMINALS)
def test_an_upscaling_that_works_and_one_that_fails(terminal: str, nearest_bundle: Path, tmp_path: Path) -> None:
    prepare, environment, code = TERMINALS[terminal]
    picture = write_noise(tmp_path / "in" / "Grüße 写真.png")

    def upscale(*words: object) -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-m", "zoomrt.cli.upscale", *map(str, words)]
        env = os.environ | environment
        return subprocess.run(line, preexec_fn=prepare, env=env, capture_output=True, check=False, cwd=tmp_path)

    done = upscale(nearest_bundle, picture, "-o", "out")
    assert done.returncode == code, done.stderr
    assert (tmp_path / "out" / picture.name).exists()
    if code == 0 and prepare is None:
        assert re.fullmatch(rb"out/Gr.*\.png: 21 x 17 -> 84 x 68 px in [0-9.]+ s\n", done.stdout)
        assert done.stderr == b""
    done = upscale(nearest_bundle, "nothing ü 写.png", "-o", "out")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == (
        0 if terminal in ("stderr closed", "all closed", "stderr full", "both full") else 1
    )


@unix
def test_a_file_that_is_opened_does_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    """Else what a library prints would land in the result."""
    program = """
import os, sys, click
from zoomrt.cli._common import start

@click.command("trt-test")
def cli():
    with open(sys.argv[1], "w") as result:
        os.system("echo noise; echo noise >&2")
        for descriptor in (1, 2):
            os.write(descriptor, b"noise")
        print("noise")
        print("noise", file=sys.stderr)
        result.write("result")

sys.argv[1:], path = [], sys.argv[1]
sys.argv.append(path)
cli.params.append(click.Argument(["path"], expose_value=False))
start(cli)
"""
    line = [sys.executable, "-c", program, str(tmp_path / "result")]
    assert subprocess.run(line, preexec_fn=closed(0, 1, 2), check=False).returncode == 0
    assert (tmp_path / "result").read_text() == "result"


def program_with(body: str) -> list[str]:
    return [sys.executable, "-c", f"import os\nimport click\nfrom zoomrt.cli._common import *\n{body}"]


def test_what_native_code_prints_comes_with_debug_only() -> None:
    body = "start(click.command('trt-test')(shared_options(lambda quiet: os.write(2, b'noise\\n'))))"
    for words, told in (([], b""), (["--debug"], b"noise\n")):
        done = subprocess.run([*program_with(body), *words], capture_output=True, check=True)
        assert done.stderr == told


@unix
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"{CLEAR_TITLE}.png".encode(), rb"\x1b]0;owned\x07.png"),
        (b"a\nb.png", rb"a\nb.png"),
        (b"a\rb\tc.png", rb"a\rb\tc.png"),
        (b"\xff\xfe.png", rb"\xff\xfe.png"),
        ("\u202egnp.exe.png".encode(), rb"\u202egnp.exe.png"),
        ("\x9b31m.png".encode(), rb"\x9b31m.png"),
    ],
)
def test_names_that_a_terminal_would_act_on(name: bytes, shown: bytes, nearest_bundle: Path, tmp_path: Path) -> None:
    picture = write_noise(tmp_path / "in" / "a.png").rename(tmp_path / "in" / os.fsdecode(name))

    def upscale(*words: str) -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "-m", "zoomrt.cli.upscale", str(nearest_bundle), *words, "-o", "out"]
        return subprocess.run(line, capture_output=True, check=False, cwd=tmp_path)

    done = upscale(str(picture))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"out/" + shown + b": 21 x 17 -> 84 x 68 px")
    assert done.stdout.count(b"\n") == 1
    picture.write_bytes(b"no picture")
    done = upscale(str(picture), "--overwrite")
    assert done.returncode == 3
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.decode().rstrip("\n").isprintable()


@given(st.text())
def test_printable_text_is_one_line_that_no_terminal_acts_on(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]", shown)
    assert len(shown.splitlines()) <= 1
    assert shown.encode("utf-8").decode("utf-8") == shown
    if text.isprintable():
        assert shown == text


def test_results_are_lines_and_stay_so(capfd: pytest.CaptureFixture[str]) -> None:
    say("one", f"two{CLEAR_TITLE}\n")
    report(f"three{CLEAR_TITLE}\u2028four")
    out, err = capfd.readouterr()
    assert out == "one\ntwo\\x1b]0;owned\\x07\\n\n"
    assert err == "error: three\\x1b]0;owned\\x07 four\n"


def test_errors_are_written_out_where_the_encoding_lacks_a_character() -> None:
    reader, writer = os.pipe()
    Stderr(writer, "ascii").write("Grüße 写\n")
    os.close(writer)
    with open(reader, "rb") as stream:
        assert stream.read() == b"Gr\\xfc\\xdfe \\u5199\n"
    assert Stderr(writer).write("closed by now") == len("closed by now")
