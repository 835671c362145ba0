"""The thread of submitted frames: one at a time, and the newest always next. What still waits then is dropped.

The thread knows a session only through the frame that it is answering, so a session that nobody holds can be collected.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from zoomrt.errors import RuntimeFault
from zoomrt.runtime.zoom.result import Ticket, ZoomResult


class NewestFirst:
    """Answers frames in a thread of its own, which starts with the first of them."""

    def __init__(self) -> None:
        self.closed = False
        self._changed = threading.Condition()  # guards all of this; re-entrant, as `stop` may run in any collection
        self._next: tuple[Callable[[], ZoomResult], float, Ticket] | None = None
        self._thread: threading.Thread | None = None

    def put(self, answer: Callable[[], ZoomResult], arrival: float) -> Ticket:
        """Have `answer` called next, in place of what waits. arrival : by `time.perf_counter`, when the frame came.

        The ticket ends with what `answer` returns or raises. Raises RuntimeFault when stopped.
        """
        ticket: Ticket = Future()
        with self._changed:
            if self.closed:
                raise closed_fault()
            dropped, self._next = self._next, (answer, arrival, ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="zoomrt frames", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        if dropped is not None and dropped[2].set_running_or_notify_cancel():
            dropped[2].set_result(ZoomResult(None, "dropped", latency_ms=ms_since(dropped[1])))
        return ticket

    def stop(self) -> None:
        """End after the frame under way; one that waits ends with RuntimeFault. Does not wait; may be called again."""
        with self._changed:
            self.closed = True
            left, self._next = self._next, None
            self._changed.notify_all()
        if left is not None and left[2].set_running_or_notify_cancel():
            left[2].set_exception(closed_fault())

    def join(self) -> None:
        """Wait for the thread to end, unless this is it."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or self._next is not None)
                if self._next is None:
                    return
                (answer, _, ticket), self._next = self._next, None
            if ticket.set_running_or_notify_cancel():
                try:
                    result = answer()
                except BaseException as problem:  # belongs to this frame's ticket; the next frame starts anew
                    ticket.set_exception(problem)
                else:
                    ticket.set_result(result)
                    del result
            del answer, ticket  # or the frame's buffer, and the session, would be held until the next one comes


def ms_since(arrival: float) -> float:
    return (time.perf_counter() - arrival) * 1e3


def closed_fault() -> RuntimeFault:
    return RuntimeFault("cannot zoom", seen="a closed session", needed="an open one", remedy="Make a new one.")
