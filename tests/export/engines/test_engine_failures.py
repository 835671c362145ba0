"""Every way an engine build can end badly: one error with the compiler's own words, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine_graphs import small_graph, stand_in, tiny_graph
from onnx import helper

from zoomrt.bundle.records import EngineReport
from zoomrt.errors import BuildError, MissingDependency, OutOfMemory, StorageError, UsageError
from zoomrt.export.engines.tensorrt import build_engine

pytest.importorskip("tensorrt_rtx")
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and limits of POSIX")


def build(
    graph: Path, engine: Path, *, backend: str = "tensorrt_rtx", timeout_s: float = 120, **options: object
) -> EngineReport:
    return build_engine(
        graph,
        engine,
        backend=backend,
        compute_capabilities=("SM89",),
        precision="fp16",
        timeout_s=timeout_s,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """Where to build to, with an older engine there that must survive every failure."""
    path = tmp_path / "out" / "e.engine"
    path.parent.mkdir()
    path.write_bytes(b"older")
    return path


@pytest.fixture(autouse=True)
def _nothing_left_behind(engine: Path) -> object:
    yield
    assert [(f.name, f.read_bytes()) for f in engine.parent.iterdir()] == [("e.engine", b"older")]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return tiny_graph(tmp_path / "g.onnx")


def use_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    monkeypatch.setenv("PYTHONPATH", stand_in(tmp_path / "fake", "tensorrt_rtx", code))


def test_unsupported_operator(tmp_path: Path, engine: Path) -> None:
    graph = small_graph(tmp_path / "g.onnx", [helper.make_node("Det", ["x"], ["z"], name="odd")], {"x": [4, 4]}, "z")
    with pytest.raises(BuildError, match="a graph it can parse") as caught:
        build(graph, engine)
    assert "Det" in caught.value.seen
    assert "'odd'" in caught.value.seen


def test_truncated_graph(graph: Path, engine: Path) -> None:
    graph.write_bytes(graph.read_bytes()[:-1000])
    with pytest.raises(BuildError, match="a graph it can parse") as caught:
        build(graph, engine)
    assert len(caught.value.seen) > 20


@pytest.mark.parametrize(("graph_name", "says"), [("none.onnx", "nothing there"), (".", "a folder")])
def test_no_graph(tmp_path: Path, engine: Path, graph_name: str, says: str) -> None:
    with pytest.raises(BuildError, match=says):
        build(tmp_path / graph_name, engine)


def test_unknown_names(graph: Path, engine: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean tensorrt_rtx"):
        build(graph, engine, backend="tensorrt-rtx")
    with pytest.raises(UsageError, match="fp16, fp32"):
        build_engine(graph, engine, backend="tensorrt_rtx", compute_capabilities=("SM89",), precision="int4")


def test_compiler_not_installed(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[rtx\]'"):
        build(graph, engine)
    with pytest.raises(MissingDependency, match=r"pip install 'zoomrt\[tensorrt\]'"):
        build(graph, engine, backend="tensorrt")


def test_compiler_does_not_load(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_compiler(monkeypatch, tmp_path, "raise ImportError('libsomething.so: cannot open')")
    with pytest.raises(MissingDependency, match=r"libsomething.so.*zoomrt\[rtx\]"):
        build(graph, engine)


@POSIX
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_crash(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """What native code printed last is in the error, whichever stream it chose."""
    stream = 1 if name == "SIGSEGV" else 2
    code = f"import os, signal\nos.write({stream}, b'assertion about grids\\n')\nos.kill(os.getpid(), signal.{name})"
    use_compiler(monkeypatch, tmp_path, code)
    with pytest.raises(BuildError, match=f"{name} in stage 'load'.*assertion about grids"):
        build(graph, engine)


@POSIX
def test_crash_after_an_error_message(
    graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The compiler's logger speaks, then it dies in the middle of a build with a half-written plan."""
    use_compiler(monkeypatch, tmp_path, DYING_COMPILER)
    with pytest.raises(BuildError, match=r"SIGSEGV in stage 'compile'.*last words: cannot place node_7"):
        build(graph, engine)


DYING_COMPILER = """
import enum, glob, json, os, signal, sys
class ILogger: pass
class IProgressMonitor: pass
class Severity(enum.Enum): ERROR = 1; VERBOSE = 2
class NetworkDefinitionCreationFlag(enum.IntEnum): STRONGLY_TYPED = 1
class ProfilingVerbosity: DETAILED = 1
class BuilderFlag: TF32 = 1
class Config:
    def clear_flag(self, flag): pass
class OnnxParser:
    def __init__(self, network, logger): pass
    def parse_from_file(self, path): return True
class Network: num_layers = 0
class Builder:
    def __init__(self, logger): self.logger = logger
    def create_network(self, flags): return Network()
    def create_builder_config(self): return Config()
    def build_serialized_network(self, network, config):
        open(json.loads(sys.argv[1])["plan"], "wb").write(b"half")
        self.logger.log(Severity.ERROR, "cannot place node_7")
        self.logger.log(Severity.VERBOSE, "chatter")
        os.kill(os.getpid(), signal.SIGSEGV)
"""


@POSIX
@pytest.mark.parametrize(
    "code",
    [
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",  # as the system does when memory runs out
        "raise MemoryError",
        DYING_COMPILER.replace(
            "cannot place node_7", "Unexpected exception std::bad_alloc"
        ),  # as TensorRT-RTX 1.7 says
    ],
    ids=["killed", "MemoryError", "bad_alloc"],
)
def test_out_of_memory(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    use_compiler(monkeypatch, tmp_path, code)
    with pytest.raises(OutOfMemory, match=r"no memory left in stage '(load|compile)' at \d+ MB"):
        build(graph, engine)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_that_is_told(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Peak of touched memory: 200 MB that are in use and freed, not 3 GB that are only reserved, nor this process."""
    code = "import mmap\nreserved = mmap.mmap(-1, 3 << 30)\nused = b'x' * 200_000_000\ndel used\nraise MemoryError"
    use_compiler(monkeypatch, tmp_path, code)
    with pytest.raises(OutOfMemory) as caught:
        build(graph, engine)
    told = re.search(r"at (\d+) MB", caught.value.seen)
    assert told is not None
    assert 200 <= int(told.group(1)) < 260


HALF_SPOKEN = """
import contextlib, os
for pipe in range(3, 20):
    with contextlib.suppress(OSError):
        os.write(pipe, b'{"event": "prog')
os._exit(4)
"""


def test_death_in_the_middle_of_a_message(
    graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_compiler(monkeypatch, tmp_path, HALF_SPOKEN)
    with pytest.raises(BuildError, match="exit status 4"):
        build(graph, engine)


def test_child_without_a_word(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_compiler(monkeypatch, tmp_path, "import os\nos._exit(3)")
    with pytest.raises(BuildError, match="exit status 3"):
        build(graph, engine)


SLEEPING = "import os, time\nopen({pid_file!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"


def process_is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z" if os.path.exists("/proc") else False


def wait_for(what: object, seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


@POSIX
def test_timeout(graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    use_compiler(monkeypatch, tmp_path, SLEEPING.format(pid_file=str(pid_file)))
    with pytest.raises(BuildError, match=r"no end after 1\.5 s in stage 'load'"):
        build(graph, engine, timeout_s=1.5)
    assert not pid_file.exists() or process_is_gone(int(pid_file.read_text()))


@POSIX
@pytest.mark.parametrize("stage", ["load", "compile", "check"])
def test_interrupt_in_any_stage(graph: Path, engine: Path, stage: str) -> None:
    def interrupt(at: str, _fraction: float) -> None:
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(graph, engine, on_progress=interrupt)


PARENT = """
import sys
from pathlib import Path
from zoomrt.bundle.records import EngineReport
from zoomrt.export.engines.tensorrt import build_engine
graph, engine = map(Path, sys.argv[1:])
build_engine(graph, engine, backend="tensorrt_rtx", compute_capabilities=("SM89",), precision="fp16")
"""


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_parent_is_killed(
    graph: Path, engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """However the parent goes, the compiler goes with it, and the half-written plan too."""
    pid_file = tmp_path / "pid"
    use_compiler(monkeypatch, tmp_path, SLEEPING.format(pid_file=str(pid_file)))
    command = [sys.executable, "-c", PARENT, str(graph), str(engine)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as parent:
        try:
            assert wait_for(lambda: pid_file.exists() and pid_file.read_text())
            child = int(pid_file.read_text())
            assert not process_is_gone(child)
            assert len(list(engine.parent.iterdir())) == 2  # the older engine and the scratch folder
            parent.send_signal(getattr(signal, name))
            assert parent.wait(timeout=30) != 0
        finally:
            parent.kill()
    assert wait_for(lambda: process_is_gone(child))
    assert wait_for(lambda: len(list(engine.parent.iterdir())) == 1)


def test_folder_that_cannot_be_written(graph: Path, engine: Path) -> None:
    with pytest.raises(StorageError, match="Not a directory"):
        build(graph, engine / "e.engine")
    with pytest.raises(StorageError, match="No such file"):
        build(graph, engine.parent / "missing" / "e.engine")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_folder(graph: Path, engine: Path) -> None:
    engine.parent.chmod(0o555)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            build(graph, engine)
    finally:
        engine.parent.chmod(0o755)


@POSIX
def test_disk_full(graph: Path, engine: Path) -> None:
    """A limit on file size stands in for a full disk: the plan breaks off in the middle."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(StorageError, match=r"e\.engine.*File too large"):
            build(graph, engine)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_engine_path_is_a_folder(graph: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    (taken / "full").mkdir(parents=True)
    with pytest.raises(StorageError, match="taken"):
        build(graph, taken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.onnx", "out", "taken"]


@pytest.mark.parametrize("plan", [b"vtrt" + bytes(100), b"vtr2" + bytes(100), b""], ids=["header", "magic", "empty"])
def test_a_plan_of_another_layout_is_one_warning(
    graph: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plan: bytes
) -> None:
    """A newer compiler says that all is well; that we cannot read what it wrote is no reason to refuse it."""
    newer = DYING_COMPILER.replace("os.kill(os.getpid(), signal.SIGSEGV)", f"return {plan!r}")
    use_compiler(monkeypatch, tmp_path, newer + "\n__version__ = '1.9.0'\n")
    report = build(graph, tmp_path / "new.engine")
    assert (tmp_path / "new.engine").read_bytes() == plan
    assert (report.backend_version, report.kernels, report.share_in_precision) == ("1.9.0", None, None)
    (warning,) = report.warnings
    assert warning.startswith("the engine cannot be read back (got ")
    assert warning.endswith("): precision, fusion and GPU are not checked")
