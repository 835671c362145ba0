"""The table of targets: sound in itself, and true of the compiler that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_graphs import quantised_graph, tiny_graph

from zoomrt.errors import BuildError, UsageError
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.precisions import PRECISIONS
from zoomrt.export.targets import (
    TARGETS,
    Target,
    check_precision,
    target_named,
)
from zoomrt.runtime.backends import BACKENDS

ENGINES = [target for target in TARGETS.values() if target.backends[0] == "tensorrt_rtx"]


def test_table() -> None:
    assert set(TARGETS) == {"cpu", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121", "rtx", "cuda"}
    assert TARGETS["cpu"].precisions == ("fp32", "fp16", "bf16", "int8")
    assert TARGETS["cpu"].backends == ("onnxruntime", "openvino")
    assert TARGETS["sm89"].backends == ("tensorrt_rtx", "tensorrt")
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.why
        runners = [BACKENDS.named(backend) for backend in target.backends]
        assert {kind for one in runners for kind in one.kinds} >= set(target.precisions) > set()
        assert {one.compiles for one in runners} == {bool(target.compute_capabilities)}
        if name.startswith("sm"):
            assert target.compute_capabilities == (name.upper(),)
    assert set(TARGETS["rtx"].compute_capabilities) == {
        sm
        for name, target in TARGETS.items()
        if name.startswith("sm") and name != "sm75"
        for sm in target.compute_capabilities
    }


@pytest.mark.parametrize(("name", "near"), [("sm98", "sm89"), ("SM-120", "sm120"), ("rtx4090", "rtx")])
def test_unknown_target(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"Did you mean .*\b{near}\b"):
        target_named(name)
    assert target_named(near).name == near


@pytest.mark.parametrize(
    ("target", "precision", "says"),
    [
        ("sm86", "fp8", "hardware of target sm86 cannot run fp8: got SM86, need compute capability 89"),
        ("rtx", "fp8", "hardware of target rtx cannot run fp8: got SM80, SM86"),
        ("sm75", "int8", "does INT8 convolutions there in FP16"),
        ("sm75", "int8-all", "does not build int8-all for target sm75"),
        ("sm80", "fp8", "hardware of target sm80 cannot run fp8"),
        ("cpu", "fp8", "zoomrt does not build fp8 for target cpu"),
        ("sm89", "bf16", "does not build bf16 for target sm89: got bf16, need target cpu.*rounds eight times finer"),
        ("cuda", "int8", "does not build int8 for target cuda.*not tried on CUDA"),
        ("cuda", "fp8", "does not build fp8 for target cuda"),
        ("sm75", "fp32", "no FP32 matrix product for Turing"),
        ("sm75", "fp61", "Did you mean fp16"),
    ],
)
def test_precision_that_cannot_be(target: str, precision: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check_precision(PRECISIONS.named(precision), TARGETS[target])


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_precision_that_can_be(target: Target) -> None:
    for precision in target.precisions:
        check_precision(PRECISIONS.named(precision), target)
    if "int8" in target.precisions:
        check_precision(PRECISIONS.named("int8-all"), target)


@pytest.mark.parametrize("precision", PRECISIONS.names())
def test_what_is_not_in_8_bits(precision: str) -> None:
    row = PRECISIONS.named(precision)
    typed = "fp32" if precision == "bf16" else precision  # BF16 is arithmetic on an FP32 graph
    eight_bit = precision in ("int8", "int8-all", "fp8")
    assert (row.eight_bit is not None) == eight_bit
    assert (row.storage_on("cpu"), row.storage_on("cuda")) == (("fp32", "fp16") if eight_bit else (typed, typed))


def build(tmp_path: Path, target: Target, precision: str) -> tuple[int | None, tuple[str, ...] | None]:
    pytest.importorskip("tensorrt_rtx")
    if PRECISIONS.named(precision).eight_bit:
        graph = quantised_graph(tmp_path / "g.onnx", precision)
    else:
        graph = tiny_graph(tmp_path / "g.onnx", half=precision == "fp16", opset=target.opset)
    report = build_engine(
        graph,
        tmp_path / "e",
        backend=target.backends[0],
        compute_capabilities=target.compute_capabilities,
        precision=precision,
        timeout_s=120,
    )
    return report.attentions_fused, report.sms


@pytest.mark.parametrize(
    ("target", "precision"),
    [(target, precision) for target in ENGINES for precision in target.precisions],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_row_builds(tmp_path: Path, target: Target, precision: str) -> None:
    fused, sms = build(tmp_path, target, precision)
    assert fused == (0 if precision == "fp32" else 1)
    assert sms == target.compute_capabilities


def test_what_the_table_leaves_out_does_not_build(tmp_path: Path) -> None:
    """When this fails, a newer compiler can do it: put fp32 into the row."""
    with pytest.raises(BuildError, match="FP32 GEMM is not supported"):
        build(tmp_path, TARGETS["sm75"], "fp32")
