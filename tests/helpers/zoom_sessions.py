"""Zoom sessions over a fake engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from runtime_helpers import FakeSession, facts, fake_upscaler

from zoomrt.runtime.zoom.session import ZoomSession

FRAME = (120, 160)


OUTPUT = (160, 120)


def fake_zoom(size: tuple[int, int] = OUTPUT, **options: Any) -> tuple[ZoomSession, FakeSession]:
    hooks = {name: options.pop(name) for name in ("before", "after") if name in options}
    upscaler, session = fake_upscaler(facts(), **hooks)
    return ZoomSession(upscaler, size, **options), session


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for another thread; fails when it never happens."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)
