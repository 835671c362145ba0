"""The parts of benchmarks/gpu.py about whole networks: the scheduler's timeline, and every backend beside torch.

An image in the GPU's memory becomes an image in the GPU's memory, by backends that take turns; then a frame of 512x512
becomes 2048x2048 by tiles, from host to host. Random weights: the figures are about speed, and pictures mean nothing.
OSEDiff where diffusers is installed, else SwinIR at true size, and each row says which. Not yet run on a GPU.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._gpu_run import Row, Run
from zoomrt.bench.statistics import latency_of, ratio_of
from zoomrt.bench.timing import Rule, time_alone
from zoomrt.runtime.tiles.psnr import psnr_db

Launch = Callable[[], None]
Moments = dict[tuple[str, int, str], float]

ROUNDS = 30
_SIDE = 128


# --- what needs no GPU --------------------------------------------------------------------------------------------


def in_turns(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round; whoever begins a round comes last in the next."""
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(runs[name]())
    return taken


def rows_of(taken: Mapping[str, Sequence[float]], pictures: Mapping[str, Any], base: str) -> list[Row]:
    """Median, its 95 % interval, the ratio to `base` round by round, and PSNR to its picture. Fastest first.

    pictures : float arrays in [-1, 1].
    """
    rows: list[Row] = []
    for name, seconds in taken.items():
        latency, ratio = latency_of(seconds), ratio_of(seconds, taken[base])
        rows.append(
            {
                "backend": name,
                "median_ms": latency.p50_ms,
                "interval_ms": f"{latency.interval_ms[0]:.4g} to {latency.interval_ms[1]:.4g}",
                "n": latency.n,
                f"over {base}": ratio.median,
                f"PSNR to {base}": psnr_db(pictures[base], pictures[name], 2.0),
            }
        )
    return sorted(rows, key=lambda row: row["median_ms"])


def hidden_share(moments: Moments) -> float:
    """Of the time that copies took, the share during which the compute stream was at work; 0 to 1.

    moments : (stream, number, "begin" or "end") -> seconds, streams as in `scheduler_timeline.STREAMS`.
    """
    spans = {key[:2]: (at, moments[(*key[:2], "end")]) for key, at in moments.items() if key[2] == "begin"}
    working = [span for (stream, _), span in spans.items() if stream == "compute"]
    copies = [span for (stream, _), span in spans.items() if stream != "compute"]
    hidden = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in itertools.product(copies, working))
    total = sum(end - begin for begin, end in copies)
    return hidden / total if total else 0.0


# --- the scheduler's timeline -------------------------------------------------------------------------------------


def part_timeline(run: Run) -> list[Row]:
    """Copies beside computing, by CUDA events around each piece of work; timeline.png."""
    import torch

    from benchmarks.scheduler_timeline import draw
    from zoomrt.runtime.gpu.cuda_device import CudaDevice, CudaStream
    from zoomrt.runtime.gpu.device import Buffer, Stream
    from zoomrt.runtime.gpu.scheduler import Pipeline
    from zoomrt.runtime.session import batches_of

    a = torch.randn(6144, 6144, dtype=torch.float16, device="cuda")
    product = torch.empty_like(a)
    torch.matmul(a, a, out=product)
    torch.cuda.synchronize()
    marks: list[tuple[str, Any, Any]] = []

    def timed(name: str, stream: Stream, work: Callable[[], object]) -> None:
        outside = torch.cuda.ExternalStream(stream.handle)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(outside)
        work()
        end.record(outside)
        marks.append((name, begin, end))

    class TimedStream(CudaStream):
        name = ""

        def copy(self, target: Buffer, source: Buffer) -> None:
            timed(self.name, self, lambda: super(TimedStream, self).copy(target, source))

    class TimedDevice(CudaDevice):
        def stream(self, name: str) -> CudaStream:
            stream = TimedStream(super().stream(name).core)
            stream.name = name
            return stream

    class Products:
        def prepare(self, _source: Buffer, _target: Buffer) -> Callable[[Stream], None]:
            def launch(stream: Stream) -> None:
                with torch.cuda.stream(torch.cuda.ExternalStream(stream.handle)):
                    timed("compute", stream, lambda: torch.matmul(a, a, out=product))

            return launch

        def close(self) -> None:
            """Nothing is held."""

    drawn, rows = {}, []
    for slots in (1, 2):
        pipeline = Pipeline(TimedDevice(), slots)
        pipeline.add(1, Products(), ((1, 3, 2048, 2048), (1, 3, 2048, 2048)), "float16")
        for _ in range(2):  # the second is kept
            marks.clear()
            for _, land in pipeline.run(batches_of(range(8), (1,)), lambda _items, _array: None):
                land()
        torch.cuda.synchronize()
        origin, counts = marks[0][1], dict[str, int]()
        moments: Moments = {}
        for name, begin, end in marks:
            number = counts[name] = counts.get(name, -1) + 1
            moments[name, number, "begin"] = origin.elapsed_time(begin) * 1e-3
            moments[name, number, "end"] = origin.elapsed_time(end) * 1e-3
        pipeline.close()
        drawn[slots] = (max(moments.values()), moments)
        rows.append({"slots": slots, "ms": drawn[slots][0] * 1e3, "copies hidden": hidden_share(moments)})
    run.out.mkdir(parents=True, exist_ok=True)
    draw(drawn, run.out / "timeline.png", f"CUDA events on {torch.cuda.get_device_name()}; the number is the batch")
    return rows


# --- a network by every backend -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Subject:
    """What is compared: a request for its bundles, and where they are."""

    name: str
    folder: Path
    options: dict[str, Any]

    def network(self) -> Any:
        """FP32, on the CPU."""

        from zoomrt.models.checkpoint import load_checkpoint
        from zoomrt.models.families import FAMILIES

        family, options = FAMILIES.named(self.options["model"]), self.options.get("options", {})
        return family.network(load_checkpoint(self.options["weights"]), options).eval()

    @lru_cache  # noqa: B019 - one subject, for as long as the process lives
    def bundle(self, target: str) -> Path:
        """Built on first use."""
        from zoomrt.export.build import build
        from zoomrt.export.request import BuildRequest

        request = BuildRequest(precision="fp16", target=target, tile=_SIDE, **self.options)
        return build(request, self.folder / target, use_cache=False).path


@lru_cache
def _subject() -> _Subject:
    """OSEDiff of the published layout, or what needs no diffusers. The folder stays until the process ends."""
    held = tempfile.TemporaryDirectory(prefix="zoomrt-gpu-")
    _KEPT.append(held)
    folder = Path(held.name)
    if importlib.util.find_spec("diffusers") is None:
        from benchmarks._random_files import swinir_file

        weights = swinir_file(folder, true_size=True)
        return _Subject("swinir (no diffusers here)", folder, {"model": "swinir", "weights": weights})
    import torch

    sys.path.append(str(Path(__file__).parent.parent / "tests" / "export"))
    from published_files import TRUE, osediff_layout, random_state, unet_shapes, vae_shapes, write_base

    torch.save(osediff_layout(TRUE).content(), folder / "osediff.pkl")
    torch.save(torch.randn(1, 77, TRUE.text_width), folder / "prompt.pt")
    states = {"unet": random_state(unet_shapes(TRUE)), "vae": random_state(vae_shapes(TRUE))}
    options = {"base": write_base(folder / "base", TRUE, **states), "prompt_embedding": folder / "prompt.pt"}
    return _Subject("osediff", folder, {"model": "osediff", "weights": folder / "osediff.pkl", "options": options})


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


@dataclass(frozen=True)
class _OnGpu:
    """A tensor of torch as the runtime sees memory."""

    tensor: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def address(self) -> int:
        return int(self.tensor.data_ptr())

    def close(self) -> None:
        """It is torch's."""


def _by_session(session: Any, source: Any, target: Any) -> tuple[Launch, Any]:
    """One run of a session's engine on torch's memory, and the stream it goes to."""
    import torch

    torch.cuda.synchronize()
    stream = session._pipeline.compute
    launch = session.engines[1].prepare(_OnGpu(source), _OnGpu(target))
    return lambda: launch(stream), torch.cuda.ExternalStream(stream.handle)


def _clock(launch: Launch, stream: Any) -> Callable[[], float]:
    """Seconds of one run, by CUDA events on its stream, after three to warm up."""
    import torch

    def once() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(stream):
            begin.record(stream)
            launch()
            end.record(stream)
        stream.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3

    for _ in range(3):
        once()
    return once


def _sessions(subject: _Subject) -> dict[str, Callable[[], Any]]:
    """Backend -> what opens its session. TensorRT-RTX has targets for some GPUs only: another part tries the rest."""
    from zoomrt.bundle import open_bundle
    from zoomrt.export.targets import TARGETS
    from zoomrt.runtime.gpu.cuda_device import CudaDevice
    from zoomrt.runtime.sessions.onnxruntime_cuda import onnxruntime_cuda_session
    from zoomrt.runtime.sessions.tensorrt import tensorrt_session

    def onnxruntime() -> Any:
        return onnxruntime_cuda_session(open_bundle(subject.bundle("cuda")), CudaDevice())

    def tensorrt_rtx() -> Any:
        device = CudaDevice()
        if f"sm{device.sm}" not in TARGETS:
            raise RuntimeError(f"no target of TensorRT-RTX is for SM{device.sm}; see the part rtx-unset")
        return tensorrt_session(open_bundle(subject.bundle(f"sm{device.sm}")), device)

    return {"onnxruntime_cuda": onnxruntime, "tensorrt_rtx": tensorrt_rtx}


def part_end_to_end(_run: Run) -> list[Row]:
    """One tile of 128x128 to 512x512 in FP16, in turns. Goal: 10 ms on an H200; the floor there is 4.5 ms."""
    import torch

    subject = _subject()
    network = subject.network().half().cuda()
    source = (torch.rand(1, 3, _SIDE, _SIDE, device="cuda") * 2 - 1).half()
    clocks: dict[str, Callable[[], float]] = {}
    outputs: dict[str, Any] = {}
    refused: list[Row] = []
    open_sessions: list[Any] = []

    def offer(name: str, ready: Callable[[], tuple[Launch, Any, Any]]) -> None:
        """A peer that cannot run is part of the findings."""
        try:
            launch, stream, output = ready()
            clocks[name], outputs[name] = _clock(launch, stream), output
        except Exception as fault:
            refused.append(
                {"backend": name, "refused": f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"}
            )

    def by_torch(call: Callable[[Any], Any]) -> tuple[Launch, Any, Any]:
        stream, target = torch.cuda.Stream(), torch.empty(1, 3, 4 * _SIDE, 4 * _SIDE, dtype=source.dtype, device="cuda")
        torch.cuda.synchronize()

        @torch.no_grad()
        def launch() -> None:
            target.copy_(call(source))

        return launch, stream, target

    def by_session(make: Callable[[], Any]) -> tuple[Launch, Any, Any]:
        open_sessions.append(make())
        target = torch.empty(1, 3, 4 * _SIDE, 4 * _SIDE, dtype=source.dtype, device="cuda")
        return *_by_session(open_sessions[-1], source, target), target

    try:
        offer("torch eager", lambda: by_torch(network))
        offer("torch.compile", lambda: by_torch(torch.compile(network, mode="max-autotune", dynamic=False)))
        for name, make in _sessions(subject).items():
            offer(name, lambda make=make: by_session(make))  # type: ignore[misc]
        taken = in_turns(clocks, ROUNDS)
        pictures = {name: output.float().cpu().numpy() for name, output in outputs.items()}
    finally:
        for session in open_sessions:
            session.close()
    return [{"model": subject.name, **row} for row in [*rows_of(taken, pictures, "torch eager"), *refused]]


def part_rtx_unset(_run: Run) -> list[Row]:
    """Whether an engine that TensorRT-RTX builds with the compute capability unset runs on this GPU, and how fast."""
    import msgspec
    import tensorrt_rtx as trt
    import torch

    from zoomrt.bundle import open_bundle, unfinished
    from zoomrt.runtime.gpu.cuda_device import CudaDevice
    from zoomrt.runtime.sessions.tensorrt import tensorrt_session

    subject = _subject()
    bundle = open_bundle(subject.bundle("cuda"), verify=False)
    manifest = bundle.manifest
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.graph("1"))):
        raise RuntimeError(parser.get_error(0).desc())
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        raise RuntimeError("TensorRT-RTX built nothing")
    (bundle.path / "unset.engine").write_bytes(plan)
    fields = {"backend": "tensorrt_rtx", "target": "rtx", "engines": {"1": "unset.engine"}}
    told = unfinished(bundle.path, msgspec.structs.replace(manifest, **fields))
    device = CudaDevice()
    source = (torch.rand(1, 3, _SIDE, _SIDE, device="cuda") * 2 - 1).half()
    target = torch.empty(1, 3, 4 * _SIDE, 4 * _SIDE, dtype=source.dtype, device="cuda")
    with tensorrt_session(told, device, trt) as session:
        clock = _clock(*_by_session(session, source, target))
        latency = latency_of([clock() for _ in range(ROUNDS)])
        with torch.no_grad():
            wanted = subject.network().half().cuda()(source).float().cpu().numpy()
        psnr = psnr_db(wanted, target.float().cpu().numpy(), 2.0)
    return [{"model": subject.name, "sm": device.sm, "median_ms": latency.p50_ms, "PSNR to torch eager": psnr}]


def part_frame_2048(_run: Run) -> list[Row]:
    """A frame of 512x512 to 2048x2048 by tiles, host to host, by ONNX Runtime on CUDA. Goal: 0.3 s."""
    import zoomrt

    subject = _subject()
    frame = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    with zoomrt.load(subject.bundle("cuda"), verify=False) as upscaler:
        upscaler(frame)
        latency = latency_of(time_alone(lambda: upscaler(frame), Rule(repeats=10, seconds=20)))
        notes = "; ".join(upscaler.stats.notes)
    low, high = latency.interval_ms
    row = {"median_ms": latency.p50_ms, "interval_ms": f"{low:.4g} to {high:.4g}", "n": latency.n, "notes": notes}
    return [{"model": subject.name, **row}]


PARTS: dict[str, Callable[[Run], list[Row]]] = {
    "timeline": part_timeline,
    "end-to-end": part_end_to_end,
    "rtx-unset": part_rtx_unset,
    "frame-2048": part_frame_2048,
}
