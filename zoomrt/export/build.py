"""A build from end to end: check the request, look into the cache, else assemble the bundle.

Needs neither torch nor onnx: they load only when something must really be built, so a cached build is instant.
"""

from __future__ import annotations

import contextlib
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from zoomrt.bundle import Manifest, check_output, open_bundle
from zoomrt.calibration.options import Calibration
from zoomrt.errors import CheckpointError, MissingDependency, UsageError
from zoomrt.export import cache
from zoomrt.export.precisions import PRECISIONS, Precision
from zoomrt.export.request import BuildRequest, Progress
from zoomrt.export.targets import Target, check_precision, target_named
from zoomrt.files import cache_path, sha256_of
from zoomrt.models.families import check as check_options
from zoomrt.models.families import outside_code
from zoomrt.models.weights_format import format_of
from zoomrt.runtime.backends import BACKENDS, Backend, backends_for
from zoomrt.runtime.tiles.colour import check_method

if TYPE_CHECKING:
    from zoomrt.export.engines.cpu import CpuEngine

__all__ = ["BuildResult", "build"]

_PACKAGES = (
    "zoomrt",
    "numpy",
    "pillow",
    "torch",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "safetensors",
)
"""What has a part in every build."""
_NOT_AS_THEY_ARE = ("weights", "options", "calibration", "timeout_s", "max_memory", "bisect")
"""Fields of a request that its key takes by content, or that cannot change the bundle."""


@dataclass(frozen=True)
class BuildResult:
    """The bundle's place and manifest; `cached` when it was copied instead of built."""

    path: Path
    manifest: Manifest
    cached: bool
    seconds: float


def build(
    request: BuildRequest, output: Path, *, use_cache: bool = True, on_progress: Progress | None = None
) -> BuildResult:
    """Build a bundle into `output`, atomically; an older bundle there is replaced only by a whole new one.

    on_progress : called with (stage, fraction done of that stage).

    Raises any ZoomrtError but the runtime's; nothing is left behind then.
    """
    started = time.monotonic()
    report = on_progress or _silent
    check_output(output)
    target = target_named(request.target)
    precision = PRECISIONS.named(request.precision)
    check_precision(precision, target)
    check_options(request.family, request.options)
    if request.colour is not None:
        check_method(request.colour)
    _check_calibration(request, precision)
    backend = _backend(request, target, precision)
    _check_require_faster(request, precision, BACKENDS.named(backend))
    _check_attention_plugin(request, target, BACKENDS.named(backend))
    versions = _versions(request, precision, BACKENDS.named(backend))
    key = _content_key(request, precision, BACKENDS.named(backend), versions)
    if use_cache and (kept := cache.fetch(key)) is not None:
        report("cache", 0.0)
        cache.copy_bundle(kept, output)
        return BuildResult(output, kept.manifest, True, time.monotonic() - started)
    report("start", 0.0)
    try:
        from zoomrt.export.assembly import assemble
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "cannot build without the export packages",
            seen=f"no module {cause.name}",
            needed="torch, onnx, onnxscript and safetensors",
            remedy="Run: pip install 'zoomrt[export]'",
        ) from cause
    measurements = cache_path("calibration") if use_cache else None
    assemble(request, target, backend, versions, key, output, report, measurements)
    bundle = open_bundle(output, verify=False)
    if use_cache:
        cache.keep(bundle)
    return BuildResult(output, bundle.manifest, False, time.monotonic() - started)


def _silent(_stage: str, _fraction: float) -> None:
    """Progress for callers who did not ask for it."""


def _content_key(request: BuildRequest, precision: Precision, backend: Backend, versions: dict[str, str]) -> str:
    """Equal keys mean an identical build: the request, the weights' content, every version, the package's own code, and
    on a CPU the engines there are to choose from.

    Weights that ship inside the package are part of its code.

    Raises CheckpointError for a file that cannot be read or is of another kind, before it is hashed.
    """
    content: dict[str, object] = {
        name: repr(value) for name, value in asdict(request).items() if name not in _NOT_AS_THEY_ARE
    }
    if weights := request.weights:
        format_of(weights)
        content["weights"] = f"{weights.name} {sha256_of(weights, CheckpointError)}"
    content["precision"] = repr(precision)  # another package's is not part of the code
    if precision.eight_bit:
        content["calibration"] = (request.calibration or Calibration()).fingerprint
    if backend.device == "cpu":
        content["engines"] = [engine.name for engine in _cpu_engines(request, precision)]
    return cache.content_key(
        {
            **content,
            "options": request.options_by_content,
            "family_code": outside_code(request.family),
            "versions": versions,
        }
    )


def _check_calibration(request: BuildRequest, precision: Precision) -> None:
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


def _check_require_faster(request: BuildRequest, precision: Precision, backend: Backend) -> None:
    if not request.require_faster:
        return
    if backend.device != "cpu":
        raise UsageError(
            "--require-faster cannot be answered for this target",
            seen=f"target {request.target}: its engine is built here and cannot be timed without its GPU and a runtime",
            needed="target cpu",
            remedy="Leave --require-faster out; the manifest compares kernels and bytes per run with FP16.",
        )
    if not precision.narrow:
        raise UsageError(
            f"--require-faster says nothing about {request.precision}",
            seen=request.precision,
            needed=f"one of {', '.join(one.name for one in PRECISIONS.records() if one.narrow)}: "
            "FP32 is what they are measured against",
            remedy="Leave --require-faster out.",
        )


def _check_attention_plugin(request: BuildRequest, target: Target, backend: Backend) -> None:
    if not request.attention_plugin:
        return
    if not backend.plugins or len(target.compute_capabilities) != 1 or request.precision == "fp32":
        raise UsageError(
            "attention cannot be a plugin in that build",
            seen=f"backend {backend.name}, target {target.name}, precision {request.precision}",
            needed="backend tensorrt (TensorRT-RTX has no plugins), a target with one GPU, and FP16",
            remedy="Leave --attention-plugin out: plain operators do the same.",
        )


def _backend(request: BuildRequest, target: Target, precision: Precision) -> str:
    if request.backend not in (None, *target.backends):
        raise UsageError(
            f"target {target.name} cannot be built with that backend",
            seen=repr(request.backend),
            needed=" or ".join(target.backends),
            remedy="Leave --backend out to use the target's own.",
        )
    backend = request.backend or target.backends[0]
    on_cpu = BACKENDS.named(backend).device == "cpu"
    return _cpu_engines(request, precision)[0].backend if on_cpu else backend


def _cpu_engines(request: BuildRequest, precision: Precision) -> tuple[CpuEngine, ...]:
    from zoomrt.export.engines.cpu import cpu_engines

    return cpu_engines(precision, request.backend)


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
