"""Engines of a GPU bundle, loaded on this machine's GPU, with the kernels that cut and blend beside them."""

from __future__ import annotations

from collections.abc import Callable

from zoomrt.bundle import Bundle
from zoomrt.bundle.kernel_file import find_kernel
from zoomrt.errors import EngineMismatch
from zoomrt.runtime.gpu import cuda_device
from zoomrt.runtime.gpu.cuda_kernel import CudaKernel
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.gpu.frame_engine import FrameKernels
from zoomrt.runtime.tiles.colour import takes_codes


def open_on_gpu(bundle: Bundle, load: Callable[[Bundle, cuda_device.CudaDevice], DeviceSession]) -> DeviceSession:
    """What `load` makes of the bundle, with its kernels. Raises EngineMismatch without a GPU, what `load` raises."""
    what = f"cannot run bundle {str(bundle.path)!r} here"
    if bundle.manifest.sampling is not None:
        seen, needed = f"several graphs for {bundle.manifest.backend}", "one graph per tile"
        raise EngineMismatch(what, seen=seen, needed=needed, remedy="Build it with --target cpu to run it here.")
    cuda_device.require_driver(what)
    device = cuda_device.CudaDevice()
    session = load(bundle, device)
    try:
        add_kernels(session, bundle, device)
    except BaseException:
        session.close()
        raise
    return session


def add_kernels(session: DeviceSession, bundle: Bundle, device: cuda_device.CudaDevice) -> None:
    """Cut and blend on the GPU where the bundle has the kernels for it; else a warning, and the CPU does it.

    YUV frames take all the kernels that RGB ones do, or none.
    """
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
    if not (whole := found(fallback, f"tile_gather_rgb_{kind}", f"tile_blend_{kind}_faults")):
        return
    yuv = found("YUV frames are cut into tiles on the CPU instead.", f"tile_gather_nv12_{kind}")
    gather, blend = whole
    session.use_kernels(FrameKernels({"rgb": gather} | ({"nv12": yuv[0]} if yuv else {}), blend))
