"""A graph of a few bytes by which trt-doctor proves that a backend computes on this machine."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import RuntimeFault
from zoomrt.runtime.backends import Backend

SMOKE_GRAPH = base64.b64decode(
    "CAg6hwEKDwoBeAoBdxIBeSIEQ29udhIFc21va2UqMwgDCAMIAQgBEAEiJAAAAAAAAAAAAACAPwAAAAAAAIA/AAAAAAAAgD8AAAAAAAAAAEIBd1ob"
    "CgF4EhYKFAgBEhAKAggBCgIIAwoCCAgKAggIYhsKAXkSFgoUCAESEAoCCAEKAggDCgIICAoCCAhCBAoAEBI="
)
"""An ONNX model of 146 bytes, opset 18: a 1x1 Conv that reverses the channels of `x`, (1, 3, 8, 8) float32.

Made once with onnx.helper, so that the core install, which has no onnx package, can prove that its engine computes.
"""


def smoke_run(backend: Backend, load: Callable[[bytes], Callable[[NDArray[np.float32]], NDArray[Any]]]) -> str:
    """Random numbers through the graph, compared with what it must give; a line for people.

    load : makes a function of an ONNX model. Raises RuntimeFault on wrong numbers, and what loading raises.
    """
    started = time.perf_counter()
    run = load(SMOKE_GRAPH)
    numbers = np.random.default_rng(0).standard_normal((1, 3, 8, 8), dtype=np.float32)
    worst = float(np.abs(run(numbers) - numbers[:, ::-1]).max())
    if not worst <= 1e-6:
        raise RuntimeFault(
            f"{backend.title} computes wrong numbers on this machine",
            seen=f"a difference of {worst:.2g} in a 1x1 convolution",
            needed="at most 1e-6",
            remedy=f"Run: {sys.executable} -m pip install --force-reinstall {backend.package}",
        )
    return f"right numbers from a {len(SMOKE_GRAPH)}-byte graph in {(time.perf_counter() - started) * 1e3:.0f} ms"
