"""A camera or video through OpenCV: BGR frames in, BGR views out, the newest frame always wins.

python examples/opencv_loop.py edge-fp32-cpu clip.mp4        # or 0 for the first camera; q ends, the wheel zooms
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

import cv2

import zoomrt


def frames(capture: Any) -> Iterator[Any]:
    """Frames until the source ends."""
    while True:
        ok, frame = capture.read()
        if not ok:
            return
        yield frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("source", help="a video file, or the number of a camera")
    parser.add_argument("--zoom", type=float, default=3.0)
    parser.add_argument("--budget-ms", type=float, default=33.0)
    parser.add_argument("--no-window", action="store_true")
    arguments = parser.parse_args()
    source = int(arguments.source) if arguments.source.isdigit() else arguments.source
    zoom, modes = arguments.zoom, []

    def on_mouse(event: int, _x: int, _y: int, flags: int, _: object) -> None:
        nonlocal zoom
        if event == cv2.EVENT_MOUSEWHEEL:
            zoom = min(max(zoom * (1.1 if flags > 0 else 1 / 1.1), 1.0), 16.0)

    with contextlib.ExitStack() as stack:
        capture = cv2.VideoCapture(source)
        stack.callback(capture.release)
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        session = stack.enter_context(zoomrt.ZoomSession(arguments.bundle, size, budget_ms=arguments.budget_ms))
        if not arguments.no_window:
            cv2.namedWindow("zoomrt")
            cv2.setMouseCallback("zoomrt", on_mouse)
        for frame in frames(capture):
            result = session.process(zoomrt.CameraFrame((frame,), "bgr"), zoom)
            modes.append(result.mode)
            if not arguments.no_window:
                cv2.imshow("zoomrt", result.pixels)
                if cv2.waitKey(1) == ord("q"):
                    break
    print({mode: modes.count(mode) for mode in sorted(set(modes))})


if __name__ == "__main__":
    main()
