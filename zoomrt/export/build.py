"""A build from end to end: resolve the request, look into the cache, else assemble the bundle.

Needs neither torch nor onnx: they load only when something must really be built, so a cached build is instant.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from zoomrt.bundle import Bundle, Manifest, check_output, open_bundle
from zoomrt.errors import CheckpointError, MissingDependency
from zoomrt.export import cache
from zoomrt.export.request import BuildPlan, BuildRequest, Progress, resolve
from zoomrt.files import cache_path, sha256_of
from zoomrt.models.families import outside_code
from zoomrt.models.weights_format import format_of

_NOT_AS_THEY_ARE = ("weights", "options", "calibration", "timeout_s", "max_memory", "bisect")
"""Fields of a request that its key takes by content, or that cannot change the bundle."""


@dataclass(frozen=True)
class BuildResult:
    """The finished bundle; `cached` when it was copied instead of built."""

    bundle: Bundle
    cached: bool
    seconds: float

    @property
    def path(self) -> Path:
        return self.bundle.path

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest


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
    plan = resolve(request)
    key = _content_key(plan)
    kept = cache.fetch(key) if use_cache else None
    if kept is not None:
        report("cache", 0.0)
        cache.copy_bundle(kept, output)
    else:
        report("start", 0.0)
        _assemble(plan, key, output, report, cache_path("calibration") if use_cache else None)
    bundle = open_bundle(output, verify=False)
    if use_cache and kept is None:
        cache.keep(bundle)
    return BuildResult(bundle, kept is not None, time.monotonic() - started)


def _assemble(plan: BuildPlan, key: str, output: Path, report: Progress, measurements: Path | None) -> None:
    try:
        from zoomrt.export.assembly import assemble
    except ModuleNotFoundError as cause:
        raise MissingDependency(
            "cannot build without the export packages",
            seen=f"no module {cause.name}",
            needed="torch, onnx, onnxscript and safetensors",
            remedy="Run: pip install 'zoomrt[export]'",
        ) from cause
    assemble(plan, key, output, report, measurements)


def _silent(_stage: str, _fraction: float) -> None:
    """Progress for callers who did not ask for it."""


def _content_key(plan: BuildPlan) -> str:
    """Equal keys mean an identical build: the request, the weights' content, every version, the package's own code, and
    on a CPU the engines there are to choose from.

    Weights that ship inside the package are part of its code.

    Raises CheckpointError for a file that cannot be read or is of another kind, before it is hashed.
    """
    request = plan.request
    content: dict[str, object] = {
        name: repr(value) for name, value in asdict(request).items() if name not in _NOT_AS_THEY_ARE
    }
    if weights := request.weights:
        format_of(weights)
        content["weights"] = f"{weights.name} {sha256_of(weights, CheckpointError)}"
    content["precision"] = repr(plan.precision)  # another package's is not part of the code
    if plan.calibration is not None:
        content["calibration"] = plan.calibration.fingerprint
    if plan.cpu_engines:
        content["engines"] = [engine.name for engine in plan.cpu_engines]
    content |= {"options": request.options_by_content, "family_code": outside_code(plan.family)}
    return cache.content_key({**content, "versions": plan.versions})
