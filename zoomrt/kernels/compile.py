"""Kernels compiled ahead of time: configurations x SMs -> cubin and PTX, on a machine without a GPU.

The compiler runs in child processes, one per core; its death is an error that names configuration and SM. What has been
compiled is kept in the cache folder under a key of everything that decides it. Imports neither torch nor Triton.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import msgspec

from zoomrt.bundle.kernel_file import kernel_key
from zoomrt.errors import MissingDependency, PluginError, UsageError
from zoomrt.files import cache_path, read_cached, scratch_folder, write_cached
from zoomrt.kernels.binary import LIMITS, Compiled, check_fit
from zoomrt.kernels.compile_child import Job, Refusal
from zoomrt.kernels.configuration import Configuration

PTX_VERSIONS = {75: 84, 80: 84, 86: 84, 89: 84, 90: 84, 120: 87, 121: 88}
"""SM -> PTX ISA, 84 for 8.4: drivers from 550 on take that, 8.7 needs 570 and 8.8 needs 575, which are the first for
these GPUs (PTX ISA manual, "Release Notes"). Triton's own choice would need the newest driver."""

_COMMAND = (sys.executable, "-m", "zoomrt.kernels.compile_child")
_TIMEOUT_S = 300.0
"""For one kernel. The slowest takes a few seconds."""
_WORDS = 400
"""Characters of a compiler message that go into an error."""


@dataclass(frozen=True)
class KernelBinary:
    """One configuration compiled for one SM, checked against its limits."""

    configuration: Configuration
    sm: int
    compiled: Compiled

    @property
    def key(self) -> str:
        """In a bundle's manifest."""
        return kernel_key(self.configuration.name, self.sm)

    @property
    def file_name(self) -> str:
        """Of the cubin."""
        return f"{self.configuration.name}.sm{self.sm}.cubin"


@dataclass(frozen=True, eq=False)
class _Task:
    """A configuration and an SM, to be compiled."""

    configuration: Configuration
    sm: int

    @property
    def job(self) -> Job:
        one = self.configuration
        return Job(
            module=one.function.fn.__module__,
            function=one.function.fn.__name__,
            signature=dict(one.signature),
            constants=dict(one.constants),
            aligned=one.aligned,
            warps=one.warps,
            stages=one.stages,
            fused_multiply_add=one.fused_multiply_add,
            sm=self.sm,
            ptx_version=PTX_VERSIONS[self.sm],
        )

    def checked(self, compiled: Compiled) -> KernelBinary:
        one = self.configuration
        check_fit(compiled, one.name, self.sm, one.warps, may_spill=one.may_spill)
        return KernelBinary(self.configuration, self.sm, compiled)


def compile_kernels(
    configurations: Iterable[Configuration],
    sms: Sequence[int],
    *,
    workers: int | None = None,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[KernelBinary]:
    """Each configuration for each of `sms` that it is for, in that order.

    workers : child processes at once; None for one per usable core.
    on_progress : called with (the kernel that was finished, fraction of all).

    Raises UsageError for an unknown SM, MissingDependency without Triton, PluginError for a kernel that does not
    compile or fit; no child is left then. A cache that cannot be written is done without.
    """
    if unknown := sorted(set(sms) - LIMITS.keys()):
        raise UsageError(
            "cannot compile for that GPU",
            seen=", ".join(f"SM{sm}" for sm in unknown),
            needed="of " + ", ".join(f"SM{sm}" for sm in LIMITS),
            remedy="Name SMs of this list, as in --sm 89.",
        )
    require_triton()
    tasks = [_Task(configuration, sm) for configuration in configurations for sm in sms if is_for(configuration, sm)]
    environment = _environment()
    keys = {task: _key(task.job, environment) for task in tasks}
    done = {task: task.checked(kept) for task in tasks if (kept := _fetch(keys[task])) is not None}
    missing = [task for task in tasks if task not in done]
    count = min(len(missing), workers or _usable_cores())
    if missing:
        with ThreadPoolExecutor(count) as pool, _children(count, environment) as idle:
            futures = {pool.submit(_compiled, idle, task): task for task in missing}
            try:
                for future in as_completed(futures):
                    task = futures[future]
                    done[task] = task.checked(future.result())
                    _keep(keys[task], done[task].compiled)
                    if on_progress is not None:
                        on_progress(f"kernel {done[task].key}", len(done) / len(tasks))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [done[task] for task in tasks]


def is_for(configuration: Configuration, sm: int) -> bool:
    """Whether a configuration is to be compiled for an SM; SM121 has SM120's limits and takes what that takes."""
    return (120 if sm == 121 else sm) in configuration.sms


def require_triton() -> None:
    """Raises MissingDependency where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise MissingDependency(
            "cannot compile kernels here",
            seen="no module triton",
            needed="the Python module triton",
            remedy="Run: pip install 'zoomrt[kernels]' (Linux only)",
        )


class _Child:
    """One compiler process. It leads a process group of its own: Ctrl-C reaches only us, and we end it."""

    def __init__(self, environment: dict[str, str], scratch: str) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment | {"TRITON_CACHE_DIR": scratch},
            start_new_session=True,
        )

    def compile(self, task: _Task) -> Compiled:
        """Raises PluginError, after which the child may be dead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        started = time.monotonic()
        watch = threading.Timer(_TIMEOUT_S, self._process.kill)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(msgspec.json.encode(task.job) + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line.endswith(b"\n"):  # it died, perhaps while it spoke
            raise _refused(task, self._end(late=time.monotonic() - started >= _TIMEOUT_S))
        answer = msgspec.json.decode(line, type=Compiled | Refusal)
        if isinstance(answer, Refusal):
            raise _refused(task, answer.why)
        return answer

    def _end(self, *, late: bool) -> str:
        """How it died, with the last line that native code printed."""
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode("utf-8", "replace").splitlines()]
        words = next((line for line in reversed(lines) if line), "")[:_WORDS]
        after = f"no end after {_TIMEOUT_S:g} s" if late else f"a compiler that died by {how}"
        return f"{after}; last words: {words}" if words else after

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


@contextlib.contextmanager
def _children(count: int, environment: dict[str, str]) -> Iterator[queue.SimpleQueue[_Child]]:
    """Compilers that wait for work; they are dead afterwards, whatever happens."""
    idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    children = []
    with scratch_folder() as scratch:
        try:
            for _ in range(count):
                children.append(_Child(environment, str(scratch)))
                idle.put(children[-1])
            yield idle
        finally:
            for child in children:
                child.close()


def _compiled(idle: queue.SimpleQueue[_Child], task: _Task) -> Compiled:
    child = idle.get()
    try:
        return child.compile(task)
    finally:
        idle.put(child)


def _refused(task: _Task, why: str) -> PluginError:
    return PluginError(
        f"kernel {task.configuration.name!r} cannot be compiled for SM{task.sm}",
        seen=why,
        needed="a kernel that Triton compiles",
        remedy="Use the triton that the extra 'kernels' names, or take this SM off the configuration's `sms`.",
    )


def _environment() -> dict[str, str]:
    """Of a child: our import paths, compiled rather than interpreted kernels, and no source paths in the binary."""
    ours = {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "TRITON_DISABLE_LINE_INFO": "1",
        "TRITON_DEFAULT_FP_FUSION": "1",
    }
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | ours


def _key(job: Job, environment: dict[str, str]) -> str:
    """Equal keys mean equal binaries: the job, the code of kernels and compiler, versions, Triton's settings."""
    folders = {Path(__file__).parent, Path(str(sys.modules[job.module].__file__)).parent}
    settings = {name: value for name, value in sorted(environment.items()) if name.startswith("TRITON_")}
    content = [job, sorted(map(_source_digest, folders)), version("triton"), sys.version, settings]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()


@lru_cache
def _source_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()


def _fetch(key: str) -> Compiled | None:
    """What was kept, verified; None if there is nothing or it is damaged."""
    kept = read_cached(cache_path("kernels", key)) or b""
    digest, content = kept[:32], kept[32:]
    return msgspec.msgpack.decode(content, type=Compiled) if hashlib.sha256(content).digest() == digest else None


def _keep(key: str, compiled: Compiled) -> None:
    content = msgspec.msgpack.encode(compiled)
    write_cached(cache_path("kernels", key), hashlib.sha256(content).digest() + content)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
