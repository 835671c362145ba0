"""The error funnel: whatever happens inside a command, the shell sees one line and the right exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from zoomrt import __version__
from zoomrt.cli import _common
from zoomrt.cli._common import progress_bar, report, require, run, shared_options
from zoomrt.errors import MissingDependency, OutOfMemory
from zoomrt.files import cache_path, write_cached


def command_that(act: Callable[[], object]) -> click.Command:
    @click.command("trt-test")
    @shared_options
    def cli(quiet: bool) -> None:
        click.echo(f"quiet {quiet}")
        act()

    return cli


def fail(problem: BaseException) -> Callable[[], object]:
    def act() -> None:
        raise problem

    return act


def test_success_is_silent_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(lambda: None), ["-q"]) == 0
    assert capfd.readouterr() == ("quiet True\n", "")


@pytest.mark.parametrize(
    ("problem", "code", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted, nothing half-written left behind"),
        (MemoryError(), OutOfMemory.exit_code, "memory ran out"),
        (ValueError("odd\nthing"), 1, "unexpected ValueError: odd thing. This is a bug in zoomrt: please report it"),
        (click.UsageError("no such thing"), 2, "no such thing See trt-test --help."),
    ],
)
def test_each_outcome_is_one_line_and_a_code(
    problem: BaseException, code: int, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command_that(fail(problem)), []) == code
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"error: {text}")


def test_traceback_comes_with_debug_only(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(fail(ValueError("odd"))), ["--debug"]) == 1
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("error: unexpected ValueError")


def test_wrong_option_suggests_a_near_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(lambda: None), ["--quite"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "--quiet" in err


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(command_that(lambda: None), ["--version"]) == 0
    assert capfd.readouterr().out == f"trt-test {__version__}\n"
    assert run(command_that(lambda: None), ["--help"]) == 0
    assert "--debug" in capfd.readouterr().out


def test_warnings_of_libraries_are_shown_with_debug_only(capfd: pytest.CaptureFixture[str]) -> None:
    noisy = command_that(lambda: warnings.warn("old thing", UserWarning, stacklevel=1))
    assert run(noisy, []) == 0
    assert capfd.readouterr().err == ""
    with pytest.warns(UserWarning, match="old thing"):
        run(noisy, ["--debug"])


def test_a_missing_cache_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / ("n" * 300)))
    assert run(command_that(lambda: [write_cached(cache_path(name), b"x") for name in "ab"]), []) == 0
    assert re.fullmatch(r"warning: working without a cache .*File name too long.*\n", capfd.readouterr().err)


def test_report_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    report("a\n  b", kind="warning")
    assert capfd.readouterr().err == "warning: a b\n"


def test_missing_extra_names_the_command_that_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_common.EXTRAS, "export", ("click", "no_such_module", "no.such.child"))
    with pytest.raises(MissingDependency, match="no_such_module") as caught:
        require("export", "building")
    assert "click" not in caught.value.seen
    assert caught.value.remedy == f"Run: {sys.executable} -m pip install 'zoomrt[export]'"


def test_without_a_terminal_labels_are_plain_lines_once(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar(quiet=False, lines=True) as advance:
        for fraction in (0.0, 0.5, 1.0):
            advance("export", fraction)
        advance("parity", 0.0)
    assert capfd.readouterr() == ("export ...\nparity ...\n", "")
    with progress_bar(quiet=True, lines=True) as advance:
        advance("export", 0.0)
    with progress_bar(quiet=False) as advance:
        advance("export", 0.0)
    assert capfd.readouterr() == ("", "")


PROGRAM = """
import signal, sys, time
import click
from zoomrt.cli._common import progress_bar, say, start

@click.command("trt-test")
def cli():
    {body}

start(cli)
"""


def process(body: str, **options: Any) -> subprocess.Popen[bytes]:
    """A command in a process of its own; its streams are buffered as in a user's shell, whatever they are here."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env["TERM"] = "xterm"
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(body=body)], env=env, **options)


def test_termination_unwinds_like_ctrl_c() -> None:
    body = """
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", flush=True)
"""
    with process(body.strip(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.terminate()
        out, err = child.communicate(timeout=30)
    assert child.returncode == 143
    assert out == b"cleaned\n"
    assert err == b"error: terminated, nothing half-written left behind\n"


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with process("say('x')", stdout=writer, stderr=subprocess.PIPE) as child:
        os.close(writer)
        _, err = child.communicate(timeout=30)
    assert child.returncode == 1
    assert err == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_standard_output_is_a_storage_error() -> None:
    with open("/dev/full", "wb") as full, process("say('x')", stdout=full, stderr=subprocess.PIPE) as child:
        _, err = child.communicate(timeout=30)
    assert child.returncode == 13
    assert err.count(b"\n") == 1
    assert b"No space left on device" in err


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_on_a_terminal_there_is_a_bar_and_results_stay_in_the_pipe() -> None:
    body = """
    with progress_bar(quiet=False, lines=True) as advance:
        for step in range(5):
            advance("upscaling [tiles]", step / 4)
            time.sleep(0.05)
        advance("a table\\nof two lines", 0.0)
        print("result")
"""
    master, slave = os.openpty()
    with process(body.strip(), stdout=subprocess.PIPE, stderr=slave) as child:
        os.close(slave)
        out, _ = child.communicate(timeout=30)
    shown = os.read(master, 100000)
    os.close(master)
    assert child.returncode == 0
    assert out == b"a table\nof two lines\nresult\n"
    assert b"upscaling [tiles]" in shown
    assert b"result" not in shown
    assert b"table" not in shown
