"""The documentation tells the truth: commands parse, links lead somewhere, tables have a row for everything."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from zoomrt import bundle, errors
from zoomrt.export.targets import TARGETS

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "RESULTS.md", *(ROOT / "docs").rglob("*.md")]
)


def code_lines(page: Path) -> list[str]:
    """Lines inside fenced blocks, shell comments cut off."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]


COMMANDS = [line for page in PAGES for line in code_lines(page) if re.match(r"trt-\w+", line)]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_shown_is_understood(line: str) -> None:
    name, *words = shlex.split(line)
    command = importlib.import_module(f"zoomrt.cli.{name.removeprefix('trt-')}").cli
    command.make_context(name, words).close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(
        r"`((?:zoomrt|tests|benchmarks|examples|training|docs)/[\w/.-]*(?:\.py|\.md|\.json|/))`", text
    ):
        assert (ROOT / name).exists(), name


PRIVATE = re.compile(r"\b(trt|osediff|hypir|adcsr|jit_sr|skipdiff|resshift_sinsr|baselines)\w*\.md")


def test_facts_are_cited_where_anyone_can_read_them() -> None:
    """A constant names a paper, a public file or a page of these docs: no sheet of our own that is not here."""
    for path in sorted([*(ROOT / "zoomrt").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]):
        text = path.read_text(encoding="utf-8").replace("docs/models/", "docs/models#")
        cited = [found[0] for found in PRIVATE.finditer(text) if text[found.start() - 1] != "#"]
        assert not cited, f"{path}: {cited}"


def test_commands_are_shown() -> None:
    wanted = {"trt-bench", "trt-build", "trt-upscale", "trt-zoom", "trt-doctor"}
    assert {line.split()[0] for line in COMMANDS} == wanted


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_goals_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in code_lines(page):
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, page.name, "exec")


def test_every_error_has_its_row() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    kinds = {getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)}
    assert {(int(code), name) for code, name in rows} == {
        (kind.exit_code, kind.__name__) for kind in kinds - {errors.ZoomrtError}
    }


def test_every_target_has_its_row_with_its_precisions() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| ([^|]+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    compilers = {
        "onnxruntime": "ONNX Runtime or OpenVINO",
        "onnxruntime_cuda": "ONNX Runtime",
        "tensorrt_rtx": "TensorRT-RTX",
    }
    assert {(name, compiler, tuple(re.findall(r"\b(?:fp|bf|int)\d+\b", text))) for name, compiler, text in rows} == {
        (target.name, compilers[target.backends[0]], target.precisions) for target in TARGETS.values()
    }


@pytest.mark.parametrize("record", [bundle.Manifest, bundle.TileFacts], ids=lambda record: record.__name__)
def test_every_field_of_the_manifest_is_explained(record: type) -> None:
    text = (ROOT / "docs" / "bundle.md").read_text()
    rows = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert set(record.__annotations__) <= rows
