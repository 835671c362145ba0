"""What is asked of a build. Pure data: it needs neither torch nor onnx."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from zoomrt.calibration.options import Calibration
from zoomrt.models.families import FAMILIES, options_of
from zoomrt.models.family import Family
from zoomrt.models.options import Values, fingerprint

__all__ = ["DEFAULT_MODEL", "BuildRequest", "Progress"]

DEFAULT_MODEL = "edge"
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
        one of `targets.CPU_RUNNERS` instead of the fastest that is installed.
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

    @cached_property
    def options_by_content(self) -> dict[str, str]:
        """The options as they count for the cache and stand in the manifest; files are read once."""
        return fingerprint(options_of(self.family), self.options)
