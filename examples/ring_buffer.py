"""A ring of NV12 buffers that another thread fills, as a camera driver does, and when a buffer may be filled again.

python examples/ring_buffer.py edge-fp32-cpu

The session reads a frame until its ticket is done, and not after. So a slot belongs to the driver until it is
submitted, to the session until its ticket is done, and to the driver again: `add_done_callback` gives it back.
"""

from __future__ import annotations

import argparse
import queue
import threading

import numpy as np

import zoomrt

WIDTH, HEIGHT, SLOTS = 320, 240, 4
STRIDE = 384  # rows are padded, as drivers like to do


class Driver(threading.Thread):
    """Fills free slots with pictures of a moving bar, and puts them where the application takes them."""

    def __init__(self, count: int) -> None:
        super().__init__(name="driver")
        self.memory = np.zeros((SLOTS, STRIDE * HEIGHT * 3 // 2), np.uint8)
        self.free: queue.Queue[int] = queue.Queue()
        self.filled: queue.Queue[int | None] = queue.Queue()
        self._count = count
        for slot in range(SLOTS):
            self.free.put(slot)

    def run(self) -> None:
        for number in range(self._count):
            slot = self.free.get()  # waits while every slot is in use: the ring never grows
            buffer = self.memory[slot]
            luma = buffer[: STRIDE * HEIGHT].reshape(HEIGHT, STRIDE)
            luma[...] = 60
            luma[:, 8 * number % WIDTH : 8 * number % WIDTH + 40] = 200
            buffer[STRIDE * HEIGHT :] = 128  # no colour
            self.filled.put(slot)
        self.filled.put(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--frames", type=int, default=30)
    arguments = parser.parse_args()
    driver = Driver(arguments.frames)
    tickets = []
    with zoomrt.ZoomSession(arguments.bundle, (WIDTH, HEIGHT), budget_ms=33, output_format="rgb") as session:
        driver.start()
        while (slot := driver.filled.get()) is not None:
            frame = zoomrt.CameraFrame.from_buffer(driver.memory[slot], WIDTH, HEIGHT, "nv12", stride=STRIDE)
            ticket = session.submit(frame, 4.0)
            ticket.add_done_callback(lambda _, slot=slot: driver.free.put(slot))
            tickets.append(ticket)
        results = [session.result(ticket) for ticket in tickets]
    driver.join()
    modes = [result.mode for result in results]
    print({mode: modes.count(mode) for mode in sorted(set(modes))})
    assert results[-1].mode != "dropped"  # the newest frame always wins


if __name__ == "__main__":
    main()
