"""Whole 8-bit frames on the GPU: bytes go in and come out, tiles are cut and blended there by the bundle's kernels.

    frame --copy in--> the launches of `frame_engine` --copy out--> frame and faults

NOT RUN on a GPU so far. Frames that are on the GPU already are read where they are, and only the count
of faults comes out: the kernels' arguments are bound for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.runtime.frames.frame_bytes import FrameBytes, RgbBytes, bytes_of
from zoomrt.runtime.frames.interop import DeviceView
from zoomrt.runtime.frames.rgb_view import Picture
from zoomrt.runtime.gpu.device import Buffer, Device, Engine, HostBuffer, Stream
from zoomrt.runtime.gpu.frame_engine import EngineRuns, FrameEngine, FrameKernels, aligned, check_faults
from zoomrt.runtime.gpu.scheduler import Pipeline
from zoomrt.runtime.sizes import fits_device
from zoomrt.runtime.tiles.plan import plan


class _Shape(NamedTuple):
    """What buffers and launches are made for."""

    height: int
    width: int
    sizes: tuple[int, ...]
    reads: FrameBytes | None
    """None: frames that are on the device already."""


class FramePath:
    """Frames of one session. Not thread-safe. Memory for frames is allocated for the first of each size and format, and
    kept.

    engines : by batch size, the session's. compute : the session's stream.
    """

    def __init__(
        self, device: Device, tile: TileFacts, engines: Mapping[int, Engine], compute: Stream, kernels: FrameKernels
    ) -> None:
        self.device, self.tile, self.compute, self.kernels = device, tile, compute, kernels
        self._runs = EngineRuns(device, tile, engines, compute)
        self._shape: _Shape | None = None
        self._pipeline: Pipeline | None = None
        self._resident: _ResidentFrames | None = None

    def takes(self, frame: Picture) -> bool:
        """Whether there are kernels that read this frame's bytes, and count that many."""
        reads = bytes_of(frame)
        return reads is not None and reads.name in self.kernels.gather and fits_device(*frame.shape[:2])

    def run(self, frame: Picture, out: NDArray[np.uint8], sizes: tuple[int, ...]) -> None:
        """Upscale a frame that it `takes`, of H x W pixels, into `out`, RGB, C-contiguous.

        sizes : batch sizes to use, of those that there are engines for.

        Raises OutOfMemory, and RuntimeFault for values that are not finite.
        """
        height, width = frame.shape[:2]
        reads = bytes_of(frame)
        assert reads is not None
        self.device.use()
        shape = _Shape(height, width, sizes, reads)
        if self._shape != shape:
            self._forget_frame()
            self._pipeline = Pipeline(self.device, 1, self.compute)
            engine = FrameEngine(self._runs, self.kernels, plan(height, width, self.tile), sizes, reads)
            self._pipeline.add(1, engine, ((1, reads.size(height, width)), (1, engine.bytes)), "uint8")
            self._shape = shape
        assert self._pipeline is not None

        def fill(_: range, staged: NDArray[np.uint8]) -> None:
            reads.fill(frame, staged[0])

        with closing(self._pipeline.run([range(1)], fill)) as landings:
            for _, land in landings:
                result = land()[0]
                np.copyto(out, result[: out.size].reshape(out.shape))
                check_faults(result[aligned(out.size) :])

    def run_resident(
        self, frame: DeviceView, out: DeviceView | None, sizes: tuple[int, ...], done: Callable[[], None]
    ) -> tuple[int, object]:
        """Upscale a frame that is on the device, (H, W, 3) uint8 with dense rows, which the compute stream has waited
        for. out : C-contiguous; None takes memory of ours, good until the next frame. done : called when all work on
        both is on the compute stream. The host waits for the count, also where it fails, so both may be freed then.

        Returns the result's address and owner. Raises what `run` raises; memory for the size is given back then.
        """
        height, width = frame.shape[:2]
        self.device.use()
        shape = _Shape(height, width, sizes, None)
        if self._shape != shape:
            self._forget_frame()
            engine = FrameEngine(self._runs, self.kernels, plan(height, width, self.tile), sizes, RgbBytes())
            self._resident = _ResidentFrames(self.device, self.compute, engine)
            self._shape = shape
        assert self._resident is not None
        try:
            return self._resident.run(frame, out, done)
        except BaseException:
            self._forget_frame()  # waits
            raise

    def holds(self, view: DeviceView) -> bool:
        """Whether an array lies in the result of an earlier frame."""
        return self._resident is not None and self._resident.holds(view.address)

    def close(self) -> None:
        """Release what was allocated for frames; may be called again."""
        self._forget_frame()
        self._runs.close()

    def _forget_frame(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        if self._resident is not None:
            with suppress(Exception):
                self.compute.sync()  # a frame that failed may be under way
            self._resident.close()
        self._pipeline = self._resident = self._shape = None


class _ResidentFrames:
    """RGB frames of one size that are on the device already."""

    def __init__(self, device: Device, compute: Stream, engine: FrameEngine) -> None:
        self._device, self._compute, self._engine = device, compute, engine
        self._done = device.event()
        self._result: Buffer | None = None
        self._faults: tuple[Buffer, HostBuffer] | None = None

    def run(self, frame: DeviceView, out: DeviceView | None, done: Callable[[], None]) -> tuple[int, object]:
        compute = self._compute
        if out is None and self._result is None:
            self._result = self._engine.kept(self._engine.shape, "uint8")
        target = out or self._result
        assert target is not None
        if self._faults is None:
            shape = (self._engine.fault_bytes,)
            self._faults = self._engine.kept(shape, "uint8"), self._device.host(shape, "uint8")
        faults, landed = self._faults
        reads = RgbBytes(frame.strides[0] if frame.shape[0] > 1 else None)
        for launch in self._engine.launches(reads, frame.address, target.address, faults.address):
            launch(compute)
        done()
        compute.copy(landed, faults)
        compute.record(self._done)
        self._done.sync()
        check_faults(landed.array)
        return target.address, out.owner if out else target

    def holds(self, address: int) -> bool:
        return self._result is not None and 0 <= address - self._result.address < math.prod(self._engine.shape)

    def close(self) -> None:
        self._engine.close()
        if self._faults is not None:
            self._faults[1].close()
