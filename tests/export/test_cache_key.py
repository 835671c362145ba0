"""The cache's key changes with everything that shapes a bundle, and with nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import zoomrt
from zoomrt.calibration.options import Calibration
from zoomrt.export import cache
from zoomrt.export import request as pipeline
from zoomrt.export.build import build
from zoomrt.export.cache import digest_of
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.request import BuildRequest
from zoomrt.models.families import edge
from zoomrt.runtime.sessions import openvino

PACKAGE = Path(zoomrt.__file__).parent


class Looked(Exception):
    """The cache was asked, which is far enough."""


@pytest.fixture
def key_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """request -> the key under which `build` looks into the cache."""
    keys: list[str] = []

    def record(key: str) -> None:
        keys.append(key)
        raise Looked

    def key_of(request: BuildRequest) -> str:
        with pytest.raises(Looked):
            build(request, tmp_path / "b")
        return keys[-1]

    monkeypatch.setattr(cache, "fetch", record)
    return key_of


FILE = Path(edge.__file__).with_suffix(".safetensors")
CHANGES: dict[str, object] = {
    "model": "osediff",
    "weights": FILE,
    "precision": "fp16",
    "target": "sm89",
    "tile": 64,
    "overlap": 8,
    "batches": (1, 2),
    "backend": "onnxruntime",
    "options": {"steps": 4},
    "colour": "wavelet",
    "require_faster": True,
    "attention_plugin": True,
}
CANNOT_CHANGE_A_BUNDLE: dict[str, object] = {"timeout_s": 3.0, "max_memory": 1 << 40, "bisect": True}
FOR_THEM = {
    "model": BuildRequest(weights=FILE),
    "options": BuildRequest(model="skipdiff", weights=FILE),
    "require_faster": BuildRequest(precision="int8"),
    "attention_plugin": BuildRequest(precision="fp16", target="sm89", backend="tensorrt"),
}


def test_every_field_of_a_request_is_looked_at() -> None:
    names = {field.name for field in fields(BuildRequest)}
    assert names == {*CHANGES, *CANNOT_CHANGE_A_BUNDLE, "calibration"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_request_that_asks_for_more(key_of, name: str) -> None:
    request = FOR_THEM.get(name, BuildRequest())
    assert key_of(replace(request, **{name: CHANGES[name]})) != key_of(request) == key_of(replace(request))


@pytest.mark.parametrize("name", CANNOT_CHANGE_A_BUNDLE)
def test_limits_and_diagnostics_change_nothing(key_of, name: str) -> None:
    assert key_of(replace(BuildRequest(), **{name: CANNOT_CHANGE_A_BUNDLE[name]})) == key_of(BuildRequest())


def test_files_count_by_content(key_of, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"w": np.float32([1])}, weights)
    before = key_of(BuildRequest(weights=weights))
    save_file({"w": np.float32([2])}, weights)
    assert key_of(BuildRequest(weights=weights)) != before
    save_file({"w": np.float32([1])}, weights)
    assert key_of(BuildRequest(weights=weights)) == before


def test_calibration_counts_where_there_is_any(key_of) -> None:
    request = BuildRequest(precision="int8")
    assert key_of(replace(request, calibration=Calibration(min_psnr_db=33.0))) != key_of(request)
    assert key_of(replace(request, calibration=Calibration())) == key_of(request)


def version_of(package: str, monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    """Let one package be another version."""
    real = pipeline.version
    monkeypatch.setattr(pipeline, "version", lambda name: changed if name == package else real(name))


CPU = BuildRequest()
GPU = BuildRequest(precision="fp16", target="sm89")
OF_PARTS = replace(CPU, model="osediff", weights=FILE, options={"prompt": "a"})


@pytest.mark.parametrize(
    ("package", "request_"),
    [
        *((name, CPU) for name in ("zoomrt", "numpy", "pillow", "torch", "onnx", "onnx-ir", "onnxscript")),
        *((name, CPU) for name in ("onnxruntime", "openvino", "safetensors")),
        *((name, GPU) for name in ("tensorrt_rtx", "triton", "onnxruntime")),
        ("tensorrt", replace(GPU, backend="tensorrt")),
        ("matplotlib", BuildRequest(precision="int8")),
        *((name, OF_PARTS) for name in ("diffusers", "transformers", "tokenizers")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.target,
)
def test_another_version(key_of, monkeypatch: pytest.MonkeyPatch, package: str, request_: BuildRequest) -> None:
    before = key_of(request_)
    version_of(package, monkeypatch, "999.1")
    assert key_of(request_) != before


@pytest.mark.parametrize("package", ["rich", "click", "pytest", "psutil", "scikit-image", "tensorrt_rtx", "matplotlib"])
def test_a_version_that_has_no_part(key_of, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    before = key_of(CPU)
    version_of(package, monkeypatch, "999.1")
    assert key_of(CPU) == before


def test_onnxruntime_for_gpus_is_onnxruntime(key_of, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_for_gpus(name: str) -> str:
        if name == "onnxruntime":
            raise pipeline.PackageNotFoundError
        return "1.31.0" if name == "onnxruntime-gpu" else "1"

    monkeypatch.setattr(pipeline, "version", only_for_gpus)
    before = key_of(CPU)
    version_of("onnxruntime-gpu", monkeypatch, "1.32.0")
    assert key_of(CPU) != before


def test_a_precision_with_another_bar(key_of) -> None:
    """It may be another package's, whose code is not hashed."""
    before, row = key_of(CPU), PRECISIONS.named(CPU.precision)
    with PRECISIONS.added(replace(row, minimum_psnr_db=row.minimum_psnr_db + 1)):
        assert key_of(CPU) != before
    assert key_of(CPU) == before


def test_a_processor_with_other_engines(key_of, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache may lie in a home folder that machines share: INT8's rest in BF16 runs on some of them only."""
    request, keys = BuildRequest(precision="int8"), []
    for capabilities in ({"FP32", "INT8"}, {"FP32", "INT8", "BF16"}):
        monkeypatch.setattr(openvino, "cpu_capabilities", lambda found=capabilities: frozenset(found))
        keys.append(key_of(request))
    assert keys[0] != keys[1]


SHAPING = (
    "bundle.py",
    "calibration/data.py",
    "models/families/edge.safetensors",
    "export/verify/parity.py",
    "export/verify/photograph.png",
    "kernels/attention.py",
    "models/networks/new.py",
    "runtime/tiles/noise.py",
    "runtime/gpu/device.py",
)
NOT_SHAPING = (
    "bench/run.py",
    "cli/build.py",
    "export/__pycache__/parity.cpython-311.pyc",
    "models/families/edge.md",
    "py.typed",
)


@pytest.mark.parametrize("name", [*SHAPING, *NOT_SHAPING])
def test_the_package_counts_by_content_but_for_what_comes_afterwards(tmp_path: Path, name: str) -> None:
    for place in (*SHAPING, *NOT_SHAPING):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(place)
    before = digest_of(tmp_path)
    (tmp_path / name).write_text("changed")
    changed = digest_of(tmp_path)
    assert (changed != before) == (name in SHAPING)
    (tmp_path / name).rename((tmp_path / name).with_name(f"x{Path(name).name}"))
    assert (digest_of(tmp_path) != changed) == (name in SHAPING)


def test_a_comment_changes_the_key_but_not_the_tiles_of_parity(tmp_path: Path) -> None:
    """The package's own copy, run beside the package itself."""
    copy = tmp_path / "zoomrt"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "bench", "cli"))
    with (copy / "export" / "parity.py").open("a", encoding="utf-8") as file:
        file.write("# a comment\n")
    code = """
import hashlib
from zoomrt.export.cache import source_digest
from zoomrt.export.verify.sample_tiles import extreme_tiles, half_photograph_half_noise, probe_seed
seed = probe_seed("edge")
tiles = [half_photograph_half_noise((2, 3, 32, 48), (-1.0, 1.0), seed), *extreme_tiles(24, (0.0, 1.0), seed).values()]
print(source_digest(), hashlib.sha256(b"".join(tile.tobytes() for tile in tiles)).hexdigest(), seed)
"""
    printed = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder).stdout
        for folder in (PACKAGE.parent, tmp_path)
    ]
    (digest, tiles, seed), (other, again, _) = (line.split() for line in printed)
    assert digest != other
    assert tiles == again
    assert int(seed) == 1963381606  # CRC-32 of "edge", by another program
