"""The bundle: a directory with a manifest, graphs and engines. The only thing that ships.

The contract between export, which writes it, and runtime, which reads it. Neither knows the other.
A bundle is written beside its final place and renamed into it, so a kill leaves the old bundle or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from zoomrt.errors import BundleError, StorageError
from zoomrt.kernel_file import KernelFile, check_kernels

__all__ = [
    "MANIFEST",
    "NO_COLOUR_STEP",
    "SCHEMA",
    "Bundle",
    "ColourFacts",
    "ColourMethod",
    "Evaluation",
    "FileEntry",
    "KernelFile",
    "Manifest",
    "NoiseFacts",
    "SamplingFacts",
    "TileFacts",
    "open_bundle",
    "sha256_of",
    "writing_bundle",
]

SCHEMA = 2
MANIFEST = "manifest.json"

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
    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-5
    """`adain`: added to both variances, of values in [0, 1], so that noise in a flat picture is not blown up."""


NO_COLOUR_STEP = ColourFacts()


class NoiseFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Start noise of a diffusion model: further channels of the graph's input, after the three of the picture."""

    channels: int
    seed: int
    """Of the one map, standard normal, that all tiles are cut from: `runtime/noise.py`."""


class TileFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the runtime must know to send one tile through the graph."""

    scale: int
    """Output pixels per input pixel, each axis."""
    height: int
    """Input tile height, LR pixels; the graph's shape is static."""
    width: int
    """Input tile width, LR pixels."""
    batches: tuple[int, ...]
    """Batch sizes for which `graphs` holds a graph, ascending, first is 1."""
    overlap: int
    """LR pixels that neighbouring tiles share."""
    context: int
    """LR pixels at an inner tile edge that are thrown away, because they saw the cut; 2*context < overlap."""
    value_range: tuple[float, float]
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


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network evaluation of a sampler. All samplers here are linear in what they know: the state x, a value h that
    is held beside it, the network's answer p, and fresh standard normal noise n."""

    timestep: float
    """What the network is told, as `runtime/sampling.py` writes it."""
    gain: float = 1.0
    """The network sees gain * x."""
    state: tuple[float, float, float, float]
    """The next x, in shares of x, h, p and n; noise is drawn where its share is not 0."""
    held: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The next h, in shares of x, h and p."""
    skippable: bool = False
    """Whether the policy decides if this evaluation counts."""


class SamplingFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the graphs of a multi-step model are joined: `encode` once per tile, `step` for each evaluation, `decode`
    once, `policy` for each evaluation that may be skipped. The last two may be absent. See
    `runtime/multi_step_session.py`.
    """

    channels: int
    """Of the state."""
    pixels: int
    """State pixels per LR pixel, each axis."""
    base: float
    """The first x is base * what the encoder calls `base`, plus noise * n; 0 where the encoder gives none."""
    noise: float
    evaluations: tuple[Evaluation, ...]
    """In the order in which they run."""
    decide: Literal["before", "after"] | None = None
    """When the policy decides: before the call, from x, which saves it; or after it, from x and its successor."""

    @property
    def draws(self) -> int:
        """How often noise is drawn: at the start, and in evaluations that want it."""
        return 1 + sum(one.state[3] != 0 for one in self.evaluations)

    @property
    def noise_channels(self) -> int:
        """Channels of `NoiseFacts` that hold all draws, a state pixel of one LR pixel per channel."""
        return self.draws * self.channels * self.pixels**2


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the bundle."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a bundle that a reader may want to know; plain JSON."""

    schema: int = SCHEMA
    family: str
    target: str
    backend: str
    precision: str
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
    steps: int = 1
    """Network evaluations per tile; fewer where a policy skips some."""
    seeds: dict[str, int] = {}
    weights: dict[str, Any] = {}
    """Where the weights came from: source, sha256, parameter count, licence."""
    parity: dict[str, Any] = {}
    """Graph against torch: worst difference and PSNR per probe, with the tolerance that was demanded."""
    numerics: dict[str, Any] = {}
    """FP16: largest values, streams rescaled, modules and nodes kept in FP32, storage emulation against FP32."""
    calibration: dict[str, Any] = {}
    """8-bit layers: tiles, method, share of the multiply-adds, ranges, what was kept and why, PSNR to FP32."""
    memory: dict[str, Any] = {}
    """What the build was expected to take, in bytes: weights, activations and workspace of each stage, and the peak."""
    speed: dict[str, Any] = {}
    """CPU: milliseconds per batch in each engine that was tried, which was chosen, and FP32 beside fewer bits."""
    engine_report: dict[str, Any] = {}
    """What was read back from the finished engines: target SMs, kernels, dtypes, fused attentions, static bytes."""
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
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class Bundle:
    """An opened, verified bundle: `path` and `manifest`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def file(self, name: str) -> Path:
        return self.path / name


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_bundle(path: str | os.PathLike[str], *, verify: bool = True) -> Bundle:
    """Read and verify a bundle.

    verify : also hash every file (about 1 GB/s); False checks presence and size only.

    Raises BundleError that names the file, the field and the way out.
    """
    root = Path(path)
    rebuild = "Build it again with trt-build, or copy it again from where it came."
    if not root.is_dir():
        seen = "a file" if root.exists() else "nothing there"
        needed = f"a directory with {MANIFEST}"
        raise BundleError(
            f"cannot open bundle {str(root)!r}", seen=seen, needed=needed, remedy="Build one with trt-build."
        )
    try:
        raw = (root / MANIFEST).read_bytes()
    except OSError as cause:
        needed = f"a readable {MANIFEST}"
        raise BundleError(
            f"cannot open bundle {str(root)!r}", seen=cause.strerror, needed=needed, remedy=rebuild
        ) from cause
    where = f"bundle {str(root)!r}: {MANIFEST}"
    _check_schema(raw, where)
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.MsgspecError as cause:
        raise BundleError(
            f"{where} is not valid", seen=cause, needed=f"the fields of schema {SCHEMA}", remedy=rebuild
        ) from cause
    if (expected := manifest.sealed().digest) != manifest.digest:
        seen, needed = f"field digest {manifest.digest[:12]!r}", f"{expected[:12]!r}: a field was edited"
        raise BundleError(f"{where} was changed after the build", seen=seen, needed=needed, remedy=rebuild)
    for name, entry in manifest.files.items():
        _check_file(root, name, entry, verify, rebuild)
    for key, kernel in manifest.kernels.items():
        if kernel.file not in manifest.files:
            seen, needed = f"kernel {key!r} in {kernel.file!r}", "one of its files"
            raise BundleError(f"{where} is not valid", seen=seen, needed=needed, remedy=rebuild)
    check_kernels(manifest.kernels, root, where=where, remedy=rebuild)
    return Bundle(root, manifest)


def _check_schema(raw: bytes, where: str) -> None:
    """The schema number is checked before the fields, so that a newer bundle says that it is newer."""
    try:
        schema = msgspec.json.decode(raw).get("schema")
    except (msgspec.MsgspecError, AttributeError) as cause:
        remedy = "Build it again with trt-build."
        raise BundleError(f"{where} is not a manifest", seen=cause, needed="a JSON object", remedy=remedy) from cause
    if schema != SCHEMA:
        remedy = "Build it again with this version of zoomrt, or use the version that built it."
        raise BundleError(
            f"{where} has another schema", seen=f"field schema = {schema!r}", needed=SCHEMA, remedy=remedy
        )


def _check_file(root: Path, name: str, entry: FileEntry, verify: bool, remedy: str) -> None:
    file = root / name
    what = f"bundle {str(root)!r}: file {name!r} does not match the manifest"
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(what, seen="a path that leaves the bundle", needed="a path inside it", remedy=remedy)
    if not file.is_file():
        raise BundleError(what, seen="nothing there", needed=f"{entry.bytes} bytes", remedy=remedy)
    if (size := file.stat().st_size) != entry.bytes:
        raise BundleError(what, seen=f"field bytes = {size}", needed=entry.bytes, remedy=remedy)
    if verify and (digest := sha256_of(file)) != entry.sha256:
        raise BundleError(what, seen=f"field sha256 = {digest[:12]}", needed=entry.sha256[:12], remedy=remedy)


@contextlib.contextmanager
def writing_bundle(path: str | os.PathLike[str]) -> Iterator[tuple[Path, list[Manifest]]]:
    """Write a bundle atomically: fill the scratch folder, append one manifest to the list, and leave the block.

        with writing_bundle(out) as (scratch, manifests):
            (scratch / "graph.onnx").write_bytes(...)
            manifests.append(Manifest(...))          # `files` and `digest` are filled in here

    On any exception the scratch folder is removed and an older bundle at `path` stays as it was.
    Raises StorageError when the place cannot be written.
    """
    final = Path(path)
    remedy = "Choose another output folder with -o, or make room and set its permissions."
    if final.exists() and not (final / MANIFEST).is_file() and (not final.is_dir() or any(final.iterdir())):
        needed = "a free name, an empty folder or an older bundle"
        raise StorageError(
            f"will not replace {str(final)!r}", seen="something that is not a bundle", needed=needed, remedy=remedy
        )
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final)
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.part-", dir=final.parent))
    except OSError as cause:
        raise _storage_error(final, cause, remedy) from cause
    manifests: list[Manifest] = []
    try:
        yield scratch, manifests
        (manifest,) = manifests
        names = sorted(f.relative_to(scratch).as_posix() for f in scratch.rglob("*") if f.is_file())
        files = {n: FileEntry(bytes=(scratch / n).stat().st_size, sha256=sha256_of(scratch / n)) for n in names}
        manifest = msgspec.structs.replace(manifest, files=files).sealed()
        (scratch / MANIFEST).write_bytes(manifest.to_json())
        for name in [*names, MANIFEST]:
            _flush(scratch / name)
        scratch.chmod(0o755)
        _move_into_place(scratch, final)
    except OSError as cause:
        raise _storage_error(final, cause, remedy) from cause
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _move_into_place(scratch: Path, final: Path) -> None:
    """Two renames where an older bundle stands; a kill between them leaves none under that name, never a half one."""
    if not final.exists():
        os.rename(scratch, final)
        return
    retired = Path(tempfile.mkdtemp(prefix=f".{final.name}.old-", dir=final.parent))
    os.rename(final, retired / "bundle")
    os.rename(scratch, final)
    shutil.rmtree(retired, ignore_errors=True)


def _sweep(final: Path) -> None:
    """Remove what killed builds of this bundle left behind, if it is older than a day (it may be in use before)."""
    for stale in [*final.parent.glob(f".{final.name}.part-*"), *final.parent.glob(f".{final.name}.old-*")]:
        with contextlib.suppress(OSError):
            newest = max(f.stat().st_mtime for f in [stale, *stale.rglob("*")])
            if newest < time.time() - 86400:
                shutil.rmtree(stale, ignore_errors=True)


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _storage_error(path: Path, cause: OSError, remedy: str) -> StorageError:
    return StorageError(
        f"cannot write bundle {str(path)!r}",
        seen=cause.strerror or cause,
        needed="a writable place with room",
        remedy=remedy,
    )
