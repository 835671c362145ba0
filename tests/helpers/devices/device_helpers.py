"""Faults on purpose, and a device that watches who touches which buffer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from thread_device import SessionEngine, ThreadDevice, ThreadStream

from zoomrt.bundle import TileFacts
from zoomrt.errors import OutOfMemory, RuntimeFault
from zoomrt.runtime.gpu.device import Buffer, Launch, Stream
from zoomrt.runtime.gpu.device_session import DeviceSession


def no_room(what: str = "the engine ran out of memory") -> OutOfMemory:
    return OutOfMemory(what, seen="0 bytes free", needed="room", remedy="Close other programs.")


def fault() -> RuntimeFault:
    return RuntimeFault("the engine failed", seen="code 700", needed="success", remedy="Run trt-doctor.")


class Faults:
    """What goes wrong, by the number of the engine's run, from 1; `enlarge` is the engine that suffers from it."""

    def __init__(self, tile: TileFacts, before: Callable[[int, int], None] = lambda _run, _size: None) -> None:
        self.tile, self.runs, self.sizes = tile, 0, list[int]()
        self.before = before
        self.spoil: set[int] = set()
        """Runs whose last tile is NaN."""

    def enlarge(self, batch: NDArray[Any]) -> NDArray[Any]:
        self.runs += 1
        self.sizes.append(len(batch))
        self.before(self.runs, len(batch))
        result = batch.repeat(self.tile.scale, 2).repeat(self.tile.scale, 3)
        if self.runs in self.spoil:
            result[-1] = np.nan
        return result


class WatchedStream(ThreadStream):
    def __init__(self, name: str, device: WatchedDevice) -> None:
        super().__init__(name, device.note)
        self._device = device

    def copy(self, target: Buffer, source: Buffer) -> None:
        def work() -> None:
            time.sleep(self._device.copy_s)
            np.copyto(target.array, source.array)  # type: ignore[attr-defined]

        self.call(lambda: self._device.touch(target, source, work))


class WatchedDevice(ThreadDevice):
    """Raises in whoever writes to a buffer that is read or written elsewhere; keeps a log of moments in order."""

    def __init__(self, copy_s: float = 0.0) -> None:
        super().__init__(self.note)
        self.copy_s = copy_s
        self._lock = threading.Lock()
        self._readers: dict[int, int] = {}
        self._writers: set[int] = set()
        self.allocated = 0
        self.moments: list[tuple[str, int, str]] = []
        self.changed = threading.Condition()
        self.trespasses: list[str] = []

    def note(self, stream: str, number: int, moment: str) -> None:
        with self.changed:
            self.moments.append((stream, number, moment))
            self.changed.notify_all()

    def wait_for(self, moment: tuple[str, int, str]) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: moment in self.moments, 30), f"{moment} never came"

    def host(self, shape: tuple[int, ...], dtype: str) -> Any:
        self.allocated += 1
        return super().host(shape, dtype)

    memory = host

    def stream(self, name: str) -> ThreadStream:
        return WatchedStream(name, self)

    def touch(self, target: Buffer, source: Buffer, work: Callable[[], object]) -> None:
        with self._lock:
            if target.address in self._writers or self._readers.get(target.address) or source.address in self._writers:
                self.trespasses.append(f"{source.address} -> {target.address}")
            self._writers.add(target.address)
            self._readers[source.address] = self._readers.get(source.address, 0) + 1
        try:
            work()
        finally:
            with self._lock:
                self._writers.discard(target.address)
                self._readers[source.address] -= 1


class WatchedEngine(SessionEngine):
    """Its runs count as uses of its buffers too."""

    def __init__(self, run: Callable[[NDArray[Any]], NDArray[Any]], device: WatchedDevice) -> None:
        super().__init__(run)
        self._device, self.closed = device, 0

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        def work() -> None:
            np.copyto(target.array, self._run(source.array))  # type: ignore[attr-defined]

        def launch(stream: Stream) -> None:
            assert isinstance(stream, ThreadStream)
            stream.call(lambda: self._device.touch(target, source, work))

        return launch

    def close(self) -> None:
        self.closed += 1


def threaded(tile: TileFacts, faults: Faults | None = None, slots: int = 2) -> tuple[DeviceSession, Faults]:
    """A session on threads whose engine repeats pixels."""
    faults = faults or Faults(tile)
    session = DeviceSession(tile, ThreadDevice(), lambda _size, _stream: SessionEngine(faults.enlarge), slots)
    return session, faults
