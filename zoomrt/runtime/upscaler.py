"""The upscaler: sends a frame through a bundle's engine, tile by tile.

`LoadedEngine` decides who may use the engine and what happens where memory runs out; `one_pass` is the work of a frame.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from zoomrt._deprecated import renamed_arguments
from zoomrt.bundle import Bundle, Manifest, open_bundle
from zoomrt.errors import InputError, OutOfMemory
from zoomrt.runtime.frames.interop import DeviceArray, is_on_gpu
from zoomrt.runtime.frames.pixel_formats import CameraFrame
from zoomrt.runtime.frames.rgb_view import Picture, picture_of
from zoomrt.runtime.gpu.device_session import DeviceSession
from zoomrt.runtime.loading import LoadedEngine, Loader, check_fallback, in_other_runner, open_session
from zoomrt.runtime.one_pass import upscale_once
from zoomrt.runtime.resources import check_threads
from zoomrt.runtime.session import Session, SessionStats
from zoomrt.runtime.sizes import result_of_each_pass
from zoomrt.runtime.tiles import pixels
from zoomrt.runtime.tiles.colour import check_method, with_method
from zoomrt.runtime.tiles.plan import plan

Progress = Callable[[int, int], None]


@renamed_arguments("load", smaller="fallback")
def load(
    bundle: str | os.PathLike[str],
    *,
    threads: int | None = None,
    verify: bool = True,
    backend: str | None = None,
    measure_batch: bool | None = None,
    fallback: str | os.PathLike[str] | None = None,
    colour: str | None = None,
) -> Upscaler:
    """Open a bundle and load its engine.

    Parameters
    ----------
    bundle
        The bundle's folder.
    threads
        CPU threads of the engine, 1 to 1024; None means one per physical core that the process may use.
    verify
        Hash every file first (about 1 GB/s); False checks presence and size only.
    backend
        `onnxruntime` or `openvino`, to run an FP32 bundle for the CPU in the other one than it was built for.
    measure_batch
        Time the bundle's batch sizes and use the fastest, see `Upscaler.stats`; False uses the largest. None measures
        on a GPU only: on a CPU it can take minutes, and batches may differ in the last bit.
    fallback
        A bundle of the same network with a smaller tile. Where memory does not suffice for a single tile of `bundle`,
        while loading or in a frame, it is loaded instead and the frame is begun again, with one warning and a note in
        `Upscaler.stats`.
    colour
        `none`, `adain` or `wavelet`, in place of the bundle's own colour step.

    Raises
    ------
    BundleError
        The bundle is missing, damaged or edited.
    EngineMismatch
        It cannot run on this machine or with this version.
    UsageError
        The number of threads, the backend or the colour step cannot be, or `fallback` is another network or has no
        smaller tile.
    OutOfMemory
        There is no room for it.
    MissingDependency
        The package that runs its engine is not installed.
    """
    check_threads(threads)

    if colour is not None:
        check_method(colour)

    def opened(path: str | os.PathLike[str]) -> Bundle:
        found = open_bundle(path, verify=verify)
        if colour is not None:
            found = with_method(found, colour)
        return found if backend is None else in_other_runner(found, backend)

    def loaded(one: Bundle) -> tuple[Manifest, Session]:
        return one.manifest, open_session(one, threads, measure_batch)

    first = opened(bundle)
    if fallback is None:
        return Upscaler(*loaded(first))
    second = opened(fallback)
    check_fallback(first, second)
    try:
        return Upscaler(*loaded(first), lambda: loaded(second))
    except OutOfMemory as error:
        why = error.seen
    gc.collect()  # the error held what had been loaded
    upscaler = Upscaler(*loaded(second))
    try:
        engine_of(upscaler).note_shrunk(first.manifest.tile, why)
    except BaseException:
        upscaler.close()
        raise
    return upscaler


class Upscaler:
    """A loaded bundle that upscales frames. Make one with `load`; it owns its engine and closes it.

    Threads may share it: frames take turns, and each frame has all the engine's threads.

    Examples
    --------
    >>> with zoomrt.load("edge-fp32-cpu") as upscaler:
    ...     large = upscaler(small)
    """

    def __init__(self, manifest: Manifest, session: Session, fallback: Loader | None = None) -> None:
        self.evaluations: tuple[int, ...] = ()
        """Network evaluations of each tile of the last frame, by a multi-step model: a skip policy takes more or fewer.
        Empty for one-step models, whose memory does not grow with the number of tiles."""
        self._engine = LoadedEngine(manifest, session, fallback)

    @property
    def manifest(self) -> Manifest:
        """Of the bundle in use: the fallback's once memory ran out."""
        return self._engine.manifest

    @property
    def scale(self) -> int:
        """Output pixels per input pixel, each axis."""
        return self.manifest.tile.scale

    @overload
    def upscale(
        self, frame: NDArray[Any] | CameraFrame, *, size: tuple[int, int] | None = None, on_tile: Progress | None = None
    ) -> NDArray[Any]: ...

    @overload
    def upscale(
        self, frame: Any, *, on_tile: Progress | None = None, out: Any = None, stream: Any = None
    ) -> DeviceArray: ...

    def upscale(
        self,
        frame: Any,
        *,
        size: tuple[int, int] | None = None,
        on_tile: Progress | None = None,
        out: Any = None,
        stream: Any = None,
    ) -> Any:
        """Upscale a frame; the same as to call the upscaler.

        Parameters
        ----------
        frame
            (H, W, 3) RGB or (H, W) grey; uint8, uint16 or float32 in [0, 1]; up to 16384 pixels a side and 268 million
            in all. Strides do not matter, and it is not written to. Grey goes through as three equal channels and comes
            back as luma. Or a `CameraFrame` of any format: YUV becomes RGB in float where a tile is read, so that the
            network sees all 10 bits. Or an array on the GPU (CuPy, torch, Numba, PyCUDA), (H, W, 3) uint8 with dense
            rows, where the bundle has the kernels for whole frames: it goes in without a copy.
        size
            (width, height) of the result in pixels; None is `scale` times the frame's. The network runs as often as
            that takes, and its last picture is resampled before the colour step. Sides need not keep their ratio. A
            frame that goes through again is 16 bits deep in between.
        on_tile
            Called with (tiles done, tiles in all), from this thread. What it raises ends the call.
        out
            For a frame on the GPU: a dense array there to write to, apart from `frame`; the result keeps it alive.
            Without it the result is the session's buffer: good until the next frame of any kind, or `close`. After an
            error: anything.
        stream
            For a frame on the GPU: a CUDA stream of any library, no default stream. The GPU waits for what is on it
            before it reads and writes, and what is put on it afterwards waits for the result. Without it the arrays'
            own protocols say whom to wait for.

        Returns
        -------
        NDArray or DeviceArray
            The same type and rank as the frame. For a `CameraFrame` (H * scale, W * scale, 3) RGB, uint16 of rgb48 and
            uint8 of all others. For a frame on the GPU a `DeviceArray`, whose work is done when the call returns or
            raises.

        Raises
        ------
        InputError
            The frame does not fit, or is on the GPU and cannot stay there, or the size is too large.
        UsageError
            The size is none.
        RuntimeFault
            The engine failed, or the upscaler is closed.
        OutOfMemory
            There is no room for one tile, nor a fallback.

        Notes
        -----
        The upscaler stays usable after any error, and after Ctrl-C, unless the fallback cannot be loaded.

        Beyond both frames, memory is set by the tile size, plus a strip one overlap high and as wide as the network's
        picture; a strip one tile high and as wide as the result where it is resampled, and another one with 5 KB a
        column for colour `wavelet`; for colour `adain` the result once more, in twice its bytes where it is of
        integers.
        """
        if is_on_gpu(frame):
            if size is not None:
                needed, remedy = "a NumPy array or a CameraFrame", "Pass cupy.asnumpy(frame) or tensor.cpu().numpy()."
                raise InputError(
                    "cannot resample a frame on the GPU", seen=f"size={size!r}", needed=needed, remedy=remedy
                )
            return self._engine.with_room(lambda: self._upscale_on_gpu(frame, on_tile, out, stream))
        if out is not None or stream is not None:
            seen, needed = f"out or stream with {type(frame).__name__}", "a frame on the GPU"
            raise InputError("cannot upscale this frame", seen=seen, needed=needed, remedy="Leave both out.")
        picture = picture_of(frame)
        pixels.check_frame(picture)
        return self._engine.with_room(lambda: self._upscale(picture, size, on_tile))

    __call__ = upscale

    def _upscale_on_gpu(self, frame: Any, on_tile: Progress | None, out: Any, stream: Any) -> DeviceArray:
        session, colour = self._engine.session, self.manifest.tile.colour.method
        whole = isinstance(session, DeviceSession) and session.frames is not None
        if not isinstance(session, DeviceSession) or not whole or colour != "none":
            seen = f"{self.manifest.backend} {'with' if whole else 'without'} frame kernels, colour step {colour!r}"
            needed = "a GPU bundle with the kernels for this GPU, and no colour step"
            remedy = "Pass it as a NumPy array: cupy.asnumpy(frame), tensor.cpu().numpy(); or load with colour='none'."
            raise InputError("cannot upscale a frame on the GPU", seen=seen, needed=needed, remedy=remedy)
        result = session.run_resident(frame, out, stream)
        self.evaluations = ()
        if on_tile is not None:
            height, width = result.shape[0] // self.scale, result.shape[1] // self.scale
            count = len(plan(height, width, self.manifest.tile))
            on_tile(count, count)
        return result

    def _upscale(self, frame: Picture, size: tuple[int, int] | None, on_tile: Progress | None) -> NDArray[Any]:
        facts = self.manifest.tile
        results = result_of_each_pass((frame.shape[0], frame.shape[1]), facts.scale, size)
        sources = [(frame.shape[0], frame.shape[1]), *results[:-1]]
        counts = [len(plan(*source, facts)) for source in sources]
        evaluations: list[int] | None = None if self.manifest.sampling is None else []
        dtype = pixels.result_dtype(frame)
        between = np.dtype(np.uint16) if dtype == np.uint8 else dtype

        for number, result in enumerate(results):

            def on_part(done: int, _: int, before: int = sum(counts[:number])) -> None:
                if on_tile is not None:
                    on_tile(before + done, sum(counts))
                if before + done < sum(counts):
                    self._engine.check_open()  # on_tile or another thread may have closed it

            last = number == len(results) - 1
            out = pixels.empty((*result, *frame.shape[2:]), dtype if last else between)
            upscale_once(self._engine.session, facts, frame, out, on_part=on_part, evaluations=evaluations)
            frame = out
        self.evaluations = tuple(evaluations or ())
        return out

    @property
    def stats(self) -> SessionStats:
        """The batch size in use, what was measured to choose it, and what was given up since loading."""
        return self._engine.session.stats

    def close(self) -> None:
        """Release the engine; may be called again. A frame under way in another thread ends with RuntimeFault."""
        self._engine.close()

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._engine.closed

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def engine_of(upscaler: Upscaler) -> LoadedEngine:
    """What is behind an upscaler, for those in this package who send tiles of their own."""
    return upscaler._engine
