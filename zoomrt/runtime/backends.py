"""What runs a bundle's engines: one row for each backend, and what a GPU bundle's frames need besides.

A new backend is one file beside this one and one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from zoomrt.bundle import Bundle, Manifest, SamplingFacts
from zoomrt.errors import EngineMismatch, UsageError, unknown_name
from zoomrt.runtime.batch_choice import choose_batch
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.gpu.frame_engine import ColourKernels, FrameKernels
from zoomrt.runtime.resources import check_process
from zoomrt.runtime.session import Session
from zoomrt.runtime.sessions.onnxruntime import core_count
from zoomrt.runtime.sizes import MAX_DEVICE_PIXELS
from zoomrt.runtime.tiles.colour import kernels_match, takes_codes

if TYPE_CHECKING:
    from zoomrt.runtime.gpu.cuda_device import CudaDevice

__all__ = ["CPU_SESSIONS", "GPU_SESSIONS", "add_kernels", "check_smaller", "in_other_runner", "open_session"]


def open_session(bundle: Bundle, threads: int | None, measure_batch: bool | None) -> Session:
    """Load a bundle's engines; arguments and errors as for `zoomrt.load`."""
    manifest = bundle.manifest
    what = f"cannot run bundle {str(bundle.path)!r} here"
    if manifest.steps != 1 and manifest.sampling is None:
        seen, needed = f"{manifest.steps} steps", "a one-step model, or a manifest that says how to sample"
        raise EngineMismatch(what, seen=seen, needed=needed, remedy="Build the bundle again with trt-build.")
    on_gpu = manifest.backend in GPU_SESSIONS
    if not on_gpu and manifest.backend not in CPU_SESSIONS:
        seen, needed = f"backend {manifest.backend!r}", f"one of {', '.join([*CPU_SESSIONS, *GPU_SESSIONS])}"
        raise EngineMismatch(what, seen=seen, needed=needed, remedy="Build it with --target cpu to run it here.")
    if not on_gpu:
        check_process(threads or core_count())
    session = _on_gpu(bundle) if on_gpu else CPU_SESSIONS[manifest.backend](bundle, threads)
    if on_gpu if measure_batch is None else measure_batch:
        try:
            choose_batch(session)
        except BaseException:
            session.close()
            raise
    return session


def check_smaller(bundle: Bundle, smaller: Bundle) -> None:
    """UsageError unless `smaller` has the same network in the same precision, and a smaller tile."""
    one, other = bundle.manifest, smaller.manifest
    mine, theirs = _network_of(one), _network_of(other)
    seen = [f"another {name}: {theirs[name]}" for name in mine if mine[name] != theirs[name]]
    if other.tile.height * other.tile.width >= one.tile.height * one.tile.width:
        seen.append(f"tiles of {other.tile.height}x{other.tile.width}")
    if seen:
        engine = f" --backend {one.backend}" if one.backend in CPU_SESSIONS else ""  # else a build takes the fastest
        raise UsageError(
            f"bundle {str(smaller.path)!r} cannot stand in for {str(bundle.path)!r}",
            seen=", ".join(seen),
            needed=f"the same build with tiles smaller than {one.tile.height}x{one.tile.width}",
            remedy=f"Build it with the same options,{engine} --tile {max(one.tile.height // 2, 1)}.",
        )


def _network_of(manifest: Manifest) -> dict[str, object]:
    """What gives a tile its pixels, whatever its size."""
    tile = manifest.tile
    return {
        "family": manifest.family,
        "weights": manifest.weights.get("sha256"),
        "options": manifest.weights.get("options"),
        "target": manifest.target,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "arithmetic": manifest.arithmetic,
        "scale": tile.scale,
        "value range": tile.value_range,
        "colour": tile.colour,
        "start noise": tile.noise,
        "sampling": manifest.sampling,
    }


def in_other_runner(bundle: Bundle, backend: str) -> Bundle:
    """The same bundle for another runner, which gives the same numbers only where all is FP32."""
    manifest = bundle.manifest
    if backend not in CPU_SESSIONS:
        raise unknown_name("backend", backend, CPU_SESSIONS)
    several = manifest.sampling is not None
    exact = manifest.backend in CPU_SESSIONS and manifest.precision == "fp32" and not several
    if backend != manifest.backend and not exact:
        form = ", several graphs" if several else ""
        raise UsageError(
            f"cannot run bundle {str(bundle.path)!r} in {backend}",
            seen=f"{manifest.precision} for {manifest.backend}{form}",
            needed="an fp32 bundle for the CPU in one graph",
            remedy=f"Leave it out, or build with --backend {backend}.",
        )
    return bundle.replaced(msgspec.structs.replace(manifest, backend=backend))


def _onnxruntime(bundle: Bundle, threads: int | None) -> Session:
    from zoomrt.runtime.sessions.onnxruntime import OnnxRuntimeSession

    manifest = bundle.manifest
    if manifest.sampling is not None:
        return _multi_step(bundle, manifest.sampling, threads)
    return OnnxRuntimeSession(bundle, threads)


def _openvino(bundle: Bundle, threads: int | None) -> Session:
    from zoomrt.runtime.sessions.openvino import OpenVinoSession

    return OpenVinoSession(bundle, threads)


def _multi_step(bundle: Bundle, sampling: SamplingFacts, threads: int | None) -> Session:
    from zoomrt.runtime.sessions.multi_step import MultiStepSession
    from zoomrt.runtime.sessions.onnxruntime_graph import OnnxRuntimeGraph

    parts = bundle.manifest.graphs
    graphs = {part: OnnxRuntimeGraph(bundle.graph(part), threads, keep=part == "step") for part in parts}
    return MultiStepSession(bundle.manifest.tile, sampling, graphs)


def _tensorrt(bundle: Bundle, device: CudaDevice) -> DeviceSession:
    from zoomrt.runtime.sessions.tensorrt import tensorrt_session

    return tensorrt_session(bundle, device)


def _onnxruntime_cuda(bundle: Bundle, device: CudaDevice) -> DeviceSession:
    from zoomrt.runtime.sessions.onnxruntime_cuda import onnxruntime_cuda_session

    return onnxruntime_cuda_session(bundle, device)


def _on_gpu(bundle: Bundle) -> Session:
    from zoomrt.runtime.gpu.cuda_device import CudaDevice, require_driver

    manifest = bundle.manifest
    what = f"cannot run bundle {str(bundle.path)!r} here"
    if manifest.sampling is not None:
        needed, remedy = "one graph per tile", "Build it with --target cpu to run it here."
        raise EngineMismatch(what, seen=f"several graphs for {manifest.backend}", needed=needed, remedy=remedy)
    require_driver(what)
    device = CudaDevice()
    session = GPU_SESSIONS[manifest.backend](bundle, device)
    try:
        add_kernels(session, bundle, device)
    except BaseException:
        session.close()
        raise
    return session


def add_kernels(session: DeviceSession, bundle: Bundle, device: CudaDevice) -> None:
    """Cut and blend on the GPU where the bundle has the kernels for it; else a warning, and the CPU does it.

    YUV frames take all the kernels that RGB ones do, or none.
    """
    from zoomrt.bundle.kernel_file import find_kernel
    from zoomrt.runtime.gpu.cuda_kernel import CudaKernel

    manifest, fallback = bundle.manifest, "Tiles are cut and blended on the CPU instead."
    kind = {"float16": "fp16", "float32": "fp32"}[manifest.tile.dtype]

    def found(fallback: str, *names: str) -> list[CudaKernel]:
        """All of them, or none and a note."""
        try:
            records = [find_kernel(manifest.kernels, name, device.sm, fallback=fallback) for name in names]
        except EngineMismatch as missing:
            session.note(str(missing))
            return []
        return [CudaKernel(device, record, bundle.read(record.file)) for record in records]

    if manifest.tile.noise is not None:
        session.note(f"start noise is made on the CPU. {fallback}")
        return
    if not takes_codes(manifest.tile.colour):
        session.note(f"the colour step of this model looks at values that 8 bits do not hold. {fallback}")
        return
    if not (whole := found(fallback, f"tile_gather_rgb_{kind}", f"tile_blend_{kind}_sums")):
        return
    colours: list[CudaKernel] = []
    countable = MAX_DEVICE_PIXELS * manifest.tile.scale**2 < 2**31
    if kernels_match(manifest.tile.colour) and countable:
        fallback = "Colours are matched on the CPU instead."
        colours = found(fallback, "colour_source_rgb", "colour_table", "colour_apply")
    fallback = "YUV frames are cut into tiles on the CPU instead."
    yuv = found(fallback, f"tile_gather_nv12_{kind}", *["colour_source_nv12"] * bool(colours))
    gather, blend = whole
    matching = None
    if colours:
        matching = ColourKernels({"rgb": colours[0]} | ({"nv12": yuv[1]} if yuv else {}), *colours[1:])
    session.use_kernels(FrameKernels({"rgb": gather} | ({"nv12": yuv[0]} if yuv else {}), blend, matching))


# manifest.backend -> what loads its engines
CPU_SESSIONS: dict[str, Callable[[Bundle, int | None], Session]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
GPU_SESSIONS: dict[str, Callable[[Bundle, CudaDevice], DeviceSession]] = {
    "tensorrt_rtx": _tensorrt,
    "tensorrt": _tensorrt,
    "onnxruntime_cuda": _onnxruntime_cuda,
}
