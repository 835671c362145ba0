"""The scheduler: while one batch is computed, the next is copied in and the one before is copied out.

Three streams (copy in, compute, copy out) and, for each batch in flight, a slot with buffers of its own:

    host  staged ---copy in---> source ---compute---> target ---copy out---> result  host

A slot's `done` event is what the host waits for, and then only for the oldest batch; between the streams events keep
the order. Nothing is allocated after loading, nothing runs on a default stream, and the device is never waited for as
a whole. At most as many batches are in flight as there are slots: whoever takes results slowly slows the intake down.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from zoomrt.errors import RuntimeFault
from zoomrt.runtime.gpu.device import Buffer, Device, Engine, Event, HostBuffer, Launch, Stream

Held = TypeVar("Held", bound=Buffer)

Fill = Callable[[range, NDArray[Any]], None]
"""fill(items, array): write the input of these items, array[i] for items[i]."""

Landing = tuple[range, Callable[[], NDArray[Any]]]
"""Items of a batch that was sent off longest ago, and what waits for their result. The result is the scheduler's
buffer, good until the next landing is asked for; waiting raises what the batch failed with."""


class _Lane(NamedTuple):
    """The buffers of a slot for one batch size, and the engine bound to them."""

    staged: HostBuffer
    source: Buffer
    target: Buffer
    result: HostBuffer
    launch: Launch


class _Slot:
    """Room for one batch in flight."""

    def __init__(self, device: Device) -> None:
        self.lanes: dict[int, _Lane] = {}
        self.copied: Event = device.event()
        self.computed: Event = device.event()
        self.done: Event = device.event()
        self.refused: Exception | None = None
        """Why the batch could not be put on the streams."""


class Pipeline:
    """Batches through an engine. Not thread-safe: its owner takes turns.

    slots : batches in flight, 1 or more; with 1 nothing overlaps, with 2 all three streams work at once.
    compute : a stream to compute on, which stays somebody else's; None makes one.
    """

    def __init__(self, device: Device, slots: int = 2, compute: Stream | None = None) -> None:
        self._device = device
        self._copy_in, self._copy_out = device.stream("copy in"), device.stream("copy out")
        self.compute = compute or device.stream("compute")
        self._owned = (self._copy_in, self._copy_out) if compute else (self._copy_in, self.compute, self._copy_out)
        self._slots = [_Slot(device) for _ in range(slots)]
        self._engines: list[Engine] = []
        self._turn: object = None
        self._busy = self._closed = False

    def add(self, size: int, engine: Engine, shapes: Sequence[tuple[int, ...]], dtype: str) -> None:
        """Take the engine for batches of `size` and allocate its buffers. From then on it is the pipeline's.

        shapes : of its input and its output, the batch included. On OutOfMemory nothing of it is kept.
        """
        given, wanted = shapes
        lanes: list[_Lane] = []
        self._busy = True  # an engine may try itself out
        with contextlib.ExitStack() as undo:
            undo.callback(engine.close)

            def owned(buffer: Held) -> Held:
                undo.callback(buffer.close)
                return buffer

            for _ in self._slots:
                staged, result = owned(self._device.host(given, dtype)), owned(self._device.host(wanted, dtype))
                source, target = owned(self._device.memory(given, dtype)), owned(self._device.memory(wanted, dtype))
                undo.callback(self.drain)
                lanes.append(_Lane(staged, source, target, result, engine.prepare(source, target)))
            self.drain()
            undo.pop_all()
        self._engines.append(engine)
        for slot, lane in zip(self._slots, lanes, strict=True):
            slot.lanes[size] = lane

    def run(self, batches: Iterable[range], fill: Fill) -> Generator[Landing, None, None]:
        """Send batches, each as long as an engine that was added, and land them in order.

        `fill` is called in this thread, at most as many batches ahead as there are slots. A batch that failed is told
        by its landing; those after it run. Ends early, without an error, where somebody else calls `run` or `close`
        between two landings: what did not land by then is lost. It may be left at any point: whoever is next waits for
        what is still under way.
        """
        turn = self._begin()
        flying: deque[Landing] = deque()
        slots = itertools.cycle(self._slots)
        for items in batches:
            if len(flying) == len(self._slots):
                yield flying.popleft()
                if self._turn is not turn:
                    return
            slot = next(slots)
            lane = slot.lanes[len(items)]
            fill(items, lane.staged.array)
            self._send(slot, lane)
            flying.append((items, self._landing(slot, lane)))
        while flying:
            yield flying.popleft()
            if self._turn is not turn:
                return
        self._busy = False

    def drain(self) -> None:
        """Wait until none of the streams has anything to do; what failed is forgotten."""
        if not self._busy:
            return
        for stream in (self._copy_in, self.compute, self._copy_out):
            with contextlib.suppress(Exception):
                stream.sync()
        self._busy = False

    def close(self) -> None:
        """Finish what was sent, then release the engines, the buffers and the streams. May be called again."""
        if self._closed:
            return
        self._closed, self._turn = True, None
        with contextlib.suppress(RuntimeFault):  # what is left is released in whatever context there is
            self._device.use()
        self.drain()
        for engine in self._engines:
            engine.close()
        for slot in self._slots:
            for lane in slot.lanes.values():
                for buffer in (lane.staged, lane.source, lane.target, lane.result):
                    buffer.close()
            slot.lanes.clear()
        for stream in self._owned:
            stream.close()

    def _begin(self) -> object:
        self._device.use()
        self.drain()
        self._turn = object()
        return self._turn

    def _send(self, slot: _Slot, lane: _Lane) -> None:
        slot.refused, self._busy = None, True
        try:
            self._copy_in.copy(lane.source, lane.staged)
            self._copy_in.record(slot.copied)
            self.compute.wait(slot.copied)
            lane.launch(self.compute)
            self.compute.record(slot.computed)
            self._copy_out.wait(slot.computed)
            self._copy_out.copy(lane.result, lane.target)
            self._copy_out.record(slot.done)
        except Exception as error:
            slot.refused = error

    def _landing(self, slot: _Slot, lane: _Lane) -> Callable[[], NDArray[Any]]:
        def land() -> NDArray[Any]:
            if slot.refused is not None:
                self.drain()  # a part of the batch may be under way
                raise slot.refused
            slot.done.sync()
            return lane.result.array

        return land
