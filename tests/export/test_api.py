"""`zoomrt.build`: the words of `trt-build`, as keywords; its errors speak of keywords too."""

from __future__ import annotations

import inspect
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import zoomrt
from zoomrt.cli.build import cli
from zoomrt.errors import CheckpointError, ZoomrtError
from zoomrt.models.families import options_of

ONLY_COMMANDS = {"list", "quiet", "debug", "version", "help", "published", "accept_licence", "offline"}
"""Options that say nothing of the bundle, and those of fetching, which is the command's alone."""


def test_its_keywords_are_the_options_of_the_command() -> None:
    keywords = inspect.signature(zoomrt.build).parameters.keys()
    long = {name for one in cli.params for name in one.opts if name.startswith("--")}
    options = {name[2:].replace("-", "_") for name in long} - ONLY_COMMANDS
    options -= {option.key for option in options_of(None)}
    assert keywords - {"on_progress", "options", "cache"} == options - {"no_cache"}
    assert "no_cache" in options


def test_a_bundle_from_python(tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stages: list[str] = []
    given = {"weights": str(tiny_edge_weights), "tile": 32, "overlap": 8, "backend": "onnxruntime"}
    bundle = zoomrt.build(**given, batch=(1, 2), on_progress=lambda stage, _: stages.append(stage))
    assert isinstance(bundle, zoomrt.Bundle)
    assert bundle.path == Path(f"{tiny_edge_weights.stem}-fp32-cpu")
    assert (bundle.manifest.tile.height, bundle.manifest.tile.batches) == (32, (1, 2))
    assert {"weights", "export", "parity"} <= set(stages)
    with zoomrt.load(bundle.path) as upscaler:
        assert upscaler.upscale(np.zeros((40, 50, 3), np.uint8)).shape == (160, 200, 3)
    stages.clear()
    again = zoomrt.build("again", **given, batch=[1, 2], on_progress=lambda stage, _: stages.append(stage))
    assert (again.manifest, stages) == (bundle.manifest, ["cache"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tile": 33}, "Use tile 32 or tile 36."),
        ({"tile": "64"}, "cannot use tile: got '64'"),
        ({"batch": (1, "2")}, "cannot use batch: got '2'"),
        ({"timeout": 0}, "Change timeout."),
        ({"timeout": float("nan")}, "Change timeout."),
        ({"batch": 2}, "Use batch 1 or, for example, batch 1,4."),
        ({"overlap": 40, "tile": 32}, "Use a smaller overlap or a larger tile."),
        ({"precision": "int8", "min_psnr": -1.0}, "Change min_psnr."),
        ({"require_faster": True}, "Leave require_faster out."),
        ({"calibration_hr": True, "precision": "int8"}, "calibration_hr without calibration"),
        ({"steps": 4}, "model edge does not take steps"),
        ({"model": "osediff"}, "pass weights FILE"),
        ({"target": "sm98"}, "Did you mean"),
    ],
)
def test_errors_speak_of_keywords(tmp_path: Path, given: dict, said: str) -> None:
    with pytest.raises(ZoomrtError) as caught:
        zoomrt.build(tmp_path / "b", **given)
    assert said in str(caught.value)
    assert "--" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_be_text(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot find what base names.*nowhere"):
        zoomrt.build(tmp_path / "b", model="osediff", weights="w.pth", base="nowhere")


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_example_runs(tmp_path: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    """With a small network in the place of the whole one."""
    text = Path(__file__).parents[2].joinpath(page).read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n([^`]*zoomrt\.build\(.*?)^```", text, re.MULTILINE | re.DOTALL)
    small = partial(zoomrt.build, weights=tiny_edge_weights, tile=32, overlap=8, backend="onnxruntime")
    monkeypatch.setattr(zoomrt, "build", small, raising=False)
    monkeypatch.chdir(tmp_path)
    names = {"frame": np.zeros((40, 50, 3), np.uint8)}
    exec(example, names)
    assert (tmp_path / "edge-fp32-cpu" / "manifest.json").exists()
    if "large" in example:
        assert names["large"].shape == (160, 200, 3)
