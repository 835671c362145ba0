"""The rules of the house: who imports whom, what loads when, which names are public, and no print.

Held against the sources by parsing them, so an import inside a function counts like one at the top.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from importlinter.cli import lint_imports
from sources import PACKAGE, SOURCES, broken, imported_names, parsed

import zoomrt
from zoomrt.export.precisions import PRECISIONS
from zoomrt.runtime.backends import BACKENDS


def test_who_may_import_whom(capsys: pytest.CaptureFixture[str]) -> None:
    """The contracts of pyproject.toml: layers, no circle of folders, no torch in the runtime."""
    broken = lint_imports(str(PACKAGE.parent / "pyproject.toml"), no_cache=True)
    assert not broken, capsys.readouterr().out


def test_a_breach_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same contracts with two layers turned round, as if the wrong one imported the other."""
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    turned = text.replace(
        '    "zoomrt.export",\n    "zoomrt.calibration",\n', '    "zoomrt.calibration",\n    "zoomrt.export",\n'
    )
    (tmp_path / "pyproject.toml").write_text(turned, encoding="utf-8")
    assert lint_imports(str(tmp_path / "pyproject.toml"), no_cache=True)
    assert "zoomrt.export is not allowed to import zoomrt.calibration" in capsys.readouterr().out


def test_public_names_are_sorted_and_resolve() -> None:
    assert zoomrt.__all__ == sorted(zoomrt.__all__)
    assert set(zoomrt._HOMES) == set(zoomrt.__all__) - {"__version__"}
    assert dir(zoomrt) == zoomrt.__all__
    for name in zoomrt.__all__:
        assert getattr(zoomrt, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        zoomrt.nonsense  # noqa: B018


def test_what_a_user_is_handed_is_public() -> None:
    """Every class of ours that a public function, method or property returns can be imported from `zoomrt`."""
    public = {getattr(zoomrt, name) for name in zoomrt.__all__}
    for one in list(public):
        if isinstance(one, type) and one.__module__.startswith("zoomrt"):
            members = [value for name, value in vars(one).items() if not name.startswith("_")]
        else:
            members = [one]
        for member in members:
            call = member.fget if isinstance(member, property) else getattr(member, "__wrapped__", member)
            if inspect.isfunction(call):
                handed = classes_in(get_type_hints(call).get("return"))
                assert handed <= public, f"{call.__qualname__} returns {handed - public}"


def classes_in(hint: object) -> set[type]:
    """Classes of this package in a type hint."""
    inner = [found for one in get_args(hint) for found in classes_in(one)]
    own = isinstance(hint, type) and hint.__module__.startswith("zoomrt")
    return {*inner, hint} if own else set(inner)


def test_the_version_has_one_home() -> None:
    """pyproject.toml reads it from the package."""
    project = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in project
    assert 'version = { attr = "zoomrt.__version__" }' in project


def untrue(source: str) -> set[str]:
    """What `__all__`, where a module has one, repeats or does not define."""
    body = parsed(source).body
    listed = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]
    ]
    defined: set[str] = {"__version__"}
    for node in ast.walk(parsed(source)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            defined |= {alias.asname or alias.name for alias in node.names}
    return {name for names in listed for name in names if name not in defined or names.count(name) > 1}


def test_module_all_is_true() -> None:
    assert broken(untrue) == {}


def test_an_untrue_all_is_seen() -> None:
    assert untrue("__all__ = ['a', 'b', 'b', 'c']\nb = c = 1") == {"a", "b"}


LISTS_ITS_NAMES = {"__init__.py", "errors.py", "bundle/__init__.py"}
"""Modules that others import all of, or from which names are handed on. Elsewhere an underscore tells."""


def test_only_the_faces_of_the_package_list_their_names() -> None:
    assert {name for name, source in SOURCES.items() if "\n__all__ = " in source} == LISTS_ITS_NAMES


def prints(source: str) -> bool:
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(parsed(source))
    )


def test_no_print() -> None:
    assert [name for name, source in SOURCES.items() if prints(source)] == []


def test_python_310_can_read_it() -> None:
    for name, source in SOURCES.items():
        ast.parse(source, name, feature_version=(3, 10))


def test_every_module_has_a_docstring() -> None:
    modules = {name: parsed(source) for name, source in SOURCES.items()}
    assert [name for name, module in modules.items() if module.body and not ast.get_docstring(module)] == []


def engines_imported(source: str) -> set[str]:
    return {name.split(".")[0] for name in imported_names(source)} & {"onnxruntime", "openvino"}


def test_engines_that_send_and_write_are_imported_in_one_place() -> None:
    """`runtime.quiet`, which imports them by a variable's name."""
    assert broken(engines_imported) == {}


def test_an_import_of_an_engine_is_seen() -> None:
    assert engines_imported("def f():\n    import onnxruntime as ort, openvino.runtime") == {"onnxruntime", "openvino"}


MAY_ASK_FOR_NAMES = ("runtime/sessions/", "bench/peers/")
"""A backend's own file, where its words are said; peers are other people's ways with the same engines."""


def asked_names(source: str) -> Iterator[str]:
    """Backends and precisions that a source tells from others by name; their records have a field for what differs.

    FP32 and FP16 are types, too, of which a source may ask.
    """
    known = {*BACKENDS.names(), *PRECISIONS.names()} - {"fp32", "fp16"}
    for node in ast.walk(parsed(source)):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.Dict):
            asked = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        for one in asked:
            yield from (word.value for word in ast.walk(one) if isinstance(word, ast.Constant) and word.value in known)


def test_nobody_asks_for_the_name_of_a_backend_or_precision() -> None:
    found = {name: words for name, words in broken(asked_names).items() if not name.startswith(MAY_ASK_FOR_NAMES)}
    assert found == {
        "bench/roofline.py": {"bf16"},  # arithmetic of the processor
        "calibration/options.py": {"fp8", "int8"},  # number formats
        "export/engines/plan_reader.py": {"bf16", "int8"},  # TensorRT's words
        "runtime/quiet.py": {"openvino"},  # the module
    }


def test_a_name_asked_for_is_seen() -> None:
    assert {*asked_names("if a == 'openvino' or b in ('int8', x): c = {'bf16': 1}")} == {"openvino", "int8", "bf16"}
    assert not {*asked_names("a == 'fp16'; b = 'openvino'")}


def test_options_of_onnxruntime_are_set_in_one_place() -> None:
    """Those that a session is opened with; who measures, turns on a profile or turns off optimisations on top."""
    makes = {name for name, source in SOURCES.items() if ".SessionOptions(" in source}
    assert makes == {"runtime/sessions/common/onnxruntime_graph.py"}


NETWORK = {"aiohttp", "ftplib", "http", "httpx", "httpx2", "huggingface_hub", "pooch", "requests", "socket", "urllib3"}
"""What opens connections; so does `urllib.request`."""


def network_imported(source: str) -> set[str]:
    return {name for name in imported_names(source) if name.split(".")[0] in NETWORK or name == "urllib.request"}


def test_connections_are_opened_in_one_folder() -> None:
    """Which the runtime does not reach: nothing is fetched by an import, `load` or trt-upscale."""
    assert {str(Path(name).parent) for name in broken(network_imported)} == {"models/published"}
    users = broken(lambda source: {name for name in imported_names(source) if "models.published.fetch" in name})
    assert users.keys() == {"cli/options/published.py"}


def test_an_import_of_the_network_is_seen() -> None:
    assert network_imported("import urllib.request, urllib.parse\nfrom requests import get") == {
        "urllib.request",
        "requests",
    }


def test_print_is_seen() -> None:
    assert prints("def f():\n    print('x')")


# What looks at the file system, reads it or makes scratch without `zoomrt/files.py`, and why it may.
TOUCHES = {"exists", "is_dir", "is_file", "iterdir", "glob", "rglob", "read_bytes", "read_text", "stat", "rmtree"}
MAY_TOUCH = {
    "models/published/web.py": "half a download, which is kept",
    "_scratch.py": "a part of files.py",
    "files.py": "the module itself",
    "bench/machine.py": "/proc and /sys",
    "runtime/resources.py": "/sys",
    "runtime/sessions/onnxruntime.py": "a profile in scratch of its own",
    "runtime/pictures/room.py": "/proc and /sys",
    "export/engines/child.py": "/proc; scratch of its parent",
    "kernels/compile_child.py": "scratch of its own",
    "kernels/compile.py": "the package's own sources",
    "export/cache.py": "the package's own sources; cached bundles to be deleted",
    "cli/_pictures.py": "patterns, by glob.glob",
    "cli/process/streams.py": "the standard streams",
}


def touches(source: str) -> set[str]:
    """Ways around `files.py` in a source: methods of paths, tempfile, and files opened by name."""
    found = set()
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TOUCHES:
            receiver = ast.unparse(node.func.value)
            found.add(node.func.attr if receiver not in ("files", "self", "bundle") else "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.add("open")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("tempfile.mkdtemp", "tempfile.mkstemp"):
            found.add(node.attr)
    return found - {""}


def test_the_file_system_is_touched_in_one_module() -> None:
    """And what is excused touches it."""
    assert broken(touches).keys() == MAY_TOUCH.keys()


def test_a_touch_is_seen() -> None:
    assert touches("import tempfile\nopen('x')\nPath('x').exists()\ntempfile.mkdtemp()") == {
        "open",
        "exists",
        "mkdtemp",
    }


LAZY = (
    "PIL",
    "av",
    "diffusers",
    "huggingface_hub",
    "matplotlib",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "pooch",
    "requests",
    "rich",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "triton",
)
STARTS = {
    "import": "import zoomrt",
    "build": "from zoomrt.cli.build import main; main()",
    "list": "sys.argv[1:] = ['--list']; from zoomrt.cli.build import main; main()",
    "upscale": "from zoomrt.cli.upscale import main; main()",
    "zoom": "from zoomrt.cli.zoom import main; main()",
    "bench": "from zoomrt.cli.bench import main; main()",
    "doctor": "from zoomrt.cli.doctor import main; main()",
    "kernels": "from zoomrt.cli.kernels import main; main()",
}


LOADED = {"list": {"huggingface_hub"}}
"""Which looks into its own cache: what is here is in the list."""


def loaded_by(code: str) -> set[str]:
    """Top-level modules of LAZY that a fresh interpreter has loaded after running `code` with --help as arguments."""
    program = f"""
import os, sys
sys.argv = ["command", "--help"]
told = os.dup(2)  # commands turn standard error away
try:
    {code}
except SystemExit as end:
    assert end.code == 0, end.code
os.write(told, " ".join(sorted({{name.split(".")[0] for name in sys.modules}})).encode())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stderr.split()) & set(LAZY)


@pytest.mark.parametrize("start", STARTS)
def test_import_and_help_load_nothing_heavy(start: str) -> None:
    assert loaded_by(STARTS[start]) == LOADED.get(start, set())


def test_benchmarks_need_no_torch() -> None:
    """torch is a peer like any other."""
    loaded = loaded_by("import zoomrt.bench.run, zoomrt.bench.report.page, zoomrt.bench.compare")
    assert {"torch", "openvino"}.isdisjoint(loaded)


def test_a_heavy_import_is_seen() -> None:
    assert loaded_by("import numpy") == {"numpy"}
    assert loaded_by("import numpy; from zoomrt.cli.build import main; main()") == {"numpy"}
