"""What is asked of a build, and the complete plan that becomes of it before any work. Needs neither torch nor onnx.

All that can contradict is found here: by `resolve` what the request alone tells, by `tile_facts` and `check_steps`
what the checkpoint has to be read for. Errors name command-line options; `zoomrt.build` turns these into its keywords.
"""

from __future__ import annotations

import contextlib
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import msgspec

from zoomrt.bundle import ColourMethod, TileFacts
from zoomrt.calibration.options import Calibration
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export.precisions import PRECISIONS, Precision
from zoomrt.export.targets import Target, check_precision, target_named
from zoomrt.models.families import FAMILIES, options_of
from zoomrt.models.families import check as check_options
from zoomrt.models.family import Family
from zoomrt.models.options import Values, fingerprint
from zoomrt.runtime.backends import BACKENDS, Backend, backends_for

if TYPE_CHECKING:
    from zoomrt.export.engines.cpu import CpuEngine

DEFAULT_MODEL = "edge"
_PACKAGES = ("zoomrt", "numpy", "pillow", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "safetensors")
"""What has a part in every build."""
Progress = Callable[[str, float], None]
"""Called with (stage, fraction done of that stage)."""


@dataclass(frozen=True)
class BuildRequest:
    """What to build. None means the family's or target's default.

    model : family name; None with weights given lets their keys decide, None without weights is `edge`.
    weights : checkpoint file; None for the weights inside the package.
    tile, overlap : LR pixels.
    batches : tile counts per engine call, ascending from 1; one graph (and engine) each.
    backend : `tensorrt` builds with full TensorRT for the GPU present instead of the target's TensorRT-RTX; on the CPU
        one of those for it instead of the fastest that is installed.
    timeout_s : limit for one engine build, seconds.
    max_memory : bytes; a build that is expected to take more is refused before it starts.
    options : what the family takes besides the checkpoint, by `models.options.Option.key`.
    colour : another method for the colour step than the family's, see `bundle.ColourFacts`.
    bisect : where the graph does not do what torch does, name the first node that differs.
    calibration : for precisions with 8-bit layers only.
    require_faster : refuse a bundle with fewer bits that was measured no faster than FP32; target cpu only.
    attention_plugin : attentions that TensorRT does not fuse by our kernel; backend tensorrt only.
    """

    model: str | None = None
    weights: Path | None = None
    precision: str = "fp32"
    target: str = "cpu"
    tile: int | None = None
    overlap: int | None = None
    batches: tuple[int, ...] = (1,)
    backend: str | None = None
    timeout_s: float = 1800.0
    max_memory: int | None = None
    options: Values = field(default_factory=dict)
    colour: str | None = None
    bisect: bool = False
    calibration: Calibration | None = None
    require_faster: bool = False
    attention_plugin: bool = False

    @property
    def family(self) -> Family | None:
        """None where the weights' keys are to tell it. UsageError for a name that is none's."""
        name = self.model if self.model is not None or self.weights is not None else DEFAULT_MODEL
        return None if name is None else FAMILIES.named(name)

    @property
    def default_output(self) -> Path:
        """Where the bundle goes if nothing else is said."""
        name = self.model or (self.weights.stem if self.weights else DEFAULT_MODEL)
        return Path(f"{name}-{self.precision}-{self.target}")

    @cached_property
    def options_by_content(self) -> dict[str, str]:
        """The options as they count for the cache and stand in the manifest; files are read once."""
        return fingerprint(options_of(self.family), self.options)


@dataclass(frozen=True)
class BuildPlan:
    """A request that can be met, as far as that is known without the checkpoint; every default is gone.

    family : None where the keys of the weights are to tell.
    weights : the checkpoint, which may be inside the package.
    backend : what compiles the engines or runs the graphs; on a CPU that of the first of `cpu_engines`.
    cpu_engines : those that are tried; empty for other targets.
    calibration : for precisions with 8-bit layers, else None.
    versions : of everything that has a part in the bundle.
    """

    request: BuildRequest
    family: Family | None
    weights: Path
    target: Target
    precision: Precision
    backend: Backend
    cpu_engines: tuple[CpuEngine, ...]
    calibration: Calibration | None
    versions: dict[str, str]

    @property
    def storage(self) -> Literal["fp32", "fp16"]:
        """Type of the graph's input, output and every value that is not in 8 bits."""
        return self.precision.storage_on(self.backend.device)

    @property
    def half(self) -> bool:
        """Whether that is FP16."""
        return self.storage == "fp16"


def resolve(request: BuildRequest) -> BuildPlan:
    """The plan of a request.

    Raises UsageError for what contradicts or is unknown, CheckpointError for weights that are not given and for an
    option's path where nothing is, MissingDependency for a CPU without an engine.
    """
    target, precision = target_named(request.target), PRECISIONS.named(request.precision)
    check_precision(precision, target)
    check_options(request.family, request.options)
    if request.colour is not None:
        from zoomrt.runtime.tiles.colour import check_method

        check_method(request.colour)
    _check_numbers(request)
    _check_batches(request.batches)
    if request.tile is not None and request.overlap is not None:
        _check_overlap(request.overlap, request.tile)
    _check_eight_bit(request, precision)
    backend, engines = _backend(request, target, precision)
    plan = BuildPlan(
        request=request,
        family=request.family,
        weights=request.weights or _shipped_weights(request.family),
        target=target,
        precision=precision,
        backend=backend,
        cpu_engines=engines,
        calibration=(request.calibration or Calibration()) if precision.eight_bit else None,
        versions=_versions(request, precision, backend),
    )
    _check_require_faster(plan)
    _check_attention_plugin(plan)
    if plan.family is not None:
        check_steps(plan, plan.family)
    return plan


def _shipped_weights(family: Family | None) -> Path:
    assert family is not None  # known wherever no weights are given
    if family.embedded_weights is None:
        raise CheckpointError(
            f"model {family.name} has no weights inside the package",
            seen="no --weights",
            needed="the file its authors publish",
            remedy=f"Download it and pass --weights FILE; docs/models/{family.name}.md says from where.",
        )
    return family.embedded_weights


def _backend(request: BuildRequest, target: Target, precision: Precision) -> tuple[Backend, tuple[CpuEngine, ...]]:
    backend = BACKENDS.named(request.backend or target.backends[0])
    if backend.name not in target.backends:
        raise UsageError(
            f"target {target.name} cannot be built with that backend",
            seen=repr(request.backend),
            needed=" or ".join(target.backends),
            remedy="Leave --backend out to use the target's own.",
        )
    if backend.device != "cpu":
        return backend, ()
    from zoomrt.export.engines.cpu import cpu_engines

    engines = cpu_engines(precision, request.backend)
    return BACKENDS.named(engines[0].backend), engines


def _check_numbers(request: BuildRequest) -> None:
    """What the command line has checked already, for callers from Python."""
    whole = [("--tile", request.tile), ("--overlap", request.overlap), ("--max-memory", request.max_memory)]
    for flag, value in [*whole, *(("--batch", size) for size in request.batches)]:
        if value is not None and (not isinstance(value, int) or value < 0):
            raise UsageError(f"cannot use {flag}", seen=repr(value), needed="a whole number", remedy=f"Change {flag}.")
    if not (isinstance(request.timeout_s, (int, float)) and 0 < request.timeout_s < math.inf):
        seen = f"{request.timeout_s} s"
        raise UsageError("cannot use --timeout", seen=seen, needed="minutes, above 0", remedy="Change --timeout.")


def _check_batches(batches: tuple[int, ...]) -> None:
    if not batches or batches[0] != 1 or list(batches) != sorted(set(batches)):
        raise UsageError(
            "the batch sizes are not usable",
            seen=",".join(map(str, batches)) or "none",
            needed="ascending sizes that start with 1",
            remedy="Use --batch 1 or, for example, --batch 1,4.",
        )


def _check_overlap(overlap: int, side: int) -> None:
    if not 1 <= overlap <= side // 2:
        raise UsageError(
            "the overlap does not fit the tile",
            seen=f"{overlap} LR pixels with tile {side}",
            needed=f"1 to {side // 2}",
            remedy="Use a smaller --overlap or a larger --tile.",
        )


def _check_eight_bit(request: BuildRequest, precision: Precision) -> None:
    if request.calibration is not None:
        request.calibration.check()
        if not precision.eight_bit:
            raise UsageError(
                f"a build in {request.precision} needs no calibration",
                seen="calibration options",
                needed=f"a precision of {', '.join(one.name for one in PRECISIONS.records() if one.eight_bit)}",
                remedy="Leave them out, or --precision int8.",
            )
    if request.bisect and precision.eight_bit:
        raise UsageError(
            "a graph with 8-bit layers cannot be bisected",
            seen=f"--bisect with precision {request.precision}",
            needed="fp32 or fp16: two runs of one 8-bit network differ by more than a fault does",
            remedy="Bisect the same model with --precision fp32.",
        )


def _check_require_faster(plan: BuildPlan) -> None:
    if not plan.request.require_faster:
        return
    if not plan.cpu_engines:
        raise UsageError(
            "--require-faster cannot be answered for this target",
            seen=f"target {plan.target.name}: its engine is built, and cannot be timed without its GPU and a runtime",
            needed="target cpu",
            remedy="Leave --require-faster out; the manifest compares kernels and bytes per run with FP16.",
        )
    if not plan.precision.narrow:
        raise UsageError(
            f"--require-faster says nothing about {plan.precision.name}",
            seen=plan.precision.name,
            needed=f"one of {', '.join(one.name for one in PRECISIONS.records() if one.narrow)}: "
            "FP32 is what they are measured against",
            remedy="Leave --require-faster out.",
        )


def _check_attention_plugin(plan: BuildPlan) -> None:
    one_gpu = len(plan.target.compute_capabilities) == 1
    possible = plan.backend.plugins and one_gpu and plan.precision.name != "fp32"
    if plan.request.attention_plugin and not possible:
        raise UsageError(
            "attention cannot be a plugin in that build",
            seen=f"backend {plan.backend.name}, target {plan.target.name}, precision {plan.precision.name}",
            needed="backend tensorrt (TensorRT-RTX has no plugins), a target with one GPU, and FP16",
            remedy="Leave --attention-plugin out: plain operators do the same.",
        )


def _versions(request: BuildRequest, precision: Precision, backend: Backend) -> dict[str, str]:
    """Of everything that has a part in the bundle."""
    on_cpu = backend.device == "cpu"
    packages = [*_PACKAGES, *([one.package for one in backends_for("cpu")] if on_cpu else ["triton", backend.package])]
    if precision.eight_bit:
        packages.append("matplotlib")  # draws calibration.png
    if request.options:
        packages += ["diffusers", "transformers", "tokenizers"]
    return {"python": platform.python_version(), **{package: _version(package) for package in packages}}


def _version(package: str) -> str:
    for name in (package, f"{package}-gpu"):  # ONNX Runtime with CUDA is a package of its own
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
    return "not installed"


def check_steps(plan: BuildPlan, facts: Family) -> None:
    """UsageError if a model of several steps is asked for what only models of one graph have."""
    if facts.steps == 1:
        return
    backend, request = plan.backend, plan.request
    if plan.target.name != "cpu" and not backend.several_graphs:
        raise UsageError(
            f"model {facts.name} takes several steps and cannot be built for target {plan.target.name}",
            seen="several graphs for each tile",
            needed=f"one graph: the session for {backend.title} takes no more",
            remedy="Build it with --target cpu.",
        )
    refused = {
        f"--precision {plan.precision.name}": plan.precision.narrow,
        f"--backend {backend.name}": not backend.several_graphs,
        "--bisect": request.bisect,
        f"--batch {','.join(map(str, request.batches))}": request.batches != (1,),
    }
    for option, given in refused.items():
        if given:
            raise UsageError(
                f"model {facts.name} takes several steps and cannot be built like that",
                seen=option,
                needed="--precision fp32 or fp16, one tile at a time",
                remedy=f"Leave {option.split()[0]} out.",
            )


def tile_facts(plan: BuildPlan, facts: Family) -> TileFacts:
    """How the runtime will cut a frame. Raises UsageError for a tile that the network does not take."""
    request, tiling = plan.request, facts.tiling
    side = request.tile if request.tile is not None else tiling.tile
    facts.size.check(side)
    overlap = request.overlap if request.overlap is not None else min(tiling.overlap, side // 2)
    _check_overlap(overlap, side)
    colour = facts.colour
    if request.colour is not None:
        colour = msgspec.structs.replace(colour, method=cast("ColourMethod", request.colour))
    return TileFacts(
        scale=facts.scale,
        height=side,
        width=side,
        batches=request.batches,
        overlap=overlap,
        context=min(tiling.context, (overlap - 1) // 2),
        value_range=facts.value_range,
        dtype="float16" if plan.half else "float32",
        colour=colour,
        noise=facts.noise,
    )
