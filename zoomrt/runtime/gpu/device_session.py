"""A session whose engine runs on a device with streams: tiles go through the scheduler, several batches in flight."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import InputError, OutOfMemory, RuntimeFault
from zoomrt.runtime.frames.buffers import contiguous_strides
from zoomrt.runtime.frames.interop import DeviceArray, DeviceView, device_view, stream_handle
from zoomrt.runtime.frames.rgb_view import Picture
from zoomrt.runtime.gpu.device import Device, Engine, Stream
from zoomrt.runtime.gpu.frame_engine import FrameKernels
from zoomrt.runtime.gpu.frame_path import FramePath
from zoomrt.runtime.gpu.scheduler import Pipeline
from zoomrt.runtime.session import Session, batches_of, named
from zoomrt.runtime.sizes import MAX_DEVICE_PIXELS, MAX_DEVICE_SIDE, check_size, fits_device

if TYPE_CHECKING:
    from zoomrt.runtime.gpu.cuda_device import CudaStream

_WHAT = "cannot upscale this frame on the GPU"


class DeviceSession(Session):
    """The engines of a bundle on one device.

    load(batch size, compute stream) : make the engine for that batch; its errors come through. Called for ascending
        sizes; where memory runs out, that size and larger ones are given up with one warning.
    slots : batches in flight, see `Pipeline`.
    """

    def __init__(self, tile: TileFacts, device: Device, load: Callable[[int, Stream], Engine], slots: int = 2) -> None:
        super().__init__(tile)
        self._pipeline = Pipeline(device, slots)
        self.frames: FramePath | None = None
        """Whole frames without the CPU, where the bundle has the kernels."""
        self.device = device
        self.engines: dict[int, Engine] = {}
        try:
            for size in tile.batches:
                given = (size, tile.channels, tile.height, tile.width)
                wanted = (size, 3, tile.height * tile.scale, tile.width * tile.scale)
                try:
                    engine = load(size, self._pipeline.compute)
                    self._pipeline.add(size, engine, (given, wanted), tile.dtype)
                    self.engines[size] = engine
                except OutOfMemory as error:
                    self._give_up(size, error)
                    break
        except BaseException:
            self._pipeline.close()
            raise
        size = self.batches[-1]
        self._scratch = np.empty((size, tile.channels, tile.height, tile.width), np.float32)

    def run_tiles(
        self, count: int, fill: Callable[[range, NDArray[Any]], None], name: Callable[[int], str]
    ) -> Generator[tuple[range, NDArray[Any]], None, None]:
        first = 0
        while first < count:
            self._check_open()
            batches = batches_of(range(first, count), self.batches)
            with closing(self._pipeline.run(batches, self._staging(fill))) as landings:
                for tiles, land in landings:
                    names = [name(index) for index in tiles]
                    try:
                        outputs = land()
                    except OutOfMemory as error:
                        self._give_up(len(tiles), error)
                        break
                    except RuntimeFault as fault:
                        raise named(fault, names) from fault
                    self._check(outputs, len(tiles), names)
                    yield tiles, outputs
                    first = tiles.stop

    def _staging(self, fill: Callable[[range, NDArray[Any]], None]) -> Callable[[range, NDArray[Any]], None]:
        """Tiles are made in float32, so that half precision is rounded once."""
        if self.tile.dtype == "float32":
            return fill

        def through_float32(tiles: range, staged: NDArray[Any]) -> None:
            inputs = self._scratch[: len(tiles)]
            fill(tiles, inputs)
            np.copyto(staged, inputs, casting="same_kind")

        return through_float32

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        def fill(_: range, staged: NDArray[Any]) -> None:
            np.copyto(staged, batch, casting="same_kind")

        with closing(self._pipeline.run([range(len(batch))], fill)) as landings:
            (result,) = [land() for _, land in landings]
        return result

    def use_kernels(self, kernels: FrameKernels) -> None:
        """Cut and blend on the device from now on, see `FramePath`."""
        self.frames = FramePath(self.device, self.tile, self.engines, self._pipeline.compute, kernels)

    def run_frame(self, frame: Picture, out: NDArray[Any]) -> bool:
        """Upscale a whole frame on the device if that can be; otherwise False, and nothing is done.

        Where its memory does not suffice, frames go tile by tile from then on, with one warning.
        """
        if self.frames is None or not self.frames.takes(frame):
            return False
        self._check_open()
        try:
            self.frames.run(frame, out, self.batches)
        except OutOfMemory as error:
            self.frames.close()
            self.frames = None
            self.note(f"out of memory for whole frames on the device ({error.seen}): tiles go through the CPU instead")
            return False
        return True

    def run_resident(self, frame: object, out: object, stream: object) -> DeviceArray:
        """Upscale a frame on the GPU there, see `Upscaler.upscale`; `use_kernels` was called."""
        assert self.frames is not None
        self._check_open()
        self.device.use()
        compute = cast("CudaStream", self._pipeline.compute)
        theirs = None if stream is None else stream_handle(stream)
        if theirs is not None:
            compute.follow(theirs)
        source = device_view(frame, compute.handle, compute.follow)
        _check_rgb(source)
        scale = self.tile.scale
        shape = (source.shape[0] * scale, source.shape[1] * scale, 3)
        target = None
        if out is not None:
            target = device_view(out, compute.handle, compute.follow)
            _check_target(target, shape)
        for view in (source, target):
            if view is not None and self.frames.holds(view):
                seen, remedy = "the result of an earlier frame", "Pass out= for frames that are to be kept, or copy it."
                raise InputError(_WHAT, seen=seen, needed="memory of your own", remedy=remedy)

        def done() -> None:
            if theirs is not None:
                compute.lead(theirs)

        address, owner = self.frames.run_resident(source, target, self.batches, done)
        return DeviceArray(address, shape, "uint8", stream=compute.handle, lead=compute.lead, owner=owner)

    def _release(self) -> None:
        if self.frames is not None:
            self.frames.close()
        self._pipeline.close()


def _check_rgb(view: DeviceView) -> None:
    """InputError unless it is a frame of RGB bytes, rows without gaps. DLPack gives strides of sides of 1 any value."""
    rgb = view.dtype == np.uint8 and len(view.shape) == 3 and view.shape[2] == 3
    steps = (range(3 * view.shape[1], 2**31), (3,), (1,)) if rgb else ()
    if not rgb or any(
        side > 1 and step not in good for side, step, good in zip(view.shape, view.strides, steps, strict=True)
    ):
        seen, needed = f"{view.dtype} {view.shape} with strides {view.strides}", "uint8 (H, W, 3), rows without gaps"
        remedy = (
            "Make it so on the GPU: cupy.ascontiguousarray(frame), tensor.contiguous(). "
            "Planes of YUV go in as a CameraFrame, which copies them to the host."
        )
        raise InputError(_WHAT, seen=seen, needed=needed, remedy=remedy)
    height, width = view.shape[:2]
    check_size(height, width, _WHAT)
    if not fits_device(height, width):
        needed = f"at most {MAX_DEVICE_SIDE} pixels a side and {MAX_DEVICE_PIXELS // 10**6} million in all on a GPU"
        remedy = "Pass it as a NumPy array, which is cut into tiles."
        raise InputError(_WHAT, seen=f"{width}x{height} pixels", needed=needed, remedy=remedy)


def _check_target(view: DeviceView, shape: tuple[int, ...]) -> None:
    good = view.dtype == np.uint8 and view.shape == shape and view.strides == contiguous_strides(shape, 1)
    if not good or view.read_only:
        seen = f"{view.dtype} {view.shape} with strides {view.strides}{', read-only' * view.read_only}"
        needed, remedy = f"uint8 {shape} to write to, without gaps", "Make it with cupy.empty(shape, 'uint8')."
        raise InputError("cannot upscale into this out", seen=seen, needed=needed, remedy=remedy)
