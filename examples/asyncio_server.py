"""Frames from asyncio: a ticket is a future, so it can be awaited, and the event loop never waits for pixels.

python examples/asyncio_server.py edge-fp32-cpu
"""

from __future__ import annotations

import argparse
import asyncio

import numpy as np

import zoomrt

SIZE = (320, 240)


async def camera(session: zoomrt.ZoomSession, count: int) -> list[str]:
    """Submit a frame every 20 ms, whether or not the one before is done; returns how each was answered."""
    tickets = []
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 256, (15, 20, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    for index in range(count):
        tickets.append(asyncio.wrap_future(session.submit(scene, 4.0 + 0.1 * index)))
        await asyncio.sleep(0.02)
    return [(await ticket).mode for ticket in tickets]


async def heartbeat(beats: list[float]) -> None:
    """Something else that the loop has to do meanwhile."""
    loop = asyncio.get_running_loop()
    while True:
        beats.append(loop.time())
        await asyncio.sleep(0.005)


async def serve(bundle: str, count: int) -> None:
    beats: list[float] = []
    other = asyncio.create_task(heartbeat(beats))
    session = await asyncio.to_thread(zoomrt.ZoomSession, bundle, SIZE, budget_ms=20)  # loading takes a moment
    modes = await camera(session, count)
    await asyncio.to_thread(session.close)
    other.cancel()
    print({mode: modes.count(mode) for mode in sorted(set(modes))}, f"{len(beats)} heartbeats")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--frames", type=int, default=20)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.bundle, arguments.frames))


if __name__ == "__main__":
    main()
