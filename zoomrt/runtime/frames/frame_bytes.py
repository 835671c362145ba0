"""Whole frames as the bytes that the GPU's kernels read: which format, how many, copied how, and with what arguments.

Written to the argument lists of `zoomrt/kernels/tile_gather.py`; NOT RUN on a GPU so far.
8-bit YUV goes in as NV12, 1.5 bytes a pixel: NV21 and I420 have the same samples in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from zoomrt.runtime.frames.rgb_view import Picture, RgbView
from zoomrt.runtime.frames.yuv import YuvNumbers, chroma_planes, yuv_numbers


@dataclass(frozen=True)
class RgbBytes:
    """(H, W, 3). row_stride : in bytes, where rows are apart; None without gaps."""

    row_stride: int | None = None
    name: ClassVar[str] = "rgb"
    """As in the names of the kernels that read it."""
    white: ClassVar[float] = 255.0
    """The value of white in what the kernels make of it."""

    def size(self, height: int, width: int) -> int:
        """Bytes of a frame without gaps."""
        return 3 * height * width

    def fill(self, picture: Any, staged: NDArray[np.uint8]) -> None:
        """Copy a picture of this format without gaps. staged : (size,) uint8."""
        np.copyto(staged.reshape(picture.shape), picture)

    def arguments(self, address: int, height: int, width: int) -> dict[str, Any]:
        """What a kernel is told of a frame that lies at `address`."""
        row_stride = 3 * width if self.row_stride is None else self.row_stride
        return {
            "frame": address, "height": height, "width": width,
            "row_stride": row_stride, "column_stride": 3, "channel_stride": 1,
        }  # fmt: skip


@dataclass(frozen=True)
class Nv12Bytes:
    """Luma (H, W), then pairs of U and V (H / 2, W / 2, 2). numbers : how they are meant. See `RgbBytes`."""

    numbers: YuvNumbers
    name: ClassVar[str] = "nv12"
    white: ClassVar[float] = 1.0

    def size(self, height: int, width: int) -> int:
        return height * width * 3 // 2

    def fill(self, picture: Any, staged: NDArray[np.uint8]) -> None:
        frame = picture.frame
        height, width = frame.shape
        luma, pairs = staged[: height * width], staged[height * width :].reshape(height // 2, width // 2, 2)
        np.copyto(luma.reshape(height, width), frame.planes[0])
        if frame.format == "nv12":
            np.copyto(pairs, frame.planes[1])
        else:
            for index, plane in enumerate(chroma_planes(frame)):
                np.copyto(pairs[:, :, index], plane)

    def arguments(self, address: int, height: int, width: int) -> dict[str, Any]:
        return {
            "frame": address, "chroma": address + height * width, "height": height, "width": width,
            "row_stride": width, "column_stride": 1,
            "chroma_row_stride": width, "chroma_column_stride": 2, "chroma_channel_stride": 1,
            **{name: float(value) for name, value in self.numbers._asdict().items()},
        }  # fmt: skip


FrameBytes = RgbBytes | Nv12Bytes


def bytes_of(picture: Picture) -> FrameBytes | None:
    """How the kernels read a picture; None where they do not: grey, more than 8 bits, YUV but 4:2:0 of even sides."""
    if isinstance(picture, RgbView):
        frame = picture.frame
        as_nv12 = frame.format in ("nv12", "nv21", "i420") and not any(side % 2 for side in frame.shape)
        return Nv12Bytes(yuv_numbers(frame)) if as_nv12 else None
    return RgbBytes() if picture.dtype == np.uint8 and picture.ndim == 3 else None
