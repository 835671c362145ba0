"""The device of the scheduler on an NVIDIA GPU, over cuda-core: streams, events, memory and graphs.

Written against cuda-core 1.2 and checked against its signatures; NOT RUN on a GPU so far.
It works in the GPU's primary context, the one that torch, CuPy and TensorRT share, on streams of its own that do not
synchronise with the default stream. Device memory comes from the device's pool, host memory is page-locked.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib
import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import MissingDependency
from zoomrt.runtime.gpu.cuda_errors import cuda_faults, fault_of, foreign_context
from zoomrt.runtime.gpu.device import Buffer, Event, Launch, Stream


class CudaBuffer:
    """See `device.HostBuffer`; `array` is there for page-locked memory only."""

    def __init__(self, memory: Any, shape: tuple[int, ...], array: NDArray[Any] | None = None) -> None:
        self.memory, self.shape = memory, shape
        self._array = array

    @property
    def array(self) -> NDArray[Any]:
        assert self._array is not None
        return self._array

    @property
    def address(self) -> int:
        return int(self.memory.handle)

    def close(self) -> None:
        self._array = None
        self.memory.close()


class CudaEvent:
    """See `device.Event`."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def sync(self) -> None:
        with cuda_faults("the GPU failed on a batch"):
            self.event.sync()


class CudaStream:
    """See `device.Stream`. `core` is cuda-core's stream."""

    def __init__(self, core: Any) -> None:
        self.core = core

    @property
    def handle(self) -> int:
        return int(self.core.handle)

    def __cuda_stream__(self) -> tuple[int, int]:
        """So that CuPy, torch and cuda-core take it as it is; it stays the session's."""
        return 0, self.handle

    def follow(self, handle: int) -> None:
        """Go on only after what is on somebody else's stream now."""
        with cuda_faults("cannot wait for this stream"):
            self.core.wait(type(self.core).from_handle(handle))

    def lead(self, handle: int) -> None:
        """Have somebody else's stream wait for what is on this one now."""
        with cuda_faults("cannot have this stream wait"):
            type(self.core).from_handle(handle).wait(self.core)

    def copy(self, target: Buffer, source: Buffer) -> None:
        with cuda_faults("cannot copy a batch"):
            cast(CudaBuffer, target).memory.copy_from(cast(CudaBuffer, source).memory, stream=self.core)

    def record(self, event: Event) -> None:
        with cuda_faults("cannot mark a batch"):
            self.core.record(cast(CudaEvent, event).event)

    def wait(self, event: Event) -> None:
        with cuda_faults("cannot wait for a batch"):
            self.core.wait(cast(CudaEvent, event).event)

    def sync(self) -> None:
        with cuda_faults("the GPU failed on a batch"):
            self.core.sync()

    def close(self) -> None:
        self.core.close()


class CudaDevice:
    """See `device.Device`.

    number : of the GPU. core, driver : cuda-core and cuda.bindings.driver; None imports them.

    Raises MissingDependency without cuda-core, EngineMismatch without a GPU or with a driver that is too old,
    RuntimeFault where another context than the primary one is current in this thread.
    """

    def __init__(self, number: int = 0, *, core: Any = None, driver: Any = None) -> None:
        self.core = core or _imported("cuda.core")
        self.driver = driver or _imported("cuda.bindings.driver")
        what = f"cannot use GPU {number}"
        with cuda_faults(what):
            self._device = self.core.Device(number)
            before = self._current()
            self._device.set_current()
            self._context = int(self._device.context.handle)
            if before not in (0, self._context):
                self.driver.cuCtxSetCurrent(before)
                raise foreign_context(what, "another CUDA context in this thread")
            self.number, self.name = number, str(self._device.name)
            capability = self._device.compute_capability
            self.sm = 10 * int(capability.major) + int(capability.minor)
            self.driver_version = int(self.driver.cuDriverGetVersion()[1])
            self._pool = self.core.DeviceMemoryResource(number)
            self._pinned = self.core.LegacyPinnedMemoryResource()
            self._loading = self.stream("loading")

    def use(self) -> None:
        """Make the GPU the calling thread's. RuntimeFault where somebody else's context is current there."""
        if (current := self._current()) == self._context:
            return
        if current:
            raise foreign_context("cannot use the GPU in this thread", "another CUDA context")
        with cuda_faults("cannot use the GPU in this thread"):
            self._device.set_current()

    def stream(self, name: str) -> CudaStream:  # noqa: ARG002 - CUDA streams have no names
        with cuda_faults("cannot make a CUDA stream"):
            return CudaStream(self._device.create_stream(options=self.core.StreamOptions(nonblocking=True)))

    def event(self) -> CudaEvent:
        """Whoever waits for it sleeps, so that the CPU is free for gathering and blending."""
        with cuda_faults("cannot make a CUDA event"):
            options = self.core.EventOptions(timing_enabled=False, blocking_sync=True)
            return CudaEvent(self._device.create_event(options=options))

    def memory(self, shape: tuple[int, ...], dtype: str) -> CudaBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with cuda_faults(f"cannot allocate {size / 1e6:.0f} MB on the GPU"):
            memory = self._pool.allocate(size, stream=self._loading.core)
            self._loading.core.sync()  # memory of the pool is there from then on, for every stream
            return CudaBuffer(memory, shape)

    def part(self, whole: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> CudaBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        owner = cast(CudaBuffer, whole).memory
        with cuda_faults("cannot use a part of the GPU's memory"):
            return CudaBuffer(self.core.Buffer.from_handle(whole.address + offset, size, owner=owner), shape)

    def host(self, shape: tuple[int, ...], dtype: str) -> CudaBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with cuda_faults(f"cannot allocate {size / 1e6:.0f} MB of page-locked memory"):
            memory = self._pinned.allocate(size)
            held = (ctypes.c_uint8 * size).from_address(int(memory.handle))
            return CudaBuffer(memory, shape, np.frombuffer(memoryview(held), dtype).reshape(shape))

    def captured(self, launch: Launch, stream: Stream) -> Launch:
        """The same work as one CUDA graph, uploaded; its buffers must live as long as it."""
        with cuda_faults("cannot capture a CUDA graph"):
            builder = self._device.create_graph_builder()
            try:
                builder.begin_building()
                launch(CudaStream(builder.stream))
                graph = builder.end_building().complete()
            finally:
                builder.close()  # ends a capture that failed half-way
            graph.upload(cast(CudaStream, stream).core)

        def replay(stream: Stream) -> None:
            with cuda_faults("cannot run a CUDA graph"):
                graph.launch(cast(CudaStream, stream).core)

        return replay

    def _current(self) -> int:
        """The context that is current in this thread, 0 for none."""
        code, context = self.driver.cuCtxGetCurrent()
        return int(context) if int(code) == 0 else 0


def require_driver(what: str) -> None:
    """EngineMismatch where there is no NVIDIA driver at all: told before any package for the GPU is asked for."""
    if not any(map(ctypes.util.find_library, ("cuda", "nvcuda"))):
        raise fault_of(what, "no NVIDIA driver (libcuda)")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        remedy = "Run: pip install 'zoomrt[cuda]' cuda-bindings"
        needed = "cuda-core with cuda-bindings"
        raise MissingDependency("cannot use a GPU", seen=cause, needed=needed, remedy=remedy) from cause
