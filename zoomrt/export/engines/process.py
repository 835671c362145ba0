"""Run `engine_child.py` and turn whatever becomes of it into a result or an error of ours.

A crash, a kill for want of memory and a timeout are ordinary outcomes here; each error carries the compiler's own
last words. The child is dead and its scratch folder gone when `compile_plan` returns or raises.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec

from zoomrt.errors import BuildError, MissingDependency, OutOfMemory, PluginError, StorageError, ZoomrtError
from zoomrt.files import scratch_folder
from zoomrt.kernels.plugin import PluginKernel
from zoomrt.runtime.backends import BACKENDS

Progress = Callable[[str, float], None]
_COMMAND = (sys.executable, "-m", "zoomrt.export.engines.child")
_SIGKILL = 9  # what the system sends when memory runs out; Windows has no such thing
_WORDS = 600
"""Characters of a compiler message that go into an error."""


@dataclass(frozen=True)
class CompiledPlan:
    """A plan file that the child has finished and flushed."""

    path: Path
    version: str
    seconds: float
    peak_rss_bytes: int | None


@dataclass
class _Heard:
    """What the child has said so far."""

    stage: str = "start"
    last_error: str = ""
    last_warning: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    peak_rss_bytes: int | None = None

    def take(self, event: dict[str, Any]) -> None:
        self.peak_rss_bytes = event.get("peak_rss_bytes", self.peak_rss_bytes)
        if event["event"] == "progress":
            self.stage = event["stage"]
        elif event["event"] == "message" and event["severity"] == "WARNING":
            self.last_warning = event["text"]
        elif event["event"] == "message":
            self.last_error = event["text"]
        else:
            self.outcome = event


@contextlib.contextmanager
def compile_plan(
    onnx: Path,
    engine: Path,
    *,
    backend: str,
    compute_capabilities: tuple[str, ...],
    timeout_s: float,
    on_progress: Progress,
    plugins: Sequence[PluginKernel] = (),
) -> Iterator[CompiledPlan]:
    """Compile `onnx` into a plan in a scratch folder beside `engine`, for the length of a with-block.

    on_progress : called with (stage, fraction of it); stages are load, parse, compile, write.
    plugins : kernels that nodes of the graph name; full TensorRT only.

    Raises PluginError (plugins unknown to it), BuildError (refused, crashed, too slow), OutOfMemory, StorageError,
    MissingDependency.
    """
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(scratch_folder(engine.parent))
        except OSError as cause:
            raise storage_error(engine, cause.strerror or str(cause)) from cause
        job: dict[str, object] = {
            "onnx": str(onnx.resolve()),
            "plan": str(scratch / engine.name),
            "backend": backend,
            "compute_capabilities": list(compute_capabilities),
        }
        if plugins:  # too long for a command line
            job["plugins"] = str(scratch / "plugins.json")
            (scratch / "plugins.json").write_bytes(msgspec.json.encode(plugins))
        heard = _Heard()
        started = time.monotonic()
        with tempfile.TemporaryFile() as stderr:
            status = _run(job, stderr, heard, timeout_s, on_progress)
            printed = _tail(stderr)
        if status is None or heard.outcome.get("event") != "done":
            raise _error(onnx, engine, backend, status, heard, printed, timeout_s=timeout_s)
        seconds = time.monotonic() - started
        yield CompiledPlan(scratch / engine.name, heard.outcome["version"], seconds, heard.peak_rss_bytes)


def _run(
    job: dict[str, object], stderr: IO[bytes], heard: _Heard, timeout_s: float, on_progress: Progress
) -> int | None:
    """The child's exit status, or None if it was stopped for taking too long. It is dead afterwards, whatever happens.

    It leads a process group of its own: Ctrl-C reaches only us, and we end it. Its stdin stays open and silent; should
    we be killed, the system closes it and the child goes too.
    """
    deadline = time.monotonic() + timeout_s
    with subprocess.Popen(
        [*_COMMAND, json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        try:
            reader.start()
            while (line := lines.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                event = json.loads(line)
                heard.take(event)
                if event["event"] == "progress":
                    on_progress(event["stage"], event["fraction"])
            return child.wait(timeout=max(0.0, deadline - time.monotonic()))
        except (queue.Empty, subprocess.TimeoutExpired):
            return None
        finally:
            child.kill()
            reader.join()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        if line.endswith("\n"):  # else it died while it spoke
            lines.put(line)
    lines.put(None)


def _tail(stderr: IO[bytes]) -> str:
    """The last line that native code printed, if any."""
    stderr.seek(0)
    lines = [line.strip() for line in stderr.read().decode("utf-8", "replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")


def _error(
    onnx: Path, engine: Path, backend: str, status: int | None, heard: _Heard, printed: str, *, timeout_s: float
) -> ZoomrtError:
    """The error for a child that did not finish; `status` as in `subprocess`, None after a timeout."""
    kind = heard.outcome.get("kind")
    words = (heard.outcome.get("message") or heard.last_error or printed or heard.last_warning)[:_WORDS]
    what = f"{backend} cannot build an engine from {onnx.name!r}"
    where = f"in stage {heard.stage!r}" + (f" at {heard.peak_rss_bytes / 1e6:.0f} MB" if heard.peak_rss_bytes else "")
    last = f"; last words: {words}" if words else ""
    if kind == "import":
        return missing_backend(backend, words)
    if kind == "storage":
        return storage_error(engine, words)
    if kind == "plugin":
        remedy = "Build without --attention-plugin: plain operators do the same."
        return PluginError(what, seen=words, needed="TensorRT 10.9 or newer with tensorrt.plugin", remedy=remedy)
    killed = status == -_SIGKILL and kind is None
    if kind == "memory" or killed or "bad_alloc" in words:
        remedy = "Close other programs, build on a machine with more memory, or use a smaller --tile."
        return OutOfMemory(what, seen=f"no memory left {where}{last}", needed="more free memory", remedy=remedy)
    if kind == "parse":
        remedy = "Export the graph with another opset, or replace the operator that the parser names."
        return BuildError(what, seen=words or "a refusal without words", needed="a graph it can parse", remedy=remedy)
    if kind == "build":
        remedy = "Try another target or precision; if it stays, report the message with the graph."
        return BuildError(what, seen=words or "a refusal without words", needed="a graph it can build", remedy=remedy)
    if status is None:
        seen, needed = f"no end after {timeout_s:g} s {where}{last}", f"a build within {timeout_s:g} s"
        return BuildError(what, seen=seen, needed=needed, remedy="Allow more time with --timeout.")
    how = f"signal {_signal_name(-status)}" if status < 0 else f"exit status {status}"
    remedy = "Try another target, precision or --tile; if it stays, report the message with the graph."
    seen, needed = f"a crash by {how} {where}{last}", "a build that ends by itself"
    return BuildError(what, seen=seen, needed=needed, remedy=remedy)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def missing_backend(backend: str, why: str) -> MissingDependency:
    """The compiler's Python module is not there, or does not load."""
    return MissingDependency(
        f"cannot build {backend} engines here",
        seen=why,
        needed=f"the Python module {backend}",
        remedy=f"Run: pip install '{BACKENDS.named(backend).requirement}'",
    )


def storage_error(engine: Path, why: str) -> StorageError:
    return StorageError(
        f"cannot write engine {str(engine)!r}",
        seen=why,
        needed="a writable folder with room",
        remedy="Choose another output folder with -o, or make room and set its permissions.",
    )
