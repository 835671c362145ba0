"""The narrow contract between the scheduler and whatever computes: streams, events, buffers and engines.

A stream does what it is given in order, beside the host and the other streams. An event, recorded on one stream, lets
another stream or the host wait for what came before it. `cuda_device` has CUDA's; tests have threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray


class Buffer(Protocol):
    """Memory of fixed size on the device, owned by whoever made it, C-contiguous."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def address(self) -> int:
        """Of the first byte, where the device computes."""

    def close(self) -> None:
        """Give it back; may be called again. No work on it may be left."""


class HostBuffer(Buffer, Protocol):
    """Memory of the host that copies run from and to beside everything else: page-locked for a GPU."""

    @property
    def array(self) -> NDArray[Any]:
        """The same memory for the CPU. Not to be touched between a copy's start and its event."""


class Event(Protocol):
    """A mark in a stream."""

    def sync(self) -> None:
        """Have the host wait until the stream that recorded it last is past it. Raises what failed before it."""


class Stream(Protocol):
    """An order of work. All but `sync` and `close` return at once and allocate nothing on the device."""

    @property
    def handle(self) -> int:
        """For libraries that take a raw CUDA stream; 0 where there is none."""

    def copy(self, target: Buffer, source: Buffer) -> None:
        """Copy all of `source` into `target`, of the same size."""

    def record(self, event: Event) -> None: ...

    def wait(self, event: Event) -> None:
        """Go on only after what `event` marked when this was called."""

    def sync(self) -> None:
        """Have the host wait until nothing is left to do."""

    def close(self) -> None:
        """End it after what it was given; may be called again."""


Launch = Callable[[Stream], None]
"""Puts one run of an engine, on buffers that are fixed, on a stream. Allocates nothing. May raise OutOfMemory or
RuntimeFault."""


class Engine(Protocol):
    """A loaded engine of static shape."""

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        """Bind it to its input and output for good: this is where a CUDA graph is captured. Called while loading;
        raises OutOfMemory, RuntimeFault."""

    def close(self) -> None:
        """Release it; may be called again."""


class Device(Protocol):
    """Where engines run."""

    def use(self) -> None:
        """Make it the calling thread's. Raises RuntimeFault where the thread is somebody else's."""

    def stream(self, name: str) -> Stream: ...

    def event(self) -> Event: ...

    def host(self, shape: tuple[int, ...], dtype: str) -> HostBuffer:
        """Raises OutOfMemory."""

    def memory(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        """Raises OutOfMemory."""

    def part(self, whole: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> Buffer:
        """The same memory from byte `offset` on. To be closed before `whole`, which frees it."""
