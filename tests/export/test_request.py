"""A request becomes a complete plan, or is refused, before any file is read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from zoomrt.calibration.options import Calibration
from zoomrt.errors import UsageError
from zoomrt.export.request import BuildRequest, resolve

NOWHERE = Path("/nowhere/w.pth")
"""Never opened: what is wrong is told before."""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "sm98"}, "Did you mean"),
        ({"precision": "fp8"}, "does not build fp8"),
        ({"model": "osedif"}, "unknown model"),
        ({"options": {"stps": 4}}, "unknown option of a model"),
        ({"model": "edge", "options": {"steps": 4}}, "does not take --steps"),
        ({"colour": "wavelets"}, "Did you mean wavelet"),
        ({"batches": (2, 4)}, "ascending sizes that start with 1"),
        ({"tile": 32, "overlap": 17}, "17 LR pixels with tile 32"),
        ({"calibration": Calibration()}, "fp32 needs no calibration"),
        ({"precision": "int8", "bisect": True}, "cannot be bisected"),
        ({"backend": "tensorrt"}, "cannot be built with that backend"),
        ({"backend": "tensorrt_rxt"}, "Did you mean tensorrt_rtx"),
        ({"require_faster": True}, "--require-faster says nothing about fp32"),
        ({"attention_plugin": True}, "attention cannot be a plugin"),
        ({"model": "jit-sr", "precision": "int8"}, "takes several steps"),
        ({"model": "jit-sr", "bisect": True}, "takes several steps"),
        ({"model": "jit-sr", "target": "cuda"}, "cannot be built for target cuda"),
        ({"model": "jit-sr", "backend": "openvino"}, "takes several steps"),
        ({"model": "jit-sr", "batches": (1, 2)}, "takes several steps"),
    ],
)
def test_what_contradicts_is_told_before_anything_is_read(changes: dict, said: str) -> None:
    if changes.get("backend") == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(UsageError, match=said):
        resolve(BuildRequest(weights=NOWHERE, **changes))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_plan_has_no_defaults_left(precision: str) -> None:
    plan = resolve(BuildRequest(precision=precision))
    assert plan.family is not None
    assert plan.family.name == "edge"
    assert (plan.backend.device, plan.backend.name) == ("cpu", plan.cpu_engines[0].backend)
    assert (plan.calibration == Calibration()) == (precision == "int8")
    assert {"zoomrt", "torch", plan.backend.package} <= plan.versions.keys()
    for field in fields(plan):
        with pytest.raises(FrozenInstanceError):
            setattr(plan, field.name, None)


def test_on_a_gpu_the_rest_of_an_8_bit_network_is_fp16() -> None:
    plan = resolve(BuildRequest(precision="int8", target="sm89"))
    assert (plan.backend.name, plan.cpu_engines, plan.storage, plan.half) == ("tensorrt_rtx", (), "fp16", True)
    assert resolve(BuildRequest(precision="int8")).storage == "fp32"


def test_a_plan_needs_no_torch() -> None:
    code = (
        "import sys; from zoomrt.export.request import BuildRequest, resolve; "
        "resolve(BuildRequest(precision='fp16', target='sm89')); print('torch' in sys.modules, 'onnx' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
