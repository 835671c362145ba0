"""Engines read from their bytes, held against what the compiler printed while it wrote them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from engine_graphs import SIZE, normalisation_graph, small_graph, tiny_graph
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from zoomrt.export.engines.plan_reader import PlanSummary, UnreadablePlan, read_plan

pytest.importorskip("tensorrt_rtx")

# A second, independent way to build: writes the plan, and the compiler's verbose log that lists every layer.
BUILDER = """
import json, sys
import tensorrt_rtx as trt
graph, plan_file, sms, dynamic = json.loads(sys.argv[1])
lines = []
class Log(trt.ILogger):
    def __init__(self): super().__init__()
    def log(self, severity, text): lines.append(text)
log = Log()
builder = trt.Builder(log)
network = builder.create_network(0)
assert trt.OnnxParser(network, log).parse_from_file(graph)
config = builder.create_builder_config()
config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
if dynamic:
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 64), (4, 64), (8, 64))
    config.add_optimization_profile(profile)
config.num_compute_capabilities = len(sms)
for i, sm in enumerate(sms):
    config.set_compute_capability(getattr(trt.ComputeCapability, sm), i)
open(plan_file, "wb").write(memoryview(builder.build_serialized_network(network, config)))
print("\\n".join(lines))
"""
DTYPES = {"Half": ("fp16", 2), "Float": ("fp32", 4), "Int32": ("int32", 4), "Int64": ("int64", 8), "Int8": ("int8", 1)}
KINDS = {"kgen": "generated", "correlation": "convolution", "gemm": "gemm"}


def build(graph: Path, sms: list[str], *, dynamic: bool = False) -> tuple[Path, str]:
    plan = graph.with_suffix(".plan")
    job = json.dumps([str(graph), str(plan), sms, dynamic])
    done = subprocess.run([sys.executable, "-c", BUILDER, job], capture_output=True, text=True, check=True)
    return plan, done.stdout


@dataclasses.dataclass
class Layer:
    kind: str
    nodes: list[str]
    tensors: dict[str, tuple[tuple[int, ...], str]]

    @property
    def bytes(self) -> int:
        sizes = dict(DTYPES.values())
        return sum(math.prod(shape) * sizes[dtype] for shape, dtype in self.tensors.values())


def layers_of(log: str) -> list[Layer]:
    layers = []
    for line in re.findall(r"^Name: .*LayerType: .*$", log, re.MULTILINE):
        name, kind = re.match(r"Name: (.*?), LayerType: (\w+)", line).groups()  # type: ignore[union-attr]
        found = re.findall(r"\{ Name: (.*?), Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", line)
        tensors = {n: (tuple(map(int, d.split(","))), DTYPES[t][0]) for n, d, t in found}
        kind = "attention" if "mha" in name else KINDS.get(kind, kind)
        layers.append(Layer(kind, re.findall(r"\[ONNX Layer: ([^\]]*)\]", line), tensors))
    return layers


@pytest.mark.parametrize(
    ("half", "opset", "sms"),
    [
        (True, 23, ["SM89"]),
        (True, 18, ["SM75"]),
        (False, 23, ["SM80", "SM86", "SM120"]),
    ],
)
def test_reads_what_the_compiler_printed(tmp_path: Path, half: bool, opset: int, sms: list[str]) -> None:
    plan_file, log = build(tiny_graph(tmp_path / "g.onnx", half=half, opset=opset), sms)
    plan = read_plan(plan_file)
    layers = layers_of(log)
    assert len(layers) > 5

    import tensorrt_rtx

    assert plan.version == tensorrt_rtx.__version__
    assert list(plan.sms) == sms
    assert plan.bytes == plan_file.stat().st_size
    assert plan.tf32  # the compiler's default, which the other builder leaves as it is
    assert plan.workspace_bytes == int(re.search(r"Total Activation Memory: (\d+) bytes", log).group(1))  # type: ignore[union-attr]

    assert [kernel.kind for kernel in plan.kernels] == [layer.kind for layer in layers]
    assert [list(kernel.nodes) for kernel in plan.kernels] == [layer.nodes for layer in layers]
    for kernel, layer in zip(plan.kernels, layers, strict=True):
        read = {plan.tensors[name] for name in (*kernel.inputs, *kernel.outputs)}
        elements = sorted((math.prod(tensor.shape), tensor.dtype) for tensor in read)
        assert elements == sorted((math.prod(shape), dtype) for shape, dtype in layer.tensors.values())
    assert plan.static_bytes == sum(layer.bytes for layer in layers)
    assert plan.fused_attentions == (1 if half else 0)

    (lr,), (sr,) = plan.inputs, plan.outputs
    for name in (lr, sr):
        assert plan.tensors[name].shape == (1, 3, SIZE, SIZE)
        assert plan.tensors[name].dtype == ("fp16" if half else "fp32")
        assert not plan.tensors[name].constant
    launched = [kernel for kernel in plan.kernels if kernel.kind == "generated"]
    assert launched
    assert all(len(k.grid) == len(k.block) == 3 and math.prod(k.grid) * math.prod(k.block) > 0 for k in launched)


def test_a_normalisation_in_fp32_is_seen(tmp_path: Path) -> None:
    """A wide normalisation falls apart into kernels that hand FP32 to each other in an FP16 graph."""
    plan = read_plan(build(normalisation_graph(tmp_path / "g.onnx"), ["SM89"])[0])
    mixed = [kernel for kernel in plan.kernels if "fp32" in plan.dtypes(kernel)]
    assert len(mixed) > 1
    assert all("norm" in kernel.nodes for kernel in mixed)


def test_dynamic_shapes_are_refused(tmp_path: Path) -> None:
    graph = small_graph(tmp_path / "g.onnx", [helper.make_node("Softmax", ["x"], ["z"])], {"x": ["n", 64]}, "z")
    plan_file, _ = build(graph, ["SM89"], dynamic=True)
    with pytest.raises(UnreadablePlan, match="static shapes"):
        read_plan(plan_file)


# Synthetic plans, in which every figure is known.

NAMES = st.lists(st.from_regex(r"[a-z_][a-z0-9_.^$ {}]{0,12}", fullmatch=True), min_size=2, max_size=8, unique=True)
SPELLED = {"half": 2, "float": 4, "int8": 1, "int32": 4, "int64": 8, "bool": 1, "bf16": 2, "fp8_e4m3": 1, "uint8": 1}


def framed(program: str) -> bytes:
    text = program.encode()
    return b"NLYM\xa1\xda\x1e\x00" + struct.pack("<Q", len(text)) + text


def synthetic(program: str, *more: str) -> bytes:
    body = b"weights\x00\xff" + framed(program) + b"\x01source code\n" + b"".join(map(framed, more))
    header = b"vtrt" + bytes(12) + struct.pack("<Q", 64 + len(body)) + bytes([1, 7, 1, 116])
    return header.ljust(64, b"\0") + body


def program(tensors: list[str], kernels: list[str], accelerators: str = "sm86 sm120 ", outputs: str = '"out.1"') -> str:
    header = "header {\n  version = 5\n  region = { name=devmem size=640 alignment=128 }\n  inputs={ }\n"
    header += f"  outputs={{ {outputs} }}\n  tf32=0\n  accelerators={{{accelerators}}}\n}}\n"
    body = "".join(f"  {line}\n" for line in tensors)
    launches = "".join(f"  {line}\n" for line in kernels)
    return f"{header}descriptors {{\n\n{body}}}\nmain {{\n label bb1: \n{launches}}}\nshape_main {{\n label bb2: \n}}\n"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data(), names=NAMES)
def test_static_bytes(tmp_path: Path, data: st.DataObject, names: list[str]) -> None:
    """Each tensor that a kernel names counts once per kernel, at elements times size."""
    shapes = {name: data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=4)) for name in names}
    types = {name: data.draw(st.sampled_from(sorted(SPELLED))) for name in names}
    constants = set(data.draw(st.lists(st.sampled_from(names))))
    tensors = []
    for name in names:
        payload = "const_payload_size=9" if name in constants else ""
        sizes = " ".join(map(str, shapes[name]))
        tensors.append(f'tensor={{ {payload} dims={{ {sizes} }} name="{name}" region="" type={types[name]} }}')
    uses = data.draw(
        st.lists(st.tuples(st.lists(st.sampled_from(names)), st.lists(st.sampled_from(names))), min_size=1)
    )
    kernels = []
    for i, (ins, outs) in enumerate(uses):
        read, write = (" ".join(f'"{n}"' for n in used) for used in (ins, outs))
        kernels.append(
            f'corrltn={{ name="c{i}" output={{{write} }} input={{{read} }} layers="[ONNX Layer: n{i}]" }}'
            if i % 2
            else f"function={{ name=k{i} args={{ }} input_args={{ {read} }} output_args={{ {write} }} binary = 0 "
            f'grid = {{ {i + 1} 2 1 }} block = {{ 32 1 1 }} shmem={i} layers="[ONNX Layer: n{i}]\x1f[ONNX Layer: m]" }}'
        )
    path = tmp_path / "p"
    inside = program([], ['mul={ name="x" output={ } input={ } }'], accelerators="*")  # of a fused kernel: not counted
    path.write_bytes(synthetic(program(tensors, kernels), inside))
    plan = read_plan(path)

    expected = 0
    for ins, outs in uses:
        for name in set(ins) | set(outs):
            elements = 1
            for size in shapes[name]:
                elements *= size
            expected += elements * SPELLED[types[name]]
    assert plan.static_bytes == expected
    assert plan.sms == ("SM86", "SM120")
    assert (plan.version, plan.tf32, plan.workspace_bytes) == ("1.7.1.116", False, 640)
    assert {n for n, tensor in plan.tensors.items() if tensor.constant} == constants
    assert [(k.name, k.inputs, k.outputs) for k in plan.kernels] == [
        (f"{'ck'[i % 2 == 0]}{i}", tuple(ins), tuple(outs)) for i, (ins, outs) in enumerate(uses)
    ]
    for i, kernel in enumerate(plan.kernels):
        assert kernel.nodes == ((f"n{i}",) if i % 2 else (f"n{i}", "m"))
        assert (kernel.grid, kernel.shared_bytes) == (((), 0) if i % 2 else ((i + 1, 2, 1), i))


def test_what_counts_as_data_of_a_kernel(tmp_path: Path) -> None:
    """FP32 constants and private partial sums do not make a kernel FP32; FP32 handed on, or given out, does."""
    rows = "a half, w float const_payload_size=16, partial float, b half, stats float, out.1 float, i int32"
    tensors = []
    for row in rows.split(", "):
        name, kind, *constant = row.split()
        tensors.append(f'tensor={{ {" ".join(constant)} dims={{ 4 }} name="{name}" type={kind} }}')
    tensors.append('sub_tensor={ base="stats" dims={ 4 } name="view" type=float }')
    kernels = [
        'function={ name=norm input_args={ "a" "w" "i" } output_args={ "b" "partial" } }',
        'function={ name=hands_on input_args={ "b" } output_args={ "stats" } }',
        'function={ name=reads input_args={ "view" } output_args={ "a" } }',
        'function={ name=gives_out input_args={ "b" } output_args={ "out.1" } }',
        'function={ name=counts input_args={ } output_args={ "i" } }',
        "memset={ name=nothing }",
    ]
    path = tmp_path / "p"
    path.write_bytes(synthetic(program(tensors, kernels)))
    plan = read_plan(path)
    assert {kernel.name: set(plan.dtypes(kernel)) for kernel in plan.kernels} == {
        "norm": {"fp16"},
        "hands_on": {"fp16", "fp32"},
        "reads": {"fp16", "fp32"},
        "gives_out": {"fp16", "fp32"},
        "counts": set(),
    }
    assert [k.name for k in plan.kernels if plan.graph_io(k)] == ["gives_out"]


PROGRAM = program(['tensor={ dims={ 2 } name="a" type=half }'], ['function={ name=f input_args={ "a" } }'])
GOOD = synthetic(PROGRAM)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_damage_is_an_unreadable_plan_or_another_summary(tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path / "p"
    path.write_bytes(damaged)
    with contextlib.suppress(UnreadablePlan):
        plan = read_plan(path)
        assert isinstance(plan, PlanSummary)
        assert plan.static_bytes is not None  # no kernel names a tensor that is not there
        assert all(plan.dtypes(kernel) is not None for kernel in plan.kernels)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"vtrt", "4 bytes"),
        (b"ftrt" + GOOD[4:], "b'ftrt'"),
        (GOOD[:-1], f"{len(GOOD) - 1} bytes"),
        (GOOD + b"\0", f"the {len(GOOD)} bytes that its header promises"),
        (synthetic(program([], [], accelerators="*")), "0 compiled programs"),
        (synthetic(program([], []), program([], [])), "2 compiled programs"),
        (GOOD.replace(b"type=half", b"type=hulf"), "hulf"),
        (GOOD.replace(b"tf32=0", b"tf33=0"), "tf32"),
        (GOOD.replace(b"dims={ 2 }", b"dims={ n }"), "static shapes"),
        (GOOD.replace(b"dims={ 2 }", b"dims=  2 2"), "no value"),
        (GOOD.replace(b"descriptors {", b"descryptors {"), "descriptors"),
        (GOOD.replace(b'input_args={ "a" }', b'input_args={ "b" }'), "not described: b"),
        (GOOD.replace(struct.pack("<Q", len(PROGRAM)), struct.pack("<Q", 1 << 40)), "past the end"),
    ],
)
def test_damaged_plans(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.engine"
    path.write_bytes(GOOD)
    assert read_plan(path).static_bytes == 4
    path.write_bytes(content)
    with pytest.raises(UnreadablePlan, match=says):
        read_plan(path)


def test_the_version_is_capped_at_the_layout_that_is_known() -> None:
    """Another minor version may lay plans out in another way."""
    from packaging.requirements import Requirement

    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    (wanted,) = re.findall(r'"(tensorrt-rtx[^"]*)"', project)
    accepted = Requirement(wanted).specifier
    assert "1.7.1.116" in accepted
    assert "1.7.9" in accepted
    assert "1.8" not in accepted
    assert "2.0" not in accepted


def test_no_plan(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePlan, match="nothing there"):
        read_plan(tmp_path / "none.engine")
