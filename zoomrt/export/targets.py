"""Where an engine will run, and what that decides: backend, opset, form of attention, precisions. One table.

Pure data: imported by the CLI for names and checks, so it must not need torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zoomrt.errors import UsageError, unknown_name

__all__ = [
    "COMPILERS",
    "CPU_RUNNERS",
    "EIGHT_BIT",
    "PRECISIONS",
    "TARGETS",
    "Target",
    "attention_form",
    "floating_point",
    "precision_named",
    "target_named",
]

# Every precision users know by name, with the lowest compute capability whose tensor cores do it (None: any target).
# zoomrt builds those that a target's row lists; the others are told apart as "the hardware cannot" or "not built yet".
# `int8-all` is offered wherever `int8` is, to show the damage.
PRECISIONS: dict[str, int | None] = {
    "fp32": None,
    "fp16": None,
    "bf16": None,
    "int8": None,
    "int8-all": None,
    "fp8": 89,
}

EIGHT_BIT = {"int8": "int8", "int8-all": "int8", "fp8": "fp8"}
"""Precisions with 8-bit layers -> number format of these; the rest of the network is in `floating_point`."""

CPU_RUNNERS = {"onnxruntime": ("fp32", "fp16", "int8"), "openvino": ("fp32", "bf16", "int8")}
"""Backends that run a CPU bundle's graphs -> precisions they do; of those installed, a build takes the fastest. BF16 is
OpenVINO's own arithmetic on an FP32 graph. FP16 is computed in FP32 on a CPU by either, so one is enough."""

COMPILERS = ("tensorrt_rtx", "tensorrt")
"""Backends that compile engines from graphs while a bundle is built; all others load the graphs as they are."""

LARGEST_FUSED_HEAD = 256
"""TensorRT and TensorRT-RTX fuse no attention with wider heads (measured on TensorRT-RTX 1.7.1, for every GPU)."""


@dataclass(frozen=True)
class Target:
    """One row of the table.

    name : what the user types.
    backend : `onnxruntime`, `onnxruntime_cuda` or `tensorrt_rtx` (full `tensorrt` is chosen by `--backend`, never by a
        target). The CPU has others besides, `CPU_RUNNERS`.
    compute_capabilities : `SM89`-like names that the engine carries code for; empty where graphs ship, not engines.
    opset : ONNX opset of the exported graph. From 23 on attention is one `Attention` node; below it is the
        MatMul-Softmax-MatMul pattern, which TensorRT fuses just as well. From 21 on GroupNorm is one node, which saves
        16 % (SM75) to 18 % (SM89) of the memory traffic of `edge` against opset 18 (benchmarks/build_time.py).
        `cuda` stays at 18: ONNX Runtime takes a kernel that is registered for "6 and later" for the very version 6
        only, and on CUDA it has InstanceNormalization and ConvTranspose so, which opset 22 redefines
        (onnxruntime docs/OperatorKernels.md, issues 13781 and 26065); `Attention` nodes ran on the CPU as late as 1.24
        (issue 28025), which its session forbids.
    precisions : what the hardware and the compiler can do there.
    why : the reason for whatever differs from the other rows.
    kernels : modules of `zoomrt.kernels` that are compiled for these GPUs (for `cuda`: for every SM that kernels are
        compiled for) and shipped, since the runtime launches them around the engine; `colour_match` for the
        one colour step that they do only. `attention` runs in the middle of a graph, as a plugin of full TensorRT
        (see `attention_form`).
    """

    name: str
    backend: str
    compute_capabilities: tuple[str, ...]
    opset: int
    precisions: tuple[str, ...]
    why: str
    kernels: tuple[str, ...] = ("tile_gather", "tile_blend", "colour_match")


_GPU = ("fp32", "fp16", "int8")
_ADA = (*_GPU, "fp8")
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("cpu", "onnxruntime", (), 23, ("fp32", "fp16", "bf16", "int8"), "ONNX Runtime or OpenVINO", ()),
        Target(
            "sm75",
            "tensorrt_rtx",
            ("SM75",),
            23,
            ("fp16",),
            "RTX 20; TensorRT-RTX has no FP32 matrix product for Turing and does INT8 convolutions there in FP16",
        ),
        Target("sm80", "tensorrt_rtx", ("SM80",), 23, _GPU, "A100"),
        Target("sm86", "tensorrt_rtx", ("SM86",), 23, _GPU, "RTX 30"),
        Target("sm89", "tensorrt_rtx", ("SM89",), 23, _ADA, "RTX 40, L4"),
        Target("sm120", "tensorrt_rtx", ("SM120",), 23, _ADA, "RTX 50"),
        Target("sm121", "tensorrt_rtx", ("SM121",), 23, _ADA, "DGX Spark"),
        Target(
            "rtx",
            "tensorrt_rtx",
            ("SM80", "SM86", "SM89", "SM120", "SM121"),
            23,
            _GPU,
            "one engine for every generation since Ampere; with Turing in it all would run Turing's kernels, "
            "a third more memory traffic for `edge`, and FP32 would not build",
        ),
        Target(
            "cuda",
            "onnxruntime_cuda",
            (),
            18,
            ("fp32", "fp16"),
            "ONNX Runtime on any NVIDIA GPU, data-centre ones included; its 8-bit layers were not tried on CUDA",
        ),
    )
}


def attention_form(backend: str, head_size: int, *, plugin: bool) -> Literal["fused", "plain", "plugin"]:
    """How an attention in FP16 is carried out: by the compiler's own fused kernel, in plain operators, or by ours.

    plugin : whether it was asked for. It is not the default: it saves the score matrix (1.07 GB at a tile of 1024 px)
        but little time (1.4 % of the operations), has not run on a GPU, and an engine with it is for one GPU only.
        TensorRT-RTX has no plugins.
    """
    if head_size <= LARGEST_FUSED_HEAD:
        return "fused"
    return "plugin" if plugin and backend == "tensorrt" else "plain"


def target_named(name: str) -> Target:
    """The row of that name; UsageError with near names otherwise."""
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]


def precision_named(name: str, target: Target) -> str:
    """The precision if the target can do it; UsageError that tells hardware limits from unbuilt ones otherwise."""
    if name not in PRECISIONS:
        raise unknown_name("precision", name, PRECISIONS)
    if name.removesuffix("-all") in target.precisions:
        return name
    lowest = PRECISIONS[name]
    too_old = [sm for sm in target.compute_capabilities if lowest is not None and int(sm[2:]) < lowest]
    if too_old:
        needed = f"compute capability {lowest} or newer for {name}"
        what, seen = f"the hardware of target {target.name} cannot run {name}", ", ".join(too_old)
    elif name == "bf16":
        needed = "target cpu, whose OpenVINO has it; fp16 rounds eight times finer"
        what, seen = f"zoomrt does not build bf16 for target {target.name}", name
    else:
        needed = "one of " + ", ".join(target.precisions) + f" ({target.why})"
        what, seen = f"zoomrt does not build {name} for target {target.name}", name
    instead = "fp16" if name == "bf16" else target.precisions[-1]
    remedy = f"Build with --precision {instead} or for another target."
    raise UsageError(what, seen=seen, needed=needed, remedy=remedy)


def floating_point(precision: str, backend: str) -> str:
    """`fp32` or `fp16`: the type of the graph's input, output and every value that is not in 8 bits."""
    if precision not in EIGHT_BIT:
        return "fp32" if precision == "bf16" else precision
    return "fp32" if backend in CPU_RUNNERS else "fp16"
