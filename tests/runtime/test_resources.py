"""What the system refuses: told before the work where it can be, told apart from damaged files where not."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from zoomrt.errors import BundleError, OutOfMemory, UsageError
from zoomrt.runtime.resources import check_process, check_threads, is_refusal
from zoomrt.runtime.sessions.common.runner_errors import RunnerErrors

MAX_THREADS = 1024

resource = pytest.importorskip("resource", reason="no such limits on Windows")

REFUSALS = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    RuntimeError("can't start new thread"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("bad allocation"),
    RuntimeError("const onnxruntime::ThreadOptions&) pthread_create failed, error code: 12 error msg: Cannot"),
    RuntimeError("bfc_arena.cc:360 AllocateRawInternal Failed to allocate memory for requested buffer of size 256"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("could not create a primitive"),
    ImportError("libtorch_cpu.so: failed to map segment from shared object"),
]
"""In the words of the engines."""
OTHERS = [
    ValueError("Protobuf parsing failed."),
    OSError(errno.ENOENT, "No such file or directory"),
    ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
    RuntimeError("No Op registered for Attention with domain_version of 23"),
]


@pytest.mark.parametrize("problem", REFUSALS, ids=str)
def test_a_refusal_is_told_from_a_damaged_graph(problem: Exception) -> None:
    assert is_refusal(problem)
    errors = RunnerErrors("Engine", "engine", ("opset",))
    assert isinstance(errors.of_load(Path("graph.onnx"), problem, "1", None), OutOfMemory)
    assert isinstance(errors.of_run(problem), OutOfMemory)


def test_what_a_refusal_was_turned_into_is_one() -> None:
    turned = ValueError("cannot decompose the graph")
    turned.__cause__ = RuntimeError("in between")
    turned.__cause__.__cause__ = MemoryError()
    assert is_refusal(turned)


@pytest.mark.parametrize("problem", OTHERS, ids=str)
def test_what_is_no_refusal(problem: Exception) -> None:
    assert not is_refusal(problem)


def test_a_damaged_graph_is_a_damaged_graph() -> None:
    found = RunnerErrors("Engine", "engine", ("opset",)).of_load(Path("g"), ValueError("parsing failed"), "1", None)
    assert isinstance(found, BundleError)


@pytest.mark.parametrize("threads", [0, -1, MAX_THREADS + 1, 10**400])
def test_threads_are_bounded(threads: int) -> None:
    with pytest.raises(UsageError, match="1 to 1024"):
        check_threads(threads)


def test_usual_threads_can_be_had() -> None:
    for threads in (None, 1, MAX_THREADS):
        check_threads(threads)
    check_process(4)


def limited(limits: dict[int, int], *words: object) -> subprocess.CompletedProcess[str]:
    def set_limits() -> None:
        for kind, count in limits.items():
            resource.setrlimit(kind, (count, count))

    line = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, preexec_fn=set_limits, check=False)


@pytest.mark.parametrize("name", ["upscale", "doctor", "bench", "build"])
def test_no_command_begins_without_threads(name: str) -> None:
    """Stacks of 8 GB where 6 GB are left: a thread can be had no more. OpenBLAS would send this process Ctrl-C."""
    words = {"upscale": ["b", "p", "-o", "o"], "bench": ["b"]}.get(name, [])
    limits = {resource.RLIMIT_STACK: 8_000_000_000, resource.RLIMIT_AS: 6_000_000_000}
    done = limited(limits, f"zoomrt.cli.{name}", *words)
    assert done.returncode == OutOfMemory.exit_code
    assert done.stderr.startswith("error: memory ran out: got 0 threads where ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["upscale", "build"])
def test_help_needs_neither(name: str) -> None:
    limits = {resource.RLIMIT_STACK: 8_000_000_000, resource.RLIMIT_AS: 6_000_000_000}
    assert limited(limits, f"zoomrt.cli.{name}", "--help").returncode == 0
