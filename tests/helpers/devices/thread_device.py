"""A device made of threads: what the scheduler does on a GPU, done on a CPU, where order and overlap can be proved.

A stream is a thread with a queue, an event a `threading.Event`, a buffer a NumPy array. Work that fails spoils what
depends on it and nothing else: it is skipped up to the next event, and whoever waits for that event gets the error.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.gpu.device import Buffer, Event, Launch, Stream

__all__ = ["ArrayBuffer", "SessionEngine", "ThreadDevice", "ThreadStream"]

Log = Callable[[str, int, str], None]
"""log(stream, number of the work on it, "begin" or "end"), called in the stream's thread."""


class ArrayBuffer:
    """An array as device memory and as page-locked memory: here they are the same."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def address(self) -> int:
        return int(self.array.ctypes.data)

    def close(self) -> None:
        """Nothing to do: Python frees it."""


class _Mark:
    """One recording of an event."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.error: BaseException | None = None


class ThreadEvent:
    """See `device.Event`."""

    def __init__(self) -> None:
        self.mark: _Mark | None = None

    def sync(self) -> None:
        if self.mark is not None:
            self.mark.reached.wait()
            if self.mark.error is not None:
                raise self.mark.error


class ThreadStream:
    """See `device.Stream`."""

    handle = 0

    def __init__(self, name: str, log: Log) -> None:
        self._name, self._log = name, log
        self._works = 0
        self._error: BaseException | None = None
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"zoomrt {name}", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], object]) -> None:
        """Have the stream call a function, unless what it depends on failed."""
        number, self._works = self._works, self._works + 1

        def work() -> None:
            if self._error is not None:
                return
            self._log(self._name, number, "begin")
            try:
                function()
            except BaseException as error:  # raised by whoever waits for the next event
                self._error = error
            self._log(self._name, number, "end")

        self._queue.put(work)

    def copy(self, target: Buffer, source: Buffer) -> None:
        self.call(lambda: np.copyto(cast(ArrayBuffer, target).array, cast(ArrayBuffer, source).array))

    def record(self, event: Event) -> None:
        mark = _Mark()
        cast(ThreadEvent, event).mark = mark

        def reach() -> None:
            mark.error, self._error = self._error, None
            mark.reached.set()

        self._queue.put(reach)

    def wait(self, event: Event) -> None:
        mark = cast(ThreadEvent, event).mark

        def wait() -> None:
            if mark is not None:
                mark.reached.wait()
                self._error = self._error or mark.error

        self._queue.put(wait)

    def sync(self) -> None:
        done = threading.Event()

        def reach() -> None:
            self._error = None
            done.set()

        self._queue.put(reach)
        if self._thread.is_alive():
            done.wait()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


class ThreadDevice:
    """See `device.Device`. log : is told when each copy and run begins and ends."""

    def __init__(self, log: Log = lambda _stream, _number, _moment: None) -> None:
        self._log = log

    def use(self) -> None:
        """Nothing to do: any thread may use it."""

    def stream(self, name: str) -> ThreadStream:
        return ThreadStream(name, self._log)

    def event(self) -> ThreadEvent:
        return ThreadEvent()

    def host(self, shape: tuple[int, ...], dtype: str) -> ArrayBuffer:
        return ArrayBuffer(np.empty(shape, dtype))

    memory = host

    def part(self, whole: Buffer, offset: int, shape: tuple[int, ...], dtype: str) -> ArrayBuffer:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        held = cast(ArrayBuffer, whole).array.reshape(-1).view(np.uint8)[offset : offset + size]
        return ArrayBuffer(held.view(dtype).reshape(shape))


class SessionEngine:
    """Any function from a batch to a batch as an engine: `Session.run` of a session for the CPU, for one."""

    def __init__(self, run: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._run = run

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        given, wanted = cast(ArrayBuffer, source).array, cast(ArrayBuffer, target).array

        def launch(stream: Stream) -> None:
            cast(ThreadStream, stream).call(lambda: np.copyto(wanted, self._run(given)))

        return launch

    def close(self) -> None:
        """Whoever made the function closes what is behind it."""
