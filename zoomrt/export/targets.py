"""Where an engine will run, and what that decides: backends, opset, precisions. One table.

Pure data: imported by the CLI for names and checks, so it must not need torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from zoomrt.errors import UsageError, unknown_name
from zoomrt.export.precisions import PRECISIONS, Precision
from zoomrt.runtime.backends import backends_for


@dataclass(frozen=True)
class Target:
    """One row of the table.

    name : what the user types.
    compute_capabilities : `SM89`-like names that the engine carries code for; empty where graphs ship, not engines.
    opset : ONNX opset of the exported graph. From 23 on attention is one `Attention` node; below it is the
        MatMul-Softmax-MatMul pattern, which TensorRT fuses just as well. From 21 on GroupNorm is one node, which saves
        16 % (SM75) to 18 % (SM89) of the memory traffic of `edge` against opset 18 (benchmarks/build_time.py).
        `cuda` stays at 18: ONNX Runtime takes a kernel that is registered for "6 and later" for the very version 6
        only, and on CUDA it has InstanceNormalization and ConvTranspose so, which opset 22 redefines
        (onnxruntime docs/OperatorKernels.md, issues 13781 and 26065); `Attention` nodes ran on the CPU as late as 1.24
        (issue 28025), which its session forbids.
    own_backends : that build for it, the default first; empty for every backend that runs on the CPU.
    own_kinds : of precisions, that the hardware and the compiler can do there; empty for whatever such backends do.
    why : the reason for whatever differs from the other rows.
    kernels : modules of `zoomrt.kernels` that are compiled for these GPUs (for `cuda`: for every SM that kernels are
        compiled for) and shipped, since the runtime launches them around the engine. `attention` runs in the
        middle of a graph, as a plugin of full TensorRT (see `engines.attention_plugin`).
    """

    name: str
    compute_capabilities: tuple[str, ...]
    opset: int
    why: str
    own_backends: tuple[str, ...] = ()
    own_kinds: tuple[str, ...] = ()
    kernels: tuple[str, ...] = ("tile_gather", "tile_blend")

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of those that may build for it, the default first."""
        return self.own_backends or tuple(backend.name for backend in backends_for("cpu"))

    @property
    def precisions(self) -> tuple[str, ...]:
        """Kinds of `precisions.Precision` that can be built for it."""
        able = self.own_kinds or {kind for backend in backends_for("cpu") for kind in backend.kinds}
        return tuple(dict.fromkeys(one.kind for one in PRECISIONS.records() if one.kind in able))


def _rtx(name: str, why: str, kinds: tuple[str, ...], compute_capabilities: tuple[str, ...] = ()) -> Target:
    """Engines by TensorRT-RTX, or by full TensorRT if `--backend` says so."""
    return Target(name, compute_capabilities or (name.upper(),), 23, why, ("tensorrt_rtx", "tensorrt"), kinds)


_GPU = ("fp32", "fp16", "int8")
_ADA = (*_GPU, "fp8")
_TURING = "RTX 20; TensorRT-RTX has no FP32 matrix product for Turing and does INT8 convolutions there in FP16"
_SINCE_AMPERE = (
    "one engine for every generation since Ampere; with Turing in it all would run Turing's kernels, "
    "a third more memory traffic for `edge`, and FP32 would not build"
)
_CUDA = "ONNX Runtime on any NVIDIA GPU, data-centre ones included; its 8-bit layers were not tried on CUDA"
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("cpu", (), 23, "the fastest backend for the CPU", kernels=()),
        _rtx("sm75", _TURING, ("fp16",)),
        _rtx("sm80", "A100", _GPU),
        _rtx("sm86", "RTX 30", _GPU),
        _rtx("sm89", "RTX 40, L4", _ADA),
        _rtx("sm120", "RTX 50", _ADA),
        _rtx("sm121", "DGX Spark", _ADA),
        _rtx("rtx", _SINCE_AMPERE, _GPU, ("SM80", "SM86", "SM89", "SM120", "SM121")),
        Target("cuda", (), 18, _CUDA, ("onnxruntime_cuda",), ("fp32", "fp16")),
    )
}


def target_named(name: str) -> Target:
    """The row of that name; UsageError with near names otherwise."""
    if name not in TARGETS:
        raise unknown_name("target", name, TARGETS)
    return TARGETS[name]


def check_precision(precision: Precision, target: Target) -> None:
    """UsageError, which tells hardware limits from unbuilt precisions, where the target cannot do it."""
    if precision.kind in target.precisions:
        return
    name, lowest = precision.name, precision.compute_capability
    what, seen = f"zoomrt does not build {name} for target {target.name}", name
    if too_old := [sm for sm in target.compute_capabilities if lowest is not None and int(sm[2:]) < lowest]:
        needed = f"compute capability {lowest} or newer for {name}"
        what, seen = f"the hardware of target {target.name} cannot run {name}", ", ".join(too_old)
    else:
        needed = precision.hint or f"one of {', '.join(target.precisions)} ({target.why})"
    remedy = f"Build with --precision {precision.instead or target.precisions[-1]} or for another target."
    raise UsageError(what, seen=seen, needed=needed, remedy=remedy)
