"""The child process of one engine build: reads a job, drives the compiler, writes the plan, tells how it goes.

`python -m zoomrt.export.engines.child JOB` takes the job as JSON and answers with JSON lines on stdout. It is a process
of its own because a failed build spoils later ones in the same process and some graphs crash the compiler. Its stdin
is a line to the parent: it ends itself when that closes, so it never outlives a killed parent.

One builder for TensorRT-RTX and for full TensorRT 10 and 11: the module is a parameter. Whatever concerns full
TensorRT only is marked "not run here"; the tests drive it with a stand-in module.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

Send = Callable[..., None]


class _Failed(Exception):
    """The build cannot go on; `kind` decides which error the parent raises."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(kind, message)
        self.kind, self.message = kind, message


def main() -> int:
    """Run one job. Exit status 0 if the plan was written, else 1 after an event `failed`.

    The job: `onnx`, `plan` (paths), `backend` (module name), `compute_capabilities`, and `plugins` (path of the kernels
    that nodes of the graph name) where there are any.
    Events: `progress` (stage, fraction), `message` (severity, text), `done` (version), `failed` (kind, message), each
    with `peak_rss_bytes` of this process so far.
    """
    send = _channel()
    job: dict[str, Any] = json.loads(sys.argv[1])
    threading.Thread(target=_die_with_parent, args=(Path(job["plan"]),), daemon=True).start()
    try:
        send("done", version=_build(job, send))
    except _Failed as failure:
        send("failed", kind=failure.kind, message=failure.message)
    except MemoryError as failure:
        send("failed", kind="memory", message=str(failure))
    except OSError as failure:
        send("failed", kind="storage", message=failure.strerror or str(failure))
    else:
        return 0
    return 1


def _channel() -> Send:
    """Events go to what was stdout; file descriptor 1 joins stderr, since native libraries print where they like."""
    stream = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(event: str, **fields: object) -> None:
        with lock:
            stream.write(json.dumps({"event": event, **fields, "peak_rss_bytes": _peak_rss_bytes()}) + "\n")

    return send


def _die_with_parent(plan: Path) -> None:
    while sys.stdin.read(1):
        pass
    with contextlib.suppress(OSError):
        plan.unlink()
    with contextlib.suppress(OSError):
        plan.parent.rmdir()
    os._exit(1)


def _peak_rss_bytes() -> int | None:
    """The most physical memory this process has held (Linux; None elsewhere).

    Not from getrusage: that counts what the parent held when it started us.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def _build(job: dict[str, Any], send: Send) -> str:
    send("progress", stage="load", fraction=0.0)
    try:
        trt = importlib.import_module(job["backend"])
    except (ImportError, OSError) as cause:
        raise _Failed("import", str(cause)) from cause
    logger = _logger(trt, send)
    builder = trt.Builder(logger)
    # TensorRT 10 needs the flag for a graph that owns its precision; 11 and RTX know nothing else and ignore it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if "plugins" in job:
        _register_plugins(job["backend"], Path(job["plugins"]))
    _parse(trt, network, logger, job["onnx"], send)
    _let_attentions_fall_apart(trt, network)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # node names stay in the engine, for its inspector
    config.clear_flag(trt.BuilderFlag.TF32)  # FP32 means FP32: TF32 would round inputs to FP16's ten bits
    config.progress_monitor = _monitor(trt, send)
    _set_targets(trt, config, job["compute_capabilities"])
    send("progress", stage="compile", fraction=0.0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _Failed("build")
    send("progress", stage="write", fraction=0.0)
    with open(job["plan"], "wb") as stream:
        stream.write(memoryview(plan))
        stream.flush()
        os.fsync(stream.fileno())
    return str(trt.__version__)


def _register_plugins(backend: str, kernels: Path) -> None:
    """Make the kernels that nodes of the graph name known to full TensorRT (not run here)."""
    import msgspec

    from zoomrt.kernels.plugin import PluginKernel, register_attention

    try:
        module = importlib.import_module(f"{backend}.plugin")
        register_attention(module, msgspec.json.decode(kernels.read_bytes(), type=list[PluginKernel]))
    except (ImportError, AttributeError, TypeError, ValueError) as cause:  # older releases lack one part or another
        raise _Failed("plugin", f"{type(cause).__name__}: {cause}") from cause


def _parse(trt: Any, network: Any, logger: Any, onnx: str, send: Send) -> None:
    send("progress", stage="parse", fraction=0.0)
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(onnx):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    said = [
        f"{e.node_operator()} node {e.node_name()!r}: {e.desc()}" if e.node_operator() else e.desc() for e in errors
    ]
    raise _Failed("parse", said[-1] if said else "")


def _let_attentions_fall_apart(trt: Any, network: Any) -> None:
    """Have an attention without a kernel of its own built from plain ones, where the compiler would give up.

    What is fused stays fused (benchmarks/build_time.py: the same bytes), and the finished engine tells which were not.
    """
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == getattr(trt.LayerType, "ATTENTION_INPUT", None):  # TensorRT 10 before 10.15 has none
            layer.__class__ = trt.IAttentionInputLayer  # get_layer gives the base class
            layer.attention.decomposable = True


def _set_targets(trt: Any, config: Any, compute_capabilities: list[str]) -> None:
    """Only RTX builds for other GPUs than the one present. Full TensorRT takes that one (not run here)."""
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = len(compute_capabilities)
        for index, name in enumerate(compute_capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _logger(trt: Any, send: Send) -> Any:
    """Warnings and errors go to the parent as they come: a crash may follow."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, message: str) -> None:
            if severity.name in ("INTERNAL_ERROR", "ERROR", "WARNING"):
                send("message", severity=severity.name, text=message)

    return Logger()


def _monitor(trt: Any, send: Send) -> Any:
    """The outermost phase tells the fraction; it has a handful of steps."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.root, self.steps = "", 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.root, self.steps = phase, steps

        def phase_finish(self, phase: str) -> None:
            """Nothing: the next step or stage tells."""

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self.root:
                send("progress", stage="compile", fraction=min(1.0, (step + 1) / max(1, self.steps)))
            return True

    return Monitor()


if __name__ == "__main__":
    sys.exit(main())
