"""Whole 8-bit frames on the GPU: bytes go in and come out, tiles are cut and blended there by the bundle's kernels.

    frame --copy in--> tile_gather -> engine -> tile_blend, a row of tiles at a time --copy out--> frame and sums

Written to the argument lists of `zoomrt/kernels/tile_gather.py` and `tile_blend.py`; NOT RUN on a GPU so far. Two rows
of tiles are held: a row is blended as soon as it is there, with the one above. The sums are for the colour step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import RuntimeFault
from zoomrt.runtime.colour import Moments
from zoomrt.runtime.device import Buffer, Device, Engine, HostBuffer, Launch, Stream
from zoomrt.runtime.scheduler import Pipeline
from zoomrt.runtime.session import batches_of
from zoomrt.runtime.tiles import AxisPlan, TilePlan, plan

__all__ = ["FramePath", "Kernel", "axis_table"]

_SUMS = 7  # per block of the blend: sums of red, green and blue, of their squares, values that were not finite


class Kernel(Protocol):
    """A loaded kernel: `cuda_kernel.CudaKernel`."""

    @property
    def constants(self) -> Mapping[str, Any]: ...

    def bind(self, **values: Any) -> Launch: ...


@dataclass(frozen=True)
class _Region:
    """A part of a buffer."""

    address: int
    shape: tuple[int, ...]

    def close(self) -> None:
        """The buffer is somebody else's."""


def axis_table(axis: AxisPlan) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """One axis as the blend reads it, for each output pixel: (3, pixels) the last tile that covers it, the pixel's
    place in that tile, and its place in the tile before or -1; (pixels,) the last tile's weight."""
    size = axis.size * axis.scale
    places, weights = np.full((3, size), -1, np.int32), np.ones(size, np.float32)
    for index, span in enumerate(axis.spans):
        own = slice(span.start, span.stop)
        places[0, own], places[2, own], weights[own] = index, -1, 1
        places[1, own] = np.arange(span.stop - span.start) + span.offset
        if span.rise:
            before, seam = axis.spans[index - 1], slice(span.start, span.start + span.rise)
            places[2, seam] = np.arange(span.start, span.start + span.rise) - before.start + before.offset
            weights[seam] = axis.ramp[: span.rise]
    return places, weights


class FramePath:
    """Frames of one session. Not thread-safe. Memory for frames is allocated for the first of each size, and kept.

    engines : by batch size, the session's. compute : the session's stream. gather, blend : the kernels for RGB frames
    and tiles of the bundle's type, the blend with sums.
    """

    def __init__(
        self,
        device: Device,
        tile: TileFacts,
        engines: Mapping[int, Engine],
        compute: Stream,
        gather: Kernel,
        blend: Kernel,
    ) -> None:
        self.device, self.tile, self.engines, self.compute = device, tile, engines, compute
        self.gather, self.blend = gather, blend
        self._plan: tuple[int, int, tuple[int, ...]] | None = None
        self._pipeline: Pipeline | None = None

    def run(
        self, frame: NDArray[np.uint8], out: NDArray[np.uint8], moments: Moments | None, sizes: tuple[int, ...]
    ) -> None:
        """Upscale a frame, (H, W, 3), into `out`, C-contiguous, and count its codes into `moments`.

        sizes : batch sizes to use, of those that there are engines for.

        Raises OutOfMemory, and RuntimeFault for values that are not finite.
        """
        height, width = frame.shape[:2]
        self.device.use()
        if self._plan != (height, width, sizes):
            self.close()
            self._pipeline = Pipeline(self.device, 1, self.compute)
            engine = _FrameEngine(self, plan(height, width, self.tile), sizes)
            self._pipeline.add(1, engine, ((1, frame.size), (1, engine.bytes)), "uint8")
            self._plan = (height, width, sizes)
        assert self._pipeline is not None

        def fill(_: range, staged: NDArray[np.uint8]) -> None:
            np.copyto(staged.reshape(frame.shape), frame)

        with closing(self._pipeline.run([range(1)], fill)) as landings:
            for _, land in landings:
                result = land()[0]
                np.copyto(out, result[: out.size].reshape(out.shape))
                sums = result[_aligned(out.size) :].view(np.float32).reshape(-1, _SUMS).astype(np.float64).sum(0)
        if (bad := sums[6]) > 0:
            seen, remedy = f"{bad:.0f} values NaN or infinite", "Build with --precision fp32, or run trt-doctor."
            raise RuntimeFault("the engine failed on this frame", seen=seen, needed="finite values", remedy=remedy)
        if moments is not None:
            moments.add_sums(height * width * self.tile.scale**2, sums[:3], sums[3:6])

    def close(self) -> None:
        """Release what was allocated for frames; may be called again."""
        if self._pipeline is not None:
            self._pipeline.close()
        self._pipeline = self._plan = None


class _FrameEngine:
    """The engine of a pipeline whose items are frames of one size. See `device.Engine`."""

    def __init__(self, path: FramePath, tiles: TilePlan, sizes: tuple[int, ...]) -> None:
        self._path, self._tiles, self._sizes = path, tiles, sizes
        self._held: list[Buffer] = []
        scale = path.tile.scale
        self._high, self._wide = tiles.rows.size * scale, tiles.columns.size * scale
        rows, columns = (int(path.blend.constants[name]) for name in ("ROWS", "COLUMNS"))
        bands = [
            math.ceil((span.done - span.start) / rows) * math.ceil(self._wide / columns) for span in tiles.rows.spans
        ]
        self._sums_before = [sum(bands[:row]) * _SUMS * 4 for row in range(len(bands) + 1)]
        self.bytes = _aligned(3 * self._high * self._wide) + self._sums_before[-1]
        """Of the result: the frame, then the sums of each block of each band."""

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        path, tile, tiles = self._path, self._path.tile, self._tiles
        columns = len(tiles.columns.spans)
        held = min(2, len(tiles.rows.spans))
        high, wide = tile.height * tile.scale, tile.width * tile.scale
        outputs = self._kept((held * columns, 3, high, wide), tile.dtype)
        inputs = self._kept((min(self._sizes[-1], columns), 3, tile.height, tile.width), tile.dtype)
        origins = self._uploaded(
            np.array([(y.origin, x.origin) for y in tiles.rows.spans for x in tiles.columns.spans], np.int32)
        )
        tables = [self._uploaded(table) for axis in (tiles.rows, tiles.columns) for table in axis_table(axis)]
        one = 3 * high * wide * np.dtype(tile.dtype).itemsize
        runs: dict[tuple[int, int], Launch] = {}
        launches: list[Launch] = []
        for row in range(len(tiles.rows.spans)):
            for part in batches_of(range(columns), self._sizes):
                first = row % held * columns + part.start
                if (first, len(part)) not in runs:
                    given = _Region(inputs.address, (len(part), 3, tile.height, tile.width))
                    wanted = _Region(outputs.address + first * one, (len(part), 3, high, wide))
                    runs[first, len(part)] = path.engines[len(part)].prepare(given, wanted)
                launches.append(
                    self._gather(source, origins.address + 8 * (row * columns + part.start), inputs, len(part))
                )
                launches.append(runs[first, len(part)])
            launches.append(self._blend(outputs, tables, target, row, held))

        def launch(stream: Stream) -> None:
            for each in launches:
                each(stream)

        return launch

    def _gather(self, frame: Buffer, origins: int, inputs: Buffer, count: int) -> Launch:
        tile, height, width = self._path.tile, self._tiles.rows.size, self._tiles.columns.size
        low, white = tile.value_range
        area = tile.height * tile.width
        return self._path.gather.bind(
            frame=frame.address, origins=origins, out=inputs.address, height=height, width=width,
            row_stride=3 * width, column_stride=3, channel_stride=1,
            tile_height=tile.height, tile_width=tile.width, out_tile=3 * area, out_channel=area, out_row=tile.width,
            gain=float(np.float32((white - low) / 255)), low_value=float(np.float32(low)), tiles=count,
        )  # fmt: skip

    def _blend(self, outputs: Buffer, tables: list[Buffer], target: Buffer, row: int, held: int) -> Launch:
        tile, span = self._path.tile, self._tiles.rows.spans[row]
        low, white = tile.value_range
        high, wide = outputs.shape[2:]
        names = ("row_places", "row_weights", "column_places", "column_weights")
        return self._path.blend.bind(
            tiles=outputs.address, **{name: table.address for name, table in zip(names, tables, strict=True)},
            frame=target.address, sums=target.address + _aligned(3 * self._high * self._wide) + self._sums_before[row],
            first_row=span.start, last_row=span.done, height=self._high, width=self._wide,
            tile_columns=len(self._tiles.columns.spans), tile_rows_held=held,
            tile_stride=3 * high * wide, channel_stride=high * wide, tile_row_stride=wide,
            row_stride=3 * self._wide, column_stride=3, frame_channel_stride=1,
            gain=float(np.float32(255 / (white - low))), black=float(np.float32(low * 255 / (white - low))),
        )  # fmt: skip

    def _kept(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        self._held.append(self._path.device.memory(shape, dtype))
        return self._held[-1]

    def _uploaded(self, array: NDArray[Any]) -> Buffer:
        host: HostBuffer = self._path.device.host(array.shape, array.dtype.str)
        np.copyto(host.array, array)
        buffer = self._kept(array.shape, array.dtype.str)
        self._path.compute.copy(buffer, host)
        self._path.compute.sync()
        host.close()
        return buffer

    def close(self) -> None:
        for buffer in self._held:
            buffer.close()
        self._held = []


def _aligned(size: int) -> int:
    return -(-size // 16) * 16
