"""The work of one whole frame on the GPU, as launches: a row of tiles is cut, run and blended, then the next.

    frame -> tile_gather -> engine -> tile_blend -> frame, and how many values were not finite

Written to the argument lists of `zoomrt/kernels/tile_gather.py` and `tile_blend.py`; NOT RUN on a GPU so far. Two
rows of tiles are held: a row is blended as soon as it is there, with the one above. The engine has one fixed place for
its tiles, from which they are copied into their row: it is prepared once for each batch size, whatever sizes frames
have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import RuntimeFault
from zoomrt.runtime.frames.frame_bytes import FrameBytes
from zoomrt.runtime.gpu.device import Buffer, Device, Engine, HostBuffer, Launch, Stream
from zoomrt.runtime.session import batches_of
from zoomrt.runtime.tiles.plan import AxisPlan, TilePlan


class Kernel(Protocol):
    """A loaded kernel: `cuda_kernel.CudaKernel`."""

    @property
    def constants(self) -> Mapping[str, Any]: ...

    def bind(self, **values: Any) -> Launch: ...


class FrameKernels(NamedTuple):
    """What whole frames need besides the engine.

    gather : by the name of `FrameBytes`: `rgb`, and `nv12` where the bundle has it. For tiles of the bundle's type, as
        is blend, the one that counts faults.
    """

    gather: Mapping[str, Kernel]
    blend: Kernel


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


class EngineRuns:
    """The session's engines, by batch size, each bound to one fixed place for its tiles, on the session's stream."""

    def __init__(self, device: Device, tile: TileFacts, engines: Mapping[int, Engine], compute: Stream) -> None:
        self.device, self.tile, self.engines, self.compute = device, tile, engines, compute
        self._ends: tuple[Buffer, Buffer] | None = None
        """Where the engines read and write tiles."""
        self._parts: list[Buffer] = []
        self._runs: dict[int, tuple[Launch, Buffer]] = {}

    def tiles_in(self, most: int) -> Buffer:
        """Where tiles go for the engines, of up to `most` in a batch, the first time it is asked for."""
        if self._ends is None:
            given, wanted = self._tile_shapes(most)
            source = self.device.memory(given, self.tile.dtype)
            try:
                self._ends = source, self.device.memory(wanted, self.tile.dtype)
            except BaseException:
                source.close()
                raise
        return self._ends[0]

    def prepared(self, count: int) -> tuple[Launch, Buffer]:
        """What runs a batch of so many, and where its result is. Prepared once."""
        if count not in self._runs:
            assert self._ends is not None
            both = zip(self._ends, self._tile_shapes(count), strict=True)
            source, target = [self.device.part(whole, 0, shape, self.tile.dtype) for whole, shape in both]
            self._parts += [source, target]
            self._runs[count] = self.engines[count].prepare(source, target), target
        return self._runs[count]

    def _tile_shapes(self, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        tile = self.tile
        return (count, 3, tile.height, tile.width), (count, 3, tile.height * tile.scale, tile.width * tile.scale)

    def close(self) -> None:
        """Release the places; may be called again."""
        for buffer in (*self._parts, *(self._ends or ())):
            buffer.close()
        self._ends, self._parts, self._runs = None, [], {}


class _Room(NamedTuple):
    """What the frames of one size need on the device, whatever their addresses."""

    held: int
    outputs: Buffer
    origins: Buffer
    tables: list[Buffer]


class FrameEngine:
    """The engine of a pipeline whose items are frames of one size, to be read as `reads` says. See `device.Engine`."""

    def __init__(
        self, runs: EngineRuns, kernels: FrameKernels, tiles: TilePlan, sizes: tuple[int, ...], reads: FrameBytes
    ) -> None:
        self._runs, self._kernels, self._tiles, self._sizes, self._reads = runs, kernels, tiles, sizes, reads
        self._held: list[Buffer] = []
        scale = runs.tile.scale
        self._high, self._wide = tiles.rows.size * scale, tiles.columns.size * scale
        self.shape = (self._high, self._wide, 3)
        """Of the finished frame."""
        rows, columns = (int(kernels.blend.constants[name]) for name in ("ROWS", "COLUMNS"))
        bands = [
            math.ceil((span.done - span.start) / rows) * math.ceil(self._wide / columns) for span in tiles.rows.spans
        ]
        self._slots: dict[tuple[int, int], Buffer] = {}
        self._faults_before = [4 * sum(bands[:row]) for row in range(len(bands) + 1)]
        self.fault_bytes = self._faults_before[-1]
        """Of the count of each block of each band, float32."""
        self.bytes = aligned(3 * self._high * self._wide) + self.fault_bytes
        """Of the result: the frame, then the counts."""

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        faults = target.address + aligned(3 * self._high * self._wide)
        launches = self.launches(self._reads, source.address, target.address, faults)

        def launch(stream: Stream) -> None:
            for each in launches:
                each(stream)

        return launch

    @cached_property
    def _room(self) -> _Room:
        tile, tiles = self._runs.tile, self._tiles
        held = min(2, len(tiles.rows.spans))
        outputs = self.kept(
            (held * len(tiles.columns.spans), 3, tile.height * tile.scale, tile.width * tile.scale), tile.dtype
        )
        origins = self._uploaded(
            np.array([(y.origin, x.origin) for y in tiles.rows.spans for x in tiles.columns.spans], np.int32)
        )
        tables = [self._uploaded(table) for axis in (tiles.rows, tiles.columns) for table in axis_table(axis)]
        return _Room(held, outputs, origins, tables)

    def launches(self, reads: FrameBytes, source: int, target: int, faults: int) -> list[Launch]:
        """The work of a frame at `source`, which is read as `reads` says, into `target` and `faults`: addresses."""
        runs, tile, tiles = self._runs, self._runs.tile, self._tiles
        frame = reads.arguments(source, tiles.rows.size, tiles.columns.size)
        columns = len(tiles.columns.spans)
        held, outputs, origins, tables = self._room
        inputs, slots = runs.tiles_in(self._sizes[-1]), self._slots
        one = 3 * tile.height * tile.width * tile.scale**2 * np.dtype(tile.dtype).itemsize
        launches: list[Launch] = []
        for row in range(len(tiles.rows.spans)):
            for part in batches_of(range(columns), self._sizes):
                first = row % held * columns + part.start
                run, made = runs.prepared(len(part))
                if (first, len(part)) not in slots:
                    slot = runs.device.part(outputs, first * one, made.shape, tile.dtype)
                    self._held.append(slot)
                    slots[first, len(part)] = slot
                origin = origins.address + 8 * (row * columns + part.start)
                launches.append(self._gather(reads, frame, origin, inputs, len(part)))
                launches += [run, partial(_copy, slots[first, len(part)], made)]
            launches.append(self._blend(outputs, tables, target, faults + self._faults_before[row], row, held))
        return launches

    def _gather(self, reads: FrameBytes, frame: dict[str, Any], origins: int, inputs: Buffer, count: int) -> Launch:
        tile = self._runs.tile
        low, white = tile.value_range
        area = tile.height * tile.width
        return self._kernels.gather[reads.name].bind(
            **frame, origins=origins, out=inputs.address,
            tile_height=tile.height, tile_width=tile.width, out_tile=3 * area, out_channel=area, out_row=tile.width,
            gain=float(np.float32((white - low) / reads.white)), low_value=float(np.float32(low)), tiles=count,
        )  # fmt: skip

    def _blend(self, outputs: Buffer, tables: list[Buffer], target: int, faults: int, row: int, held: int) -> Launch:
        tile, span = self._runs.tile, self._tiles.rows.spans[row]
        low, white = tile.value_range
        high, wide = outputs.shape[2:]
        names = ("row_places", "row_weights", "column_places", "column_weights")
        return self._kernels.blend.bind(
            tiles=outputs.address, **{name: table.address for name, table in zip(names, tables, strict=True)},
            frame=target, faults=faults,
            first_row=span.start, last_row=span.done, height=self._high, width=self._wide,
            tile_columns=len(self._tiles.columns.spans), tile_rows_held=held,
            tile_stride=3 * high * wide, channel_stride=high * wide, tile_row_stride=wide,
            row_stride=3 * self._wide, column_stride=3, frame_channel_stride=1,
            gain=float(np.float32(255 / (white - low))), black=float(np.float32(low * 255 / (white - low))),
        )  # fmt: skip

    def kept(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        self._held.append(self._runs.device.memory(shape, dtype))
        return self._held[-1]

    def _uploaded(self, array: NDArray[Any]) -> Buffer:
        host: HostBuffer = self._runs.device.host(array.shape, array.dtype.str)
        np.copyto(host.array, array)
        buffer = self.kept(array.shape, array.dtype.str)
        self._runs.compute.copy(buffer, host)
        self._runs.compute.sync()
        host.close()
        return buffer

    def close(self) -> None:
        for buffer in reversed(self._held):  # parts before what they are parts of
            buffer.close()
        self._held = []


def check_faults(raw: NDArray[np.uint8]) -> None:
    """RuntimeFault where values of some block were not finite."""
    if (bad := raw.view(np.float32).sum(dtype=np.float64)) > 0:
        seen, remedy = f"{bad:.0f} values NaN or infinite", "Build with --precision fp32, or run trt-doctor."
        raise RuntimeFault("the engine failed on this frame", seen=seen, needed="finite values", remedy=remedy)


def _copy(target: Buffer, source: Buffer, stream: Stream) -> None:
    stream.copy(target, source)


def aligned(size: int) -> int:
    """The next multiple of 16 bytes: where counts may begin."""
    return -(-size // 16) * 16
