"""The table of targets: sound in itself, and true of the compiler that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_graphs import quantised_graph, tiny_graph

from zoomrt.errors import BuildError, UsageError
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.targets import (
    COMPILERS,
    CPU_RUNNERS,
    EIGHT_BIT,
    PRECISIONS,
    TARGETS,
    Target,
    floating_point,
    precision_named,
    target_named,
)

ENGINES = [target for target in TARGETS.values() if target.backend == "tensorrt_rtx"]


def test_table() -> None:
    assert set(TARGETS) == {"cpu", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121", "rtx", "cuda"}
    assert {one for runner in CPU_RUNNERS.values() for one in runner} == set(TARGETS["cpu"].precisions)
    for name, target in TARGETS.items():
        assert target.name == name
        assert target.why
        assert set(target.precisions) <= set(PRECISIONS)
        assert bool(target.compute_capabilities) == (target.backend in COMPILERS)
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
        precision_named(precision, TARGETS[target])


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_precision_that_can_be(target: Target) -> None:
    for precision in target.precisions:
        assert precision_named(precision, target) == precision
    if "int8" in target.precisions:
        assert precision_named("int8-all", target) == "int8-all"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_in_8_bits(precision: str) -> None:
    for_cpu, for_gpu = floating_point(precision, "onnxruntime"), floating_point(precision, "tensorrt_rtx")
    typed = "fp32" if precision == "bf16" else precision  # BF16 is arithmetic on an FP32 graph
    assert (for_cpu, for_gpu) == (("fp32", "fp16") if precision in EIGHT_BIT else (typed, typed))
    assert floating_point(precision, "openvino") == for_cpu


def build(tmp_path: Path, target: Target, precision: str) -> tuple[int | None, tuple[str, ...] | None]:
    pytest.importorskip("tensorrt_rtx")
    if precision in EIGHT_BIT:
        graph = quantised_graph(tmp_path / "g.onnx", precision)
    else:
        graph = tiny_graph(tmp_path / "g.onnx", half=precision == "fp16", opset=target.opset)
    report = build_engine(
        graph,
        tmp_path / "e",
        backend=target.backend,
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
