"""What a bundle says about itself: the typed manifest, the limits of its fields, and how they must fit together.

Whatever reads a manifest gets one that passed all of it: numbers of a size that a session can allocate for, and graphs,
engines and kernels that are among the bundle's own files. Part of the contract between export and runtime.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from zoomrt.bundle.kernel_file import KernelFile, record_problems
from zoomrt.bundle.records import (
    CalibrationRecord,
    EngineReport,
    Fp16Report,
    GraphParity,
    MemoryPlan,
    SpeedRecord,
    WeightFacts,
)
from zoomrt.errors import BundleError

SCHEMA = 3

_MOST_PIXELS = 1 << 31
"""Output pixels of the largest batch; 8 tiles of 1024 x 1024 at scale 4 are 2^27."""
_MOST_FILES = 10_000
_REBUILD = "Build it again with trt-build, or copy it again from where it came."

Side = Annotated[int, Meta(ge=1, le=16384)]
Margin = Annotated[int, Meta(ge=0, le=16384)]
Count = Annotated[int, Meta(ge=1, le=4096)]
Number = Annotated[float, Meta(ge=-1e9, le=1e9)]
Word = Annotated[str, Meta(min_length=1, max_length=100)]

ColourMethod = Literal["none", "adain", "wavelet"]


class ColourFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The colour step: how the whole finished picture gets the colours of its input back, as the model's authors do it.

    Always over the whole picture: over tiles it would make seams.
    """

    method: ColourMethod = "none"
    """`adain`: mean and standard deviation of each channel follow the reference's; `wavelet`: low frequencies do."""
    clamp: Literal["first", "last"] = "last"
    """Whether the network's values are cut to [0, 1] before the step, or only its result is."""
    reference: Literal["input", "pillow_bicubic", "torch_bicubic"] = "pillow_bicubic"
    """Whose colours: those of the input as it is, or of the input enlarged to the result's size, with Pillow's cubic
    (a = -0.5, cut to [0, 1], wider where it shrinks) or torch's (a = -0.75, not cut). `wavelet` enlarges `input` with
    torch's."""
    epsilon: Annotated[float, Meta(gt=0, le=1)] = 1e-5
    """`adain`: added to both variances, of values in [0, 1], so that noise in a flat picture is not blown up."""


NO_COLOUR_STEP = ColourFacts()


class NoiseFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start noise of a diffusion model: further channels of the graph's input, after the three of the picture."""

    channels: Count
    seed: Annotated[int, Meta(ge=0)]
    """Of the one map, standard normal, that all tiles are cut from: `runtime/tiles/noise.py`."""


class TileFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the runtime must know to send one tile through the graph."""

    scale: Annotated[int, Meta(ge=1, le=16)]
    """Output pixels per input pixel, each axis."""
    height: Side
    """Input tile height, LR pixels; the graph's shape is static."""
    width: Side
    """Input tile width, LR pixels."""
    batches: Annotated[tuple[Count, ...], Meta(max_length=64)]
    """Batch sizes for which `graphs` holds a graph, ascending, first is 1."""
    overlap: Margin
    """LR pixels that neighbouring tiles share."""
    context: Margin
    """LR pixels at an inner tile edge that are thrown away, because they saw the cut; 2*context < overlap."""
    value_range: tuple[Number, Number]
    """What black and white are for the graph, input and output alike."""
    dtype: Literal["float32", "float16"]
    """Element type of the graph's input and output, (N, 3, H, W), RGB; for the input see `noise`."""
    colour: ColourFacts = NO_COLOUR_STEP
    noise: NoiseFacts | None = None
    """Start noise that the graph's input holds besides the picture; None for a network without."""

    @property
    def channels(self) -> int:
        """Of the graph's input."""
        return 3 + (self.noise.channels if self.noise else 0)

    def shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the graph's input and output for that many tiles."""
        high, wide = self.height, self.width
        return (batch, self.channels, high, wide), (batch, 3, high * self.scale, wide * self.scale)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network evaluation of a sampler. All samplers here are linear in what they know: the sample x, a value h that
    is held beside it, the network's output p, and fresh standard normal noise n."""

    timestep: Number
    """Of the schedule; the network gets its embedding, `sampling.timestep_embedding`."""
    gain: Number = 1.0
    """The network sees gain * x."""
    prev_sample: tuple[Number, Number, Number, Number]
    """The next x, in shares of x, h, p and n; noise is drawn where its share is not 0."""
    held: tuple[Number, Number, Number] = (0.0, 0.0, 0.0)
    """The next h, in shares of x, h and p."""
    skippable: bool = False
    """Whether the policy decides if this evaluation counts."""


class SamplingFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the graphs of a multi-step model are joined: `encode` once per tile, `step` for each evaluation, `decode`
    once, `policy` for each evaluation that may be skipped. The last two may be absent. See
    `runtime/sessions/common/multi_step.py`.
    """

    channels: Count
    """Of the sample."""
    pixels: Annotated[int, Meta(ge=1, le=64)]
    """Sample pixels per LR pixel, each axis."""
    image_latents: Number
    """The first x is this times the encoder's `image_latents`, plus noise * n; 0 where the encoder gives none."""
    noise: Number
    evaluations: Annotated[tuple[Evaluation, ...], Meta(min_length=1, max_length=4096)]
    """In the order in which they run."""
    decide: Literal["before", "after"] | None = None
    """When the policy decides: before the call, from x, which saves it; or after it, from x and its successor."""

    @property
    def draws(self) -> int:
        """How often noise is drawn: at the start, and in evaluations that want it."""
        return 1 + sum(one.prev_sample[3] != 0 for one in self.evaluations)

    @property
    def noise_channels(self) -> int:
        """Channels of `NoiseFacts` that hold all draws, a sample pixel of one LR pixel per channel."""
        return self.draws * self.channels * self.pixels**2


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a bundle that a reader may want to know; plain JSON."""

    schema: int = SCHEMA
    family: Word
    target: Word
    backend: Word
    precision: Word
    arithmetic: Literal["fp32", "bf16"] = "fp32"
    """What a CPU runner computes in where the graph has FP32 values; BF16 in OpenVINO only. Engines for GPUs go by
    their graph."""
    tile: TileFacts
    graphs: dict[str, str]
    """Batch size (a string, as JSON has it) -> ONNX file. Kept beside an engine too: the engine was built from it.
    For multi-step models, part -> ONNX file."""
    sampling: SamplingFacts | None = None
    """Present for multi-step models only."""
    engines: dict[str, str] = {}
    """Batch size, or part -> compiled engine file; empty where the backend runs ONNX."""
    steps: Count = 1
    """Network evaluations per tile; fewer where a policy skips some."""
    seeds: dict[str, int] = {}
    weights: WeightFacts = WeightFacts()
    parity: dict[str, GraphParity] = {}
    """Keyed as `graphs`."""
    numerics: Fp16Report | None = None
    """Where the graph has FP16 values."""
    calibration: CalibrationRecord | None = None
    """Where it has 8-bit layers."""
    memory: MemoryPlan | None = None
    """What the build was expected to take."""
    speed: SpeedRecord | None = None
    """Where a CPU had engines to choose from, or fewer bits than FP32 to judge."""
    engine_report: dict[str, EngineReport] = {}
    """Keyed as `engines`."""
    kernels: dict[str, KernelFile] = {}
    """Configuration and SM, as in `tile_gather_rgb_fp16:sm89`, -> the compiled kernel that the runtime launches beside
    the engine."""
    built: list[str] = []
    """Steps that were carried out on the building machine."""
    ran: list[str] = []
    """Parts that were really executed there; an engine for another GPU is built, not run."""
    warnings: list[str] = []
    versions: dict[str, str] = {}
    key: str = ""
    """Content key of the request: equal keys mean an identical build."""
    files: dict[str, FileEntry] = {}
    digest: str = ""
    """SHA-256 of this manifest with an empty digest; tells an edited manifest."""

    def sealed(self) -> Manifest:
        """The same manifest with its digest filled in."""
        return msgspec.structs.replace(self, digest=self._digest())

    def _digest(self) -> str:
        bare = msgspec.structs.replace(self, digest="")
        return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()

    def to_json(self) -> bytes:
        """The content of its file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def sealed_json(manifest: Manifest, where: str) -> bytes:
    """The content of the file: nothing is written that could not be read. Raises BundleError."""
    as_read, digest = _decoded(manifest.to_json(), where)  # 1 becomes 1.0 where a field is a float
    raw = msgspec.structs.replace(as_read, digest=digest).to_json()
    parse_manifest(raw, where)
    return raw


def _decoded(raw: bytes, where: str) -> tuple[Manifest, str]:
    """A manifest and the digest that it should have."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
        return manifest, manifest.sealed().digest
    except (ValueError, RecursionError, OverflowError) as cause:  # msgspec's own errors are ValueErrors
        needed = f"the fields of schema {SCHEMA}"
        raise BundleError(f"{where} is not valid", seen=_short(cause), needed=needed, remedy=_REBUILD) from cause


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """A manifest from the content of its file. where : the bundle and the file, for messages.

    Raises BundleError for anything that is not the manifest that was written.
    """
    _check_schema(raw, where)
    manifest, expected = _decoded(raw, where)
    if expected != manifest.digest:
        seen, needed = f"field digest {manifest.digest[:12]!r}", f"{expected[:12]!r}: a field was edited"
        raise BundleError(f"{where} was changed after the build", seen=seen, needed=needed, remedy=_REBUILD)
    check_manifest(manifest, where)
    return manifest


class _Schema(msgspec.Struct):
    schema: Any = None


def _check_schema(raw: bytes, where: str) -> None:
    """The schema number is checked before the fields, so that a newer bundle says that it is newer."""
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
    except (ValueError, RecursionError) as cause:
        raise BundleError(
            f"{where} is not a manifest", seen=_short(cause), needed="a JSON object", remedy=_REBUILD
        ) from cause
    if schema is None:
        seen, needed = "no field schema", "the manifest that trt-build wrote"
        raise BundleError(f"{where} is not a manifest", seen=seen, needed=needed, remedy=_REBUILD)
    if schema != SCHEMA:
        remedy = "Build it again with this version of zoomrt, or use the version that built it."
        seen = f"field schema = {_short(repr(schema))}"
        raise BundleError(f"{where} has another schema", seen=seen, needed=SCHEMA, remedy=remedy)


def _short(cause: object) -> str:
    text = str(cause)
    return text if len(text) <= 200 else text[:200] + "..."


def check_manifest(manifest: Manifest, where: str) -> None:
    """BundleError that names the field unless the parts fit together and every file is one of the bundle's own."""
    files, sampling, noise = manifest.files, manifest.sampling, manifest.tile.noise
    check_tile(manifest.tile, where)
    _require(len(files) <= _MOST_FILES, where, "files", f"{len(files)} files", f"at most {_MOST_FILES}")
    for name in files:
        _require(_is_inside(name), where, "files", repr(name), "paths inside the bundle")
    wanted = {"encode", "step"} if sampling else {str(size) for size in manifest.tile.batches}
    parts = wanted | {"decode", "policy"} if sampling else wanted
    _require(wanted <= manifest.graphs.keys() <= parts, where, "graphs", sorted(manifest.graphs), sorted(wanted))
    _require(manifest.engines.keys() <= parts, where, "engines", sorted(manifest.engines), f"some of {sorted(parts)}")
    for part, name in manifest.graphs.items():
        known = name in files and name.endswith(".onnx")
        _require(known, where, f"graphs.{part}", repr(name), "one of files, in .onnx")
    for part, name in manifest.engines.items():
        _require(name in files, where, f"engines.{part}", repr(name), "one of files")
    for key, kernel in manifest.kernels.items():
        _require(kernel.file in files, where, f"kernels.{key}", repr(kernel.file), "one of files")
        for problem in record_problems(kernel):
            _require(False, where, f"kernels.{key}", problem, "a launch that can be carried out")
    if sampling is not None:
        channels, count = noise.channels if noise else 0, len(sampling.evaluations)
        _require(channels == sampling.noise_channels, where, "tile.noise", channels, sampling.noise_channels)
        _require(manifest.steps == count, where, "steps", manifest.steps, f"{count}, one for each evaluation")


def check_tile(tile: TileFacts, where: str = "tile") -> None:
    """BundleError that names the field unless frames can be planned with the tile."""
    sizes, (low, high), side = tile.batches, tile.value_range, min(tile.height, tile.width)
    ascending = sizes[:1] == (1,) and all(a < b for a, b in itertools.pairwise(sizes))
    _require(ascending, where, "tile.batches", sizes, "ascending, first is 1")
    pixels = sizes[-1] * tile.height * tile.width * tile.scale**2
    _require(pixels <= _MOST_PIXELS, where, "tile.batches", f"{pixels} output pixels", f"at most {_MOST_PIXELS}")
    _require(1 <= tile.overlap < side, where, "tile.overlap", tile.overlap, f"1 to {side - 1}, less than the tile")
    _require(2 * tile.context < tile.overlap, where, "tile.context", tile.context, "less than half the overlap")
    _require(low < high, where, "tile.value_range", tile.value_range, "black below white")


def _require(holds: bool, where: str, field: str, seen: object, needed: object) -> None:
    if not holds:
        what = f"{where}: field {_short(field)} makes no sense"
        raise BundleError(what, seen=_short(seen), needed=_short(needed), remedy=_REBUILD)


def _is_inside(name: str) -> bool:
    """Whether it is a plain relative path, the same on every system: no `..`, no drive, no control characters."""
    parts = name.split("/")
    plain = name.isprintable() and not set(name) & set("\\:") and len(name) <= 1000
    return plain and all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
