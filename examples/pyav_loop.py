"""Decoded video through PyAV: FFmpeg's YUV planes are read in place, the view is written into FFmpeg's own frame.

python examples/pyav_loop.py edge-fp32-cpu in.mp4 out.mp4 --zoom 4
"""

from __future__ import annotations

import argparse
from typing import Any

import av
import numpy as np

import zoomrt


def planes(frame: Any) -> tuple[np.ndarray, ...]:
    """The three planes of a yuv420p frame, without a copy; rows may be padded."""
    shapes = [(frame.height, frame.width)] + [(frame.height // 2, frame.width // 2)] * 2
    return tuple(
        np.ndarray(shape, np.uint8, plane, strides=(plane.line_size, 1))
        for shape, plane in zip(shapes, frame.planes, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--zoom", type=float, default=4.0)
    arguments = parser.parse_args()
    count = 0
    with av.open(arguments.input) as source, av.open(arguments.output, "w") as target:
        video = source.streams.video[0]
        width, height = video.codec_context.width, video.codec_context.height
        encoder = target.add_stream("mpeg4", rate=video.average_rate)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        with zoomrt.ZoomSession(arguments.bundle, (width, height)) as session:
            for frame in source.decode(video):
                if frame.format.name != "yuv420p":
                    frame = frame.reformat(format="yuv420p")
                view = av.VideoFrame(width, height, "yuv420p")
                session.process(
                    zoomrt.CameraFrame(planes(frame), "i420"),
                    arguments.zoom,
                    out=zoomrt.CameraFrame(planes(view), "i420"),
                )
                view.pts, view.time_base = frame.pts, frame.time_base
                target.mux(encoder.encode(view))
                count += 1
        target.mux(encoder.encode())
    print(f"{count} frames")


if __name__ == "__main__":
    main()
