"""Engines built in a child process and checked against what was asked for."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import msgspec
import pytest
from engine_graphs import (
    HEADS,
    TOKENS,
    attention_graph,
    float_input_graph,
    normalisation_graph,
    quantised_graph,
    stand_in,
    tiny_graph,
)

from zoomrt.bundle.records import BuildFigures, EngineReport
from zoomrt.errors import BuildError, PrecisionError
from zoomrt.export.engines import tensorrt as engine_module
from zoomrt.export.engines.plan_reader import Kernel, PlanSummary, PlanTensor, read_plan
from zoomrt.export.engines.tensorrt import build_engine
from zoomrt.export.graph.facts import Attention, GraphFacts

tensorrt_rtx = pytest.importorskip("tensorrt_rtx")


def build(graph: Path, engine: Path, *sms: str, precision: str = "fp16", **options: object) -> EngineReport:
    return build_engine(
        graph,
        engine,
        backend="tensorrt_rtx",
        compute_capabilities=sms or ("SM89",),
        precision=precision,
        timeout_s=120,
        **options,  # type: ignore[arg-type]
    )


def test_fp16(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    stages: list[tuple[str, float]] = []
    report = build(
        tiny_graph(tmp_path / "g.onnx"), folder / "e", "SM86", "SM120", on_progress=lambda *step: stages.append(step)
    )
    content = (folder / "e").read_bytes()
    assert os.listdir(folder) == ["e"]
    assert report.sms == ("SM86", "SM120")
    assert (report.attentions_fused, report.attentions_expected) == (1, 1)
    assert report.attentions_unfused == ()
    assert report.written_scores == report.warnings == ()
    assert report.engine_bytes == len(content)
    assert report.sha256 == hashlib.sha256(content).hexdigest()
    assert report.backend_version == tensorrt_rtx.__version__
    assert not read_plan(folder / "e").tf32
    assert report.kernels == sum(report.kernels_by_kind.values()) == sum(report.kernels_by_dtype.values())
    assert report.share_in_precision == 1.0
    assert report.other_precision == ()
    assert list(dict.fromkeys(stage for stage, _ in stages)) == ["load", "parse", "compile", "write", "check"]
    compiling = [fraction for stage, fraction in stages if stage == "compile"]
    assert compiling == sorted(compiling)
    assert len(compiling) > 3
    assert all(0 <= fraction <= 1 for _, fraction in stages)
    assert report.build.seconds > 0
    # the compiler alone maps more than 50 MB; this process, with torch in it, must not be what was measured
    assert report.build.peak_rss_bytes is None or 50e6 < report.build.peak_rss_bytes < 2e9


def test_equal_builds_give_equal_bytes_and_reports(tmp_path: Path) -> None:
    graph = tiny_graph(tmp_path / "g.onnx")
    reports = []
    for name in ("a", "b"):
        report = build(graph, tmp_path / name)
        assert msgspec.json.decode(msgspec.json.encode(report), type=EngineReport) == report
        reports.append(msgspec.structs.replace(report, build=BuildFigures(0.0, None)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert reports[0] == reports[1]


@pytest.mark.parametrize(("size", "fused"), [(32, 1), (512, 0)])
def test_an_attention_too_wide_for_a_kernel_falls_apart(tmp_path: Path, size: int, fused: int) -> None:
    """Fused up to head size 256 (TensorRT-RTX 1.7.1); above, alone, the compiler refuses what must stay whole."""
    report = build(attention_graph(tmp_path / "g.onnx", size), tmp_path / "e")
    assert report.attentions_fused == fused
    assert len(report.attentions_unfused) == 1 - fused
    assert bool(report.written_scores) == (not fused)


def test_fp32_and_its_unfused_attention(tmp_path: Path) -> None:
    """TensorRT fuses no FP32 attention: built all the same, and told, down to the tensors of tokens x tokens."""
    report = build(tiny_graph(tmp_path / "g.onnx", half=False), tmp_path / "e", precision="fp32")
    assert (report.attentions_fused, report.attentions_expected) == (0, 1)
    assert len(report.attentions_unfused) == 1
    assert report.attentions_unfused[0] in report.warnings[0]
    assert set(report.kernels_by_dtype) <= {"fp32", "none"}
    assert report.share_in_precision == 1.0
    assert report.written_scores
    plan = read_plan(tmp_path / "e")
    assert {plan.tensors[name].shape for name in report.written_scores} == {(HEADS, TOKENS, TOKENS)}
    assert [warning.split()[:3] for warning in report.warnings] == [["0", "of", "1"], ["attention", "scores", "are"]]


def test_only_written_tensors_of_the_size_of_scores_count() -> None:
    """Two heads over 64 tokens; a picture of 64x64 with three channels is no score matrix."""
    shapes = {"scores": (2, 64, 64), "batched": (1, 2, 64, 64), "picture": (3, 64, 64), "flat": (128, 64)}
    tensors = {n: PlanTensor(n, shape, "fp16", 2 * math.prod(shape), False, n) for n, shape in shapes.items()}
    names = tuple(shapes)
    kernels = (Kernel("writes", "gemm", (), (), names, (), (), 0), Kernel("reads", "gemm", (), names, (), (), (), 0))
    plan = PlanSummary("1.7.1.116", ("SM89",), False, 0, 0, tensors, (), (), kernels)
    attentions = (Attention("a", (2, 64, 64)), Attention("unknown", None))
    assert engine_module._written_scores(plan, GraphFacts({}, attentions, ())) == ("scores", "batched")


def test_normalisation_may_be_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowed, listed and counted; and nothing else excuses these kernels."""
    graph = normalisation_graph(tmp_path / "g.onnx")
    report = build(graph, tmp_path / "e")
    mixed = sum(count for dtype, count in report.kernels_by_dtype.items() if "fp32" in dtype)
    floating = sum(count for dtype, count in report.kernels_by_dtype.items() if dtype != "none")
    assert len(report.other_precision) == mixed > 1
    assert report.share_in_precision == pytest.approx(1 - mixed / floating, abs=1e-4)
    assert all("norm" in kernel for kernel in report.other_precision)
    monkeypatch.setattr(engine_module, "NORMALISATIONS", frozenset())
    with pytest.raises(PrecisionError, match="norm"):
        build(graph, tmp_path / "e")
    build(graph, tmp_path / "e", allow_fp32=("no*",))


def test_a_normalisation_does_not_excuse_fp32_input(tmp_path: Path) -> None:
    graph = normalisation_graph(tmp_path / "g.onnx", float_io=True)
    with pytest.raises(PrecisionError, match="cast_in"):
        build(graph, tmp_path / "e")


def test_fp32_graph_is_no_fp16_engine(tmp_path: Path) -> None:
    engine = tmp_path / "out" / "e"
    engine.parent.mkdir()
    engine.write_bytes(b"older")
    with pytest.raises(PrecisionError) as caught:
        build(tiny_graph(tmp_path / "g.onnx", half=False), engine)
    assert "conv2d" in caught.value.seen
    assert engine.read_bytes() == b"older"
    assert os.listdir(engine.parent) == ["e"]


def test_fp16_graph_is_no_fp32_engine(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="fp32 data"):
        build(tiny_graph(tmp_path / "g.onnx"), tmp_path / "e", precision="fp32")


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_eight_bit_layers(tmp_path: Path, form: str) -> None:
    """Two convolutions and three linear layers between codes, the rest in FP16."""
    report = build(quantised_graph(tmp_path / "g.onnx", form), tmp_path / "e", precision=form)
    assert report.eight_bit_layers == 5
    assert 0 < report.share_in_precision < 1
    assert f"fp16+{form}" in "".join(f"{name} " for name in report.kernels_by_dtype) or form in report.kernels_by_dtype
    assert report.attentions_fused == 1
    assert build(tiny_graph(tmp_path / "g.onnx"), tmp_path / "e").eight_bit_layers == 0


def test_eight_bits_that_came_out_in_fp16(tmp_path: Path) -> None:
    """TensorRT-RTX does INT8 convolutions for Turing in FP16; its INT8 matrix products are real."""
    engine = tmp_path / "out" / "e"
    engine.parent.mkdir()
    with pytest.raises(PrecisionError, match="2 of 5 layers without int8 data") as caught:
        build(quantised_graph(tmp_path / "g.onnx", "int8"), engine, "SM75", precision="int8")
    assert "conv" in caught.value.seen
    assert os.listdir(engine.parent) == []
    with pytest.raises(PrecisionError, match="0 of 0 layers"):
        build(tiny_graph(tmp_path / "g.onnx"), engine, precision="int8")


def test_float_input_needs_the_allow_list(tmp_path: Path) -> None:
    graph = float_input_graph(tmp_path / "g.onnx")
    with pytest.raises(PrecisionError) as caught:
        build(graph, tmp_path / "e")
    assert "2 of" in caught.value.seen
    report = build(graph, tmp_path / "e", allow_fp32=("node__to_copy*", "node_convert*", "node_Cast*"))
    assert len(report.other_precision) == 2
    assert report.kernels_by_dtype["fp16+fp32"] == 2


def test_engine_for_other_gpus_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that builds for SM80 whatever it is told."""
    graph, engine = tiny_graph(tmp_path / "g.onnx"), tmp_path / "out" / "e"
    engine.parent.mkdir()
    folder = stand_in(tmp_path / "fake", "tensorrt_rtx", WRAPPER.format(name="tensorrt_rtx", sm="SM80"))
    monkeypatch.setenv("PYTHONPATH", folder)
    with pytest.raises(BuildError, match="SM80") as caught:
        build(graph, engine, "SM86")
    assert caught.value.needed == "SM86"
    assert os.listdir(engine.parent) == []


WRAPPER = """
import os, sys
here = os.path.dirname(os.path.abspath(__file__))
me = sys.modules.pop({name!r})
path, sys.path[:] = sys.path[:], [p for p in sys.path if os.path.abspath(p or ".") != here]
import tensorrt_rtx as real
sys.path[:] = path
sys.modules[{name!r}] = me
globals().update({{k: getattr(real, k) for k in dir(real) if not k.startswith("__")}})
__version__ = real.__version__

class Config:
    def __init__(self, config):
        object.__setattr__(self, "config", config)
        config.num_compute_capabilities = 1
        config.set_compute_capability(real.ComputeCapability.{sm}, 0)
    def __setattr__(self, name, value): setattr(self.config, name, value)
    def clear_flag(self, flag): self.config.clear_flag(flag)

class Builder:
    def __init__(self, logger): self.builder = real.Builder(logger)
    def create_network(self, flags): return self.builder.create_network(flags)
    def create_builder_config(self): return Config(self.builder.create_builder_config())
    def build_serialized_network(self, network, config):
        return self.builder.build_serialized_network(network, config.config)
"""
"""A module that has all of TensorRT-RTX but the choice of GPU: the face of full TensorRT."""


def test_full_tensorrt_goes_through_the_same_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in, since full TensorRT needs a GPU: same calls, no choice of GPU, no figures that nobody read."""
    folder = stand_in(tmp_path / "fake", "tensorrt", WRAPPER.format(name="tensorrt", sm="SM80"))
    monkeypatch.setenv("PYTHONPATH", folder)
    monkeypatch.syspath_prepend(folder)
    engine = tmp_path / "e"
    report = build_engine(
        tiny_graph(tmp_path / "g.onnx"),
        engine,
        backend="tensorrt",
        compute_capabilities=("SM86",),
        precision="fp16",
        timeout_s=120,
    )
    assert report.backend == "tensorrt"
    assert report.engine_bytes == engine.stat().st_size > 0
    assert report.attentions_expected == 1
    assert report.sms is report.kernels is report.attentions_fused is report.share_in_precision is None
    assert "not checked" in report.warnings[0]
