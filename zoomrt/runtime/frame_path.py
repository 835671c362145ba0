"""Whole 8-bit frames on the GPU: bytes go in and come out, tiles are cut and blended there by the bundle's kernels.

    frame --copy in--> tile_gather -> engine -> tile_blend, a row of tiles at a time --copy out--> frame and sums

Written to the argument lists of `zoomrt/kernels/tile_gather.py` and `tile_blend.py`; NOT RUN on a GPU so far. Two rows
of tiles are held: a row is blended as soon as it is there, with the one above. The sums are for the colour step.
The engine has one fixed place for its tiles, from which they are copied into their row: it is prepared once for each
batch size, whatever sizes frames have. Frames that are on the GPU already are read where they are, and only the sums
come out: the kernels' arguments are bound for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from zoomrt.bundle import TileFacts
from zoomrt.errors import RuntimeFault
from zoomrt.runtime.colour import Moments
from zoomrt.runtime.device import Buffer, Device, Engine, HostBuffer, Launch, Stream
from zoomrt.runtime.interop import DeviceView
from zoomrt.runtime.scheduler import Pipeline
from zoomrt.runtime.session import batches_of
from zoomrt.runtime.tiles import AxisPlan, TilePlan, plan

__all__ = ["ColourKernels", "FramePath", "Kernel", "axis_table"]

_SUMS = 7  # per block of the blend: sums of red, green and blue, of their squares, values that were not finite


class Kernel(Protocol):
    """A loaded kernel: `cuda_kernel.CudaKernel`."""

    @property
    def constants(self) -> Mapping[str, Any]: ...

    def bind(self, **values: Any) -> Launch: ...


class ColourKernels(NamedTuple):
    """The three kernels of `zoomrt/kernels/colour_match.py`, for RGB frames."""

    source: Kernel
    table: Kernel
    apply: Kernel


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
    and tiles of the bundle's type, the blend with sums. colours : match `mean_std` colours here too; frames of up to
    2^31 - 1 output pixels then.
    """

    def __init__(
        self,
        device: Device,
        tile: TileFacts,
        engines: Mapping[int, Engine],
        compute: Stream,
        gather: Kernel,
        blend: Kernel,
        colours: ColourKernels | None = None,
    ) -> None:
        self.device, self.tile, self.engines, self.compute = device, tile, engines, compute
        self.gather, self.blend, self.colours = gather, blend, colours
        self._plan: tuple[int, int, tuple[int, ...], bool] | None = None
        self._pipeline: Pipeline | None = None
        self._resident: _ResidentFrames | None = None
        self._ends: tuple[Buffer, Buffer] | None = None
        """Where the engines read and write tiles."""
        self._parts: list[Buffer] = []
        self._runs: dict[int, tuple[Launch, Buffer]] = {}

    def run(
        self, frame: NDArray[np.uint8], out: NDArray[np.uint8], moments: Moments | None, sizes: tuple[int, ...]
    ) -> None:
        """Upscale a frame, (H, W, 3), into `out`, C-contiguous, and count its codes into `moments`.

        sizes : batch sizes to use, of those that there are engines for.

        Raises OutOfMemory, and RuntimeFault for values that are not finite.
        """
        height, width = frame.shape[:2]
        self.device.use()
        if self._plan != (height, width, sizes, False):
            self._forget_frame()
            self._pipeline = Pipeline(self.device, 1, self.compute)
            engine = _FrameEngine(self, plan(height, width, self.tile), sizes)
            self._pipeline.add(1, engine, ((1, frame.size), (1, engine.bytes)), "uint8")
            self._plan = (height, width, sizes, False)
        assert self._pipeline is not None

        def fill(_: range, staged: NDArray[np.uint8]) -> None:
            np.copyto(staged.reshape(frame.shape), frame)

        with closing(self._pipeline.run([range(1)], fill)) as landings:
            for _, land in landings:
                result = land()[0]
                np.copyto(out, result[: out.size].reshape(out.shape))
                sums = _checked_sums(result[_aligned(out.size) :])
        if moments is not None:
            moments.add_sums(height * width * self.tile.scale**2, sums[:3], sums[3:6])

    def run_resident(
        self, frame: DeviceView, out: DeviceView | None, sizes: tuple[int, ...], done: Callable[[], None]
    ) -> tuple[int, object]:
        """Upscale a frame that is on the device, (H, W, 3) uint8 with dense rows, which the compute stream has waited
        for. out : C-contiguous; None takes memory of ours, good until the next frame. done : called when all work on
        both is on the compute stream. The host waits for the sums, also where it fails, so both may be freed then.

        Returns the result's address and owner. Raises what `run` raises; memory for the size is given back then.
        """
        height, width = frame.shape[:2]
        self.device.use()
        if self._plan != (height, width, sizes, True):
            self._forget_frame()
            self._resident = _ResidentFrames(self, plan(height, width, self.tile), sizes)
            self._plan = (height, width, sizes, True)
        assert self._resident is not None
        try:
            return self._resident.run(frame, out, done)
        except BaseException:
            self._forget_frame()  # waits
            raise

    def holds(self, view: DeviceView) -> bool:
        """Whether an array lies in the result of an earlier frame."""
        return self._resident is not None and self._resident.holds(view.address)

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

    def engine_run(self, count: int) -> tuple[Launch, Buffer]:
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
        """Release what was allocated for frames; may be called again."""
        self._forget_frame()
        for buffer in (*self._parts, *(self._ends or ())):
            buffer.close()
        self._ends, self._parts, self._runs = None, [], {}

    def _forget_frame(self) -> None:
        if self._pipeline is not None:
            self._pipeline.close()
        if self._resident is not None:
            with suppress(Exception):
                self.compute.sync()  # a frame that failed may be under way
            self._resident.close()
        self._pipeline = self._resident = self._plan = None


class _Room(NamedTuple):
    """What the frames of one size need on the device, whatever their addresses."""

    held: int
    outputs: Buffer
    origins: Buffer
    tables: list[Buffer]
    colours: tuple[Buffer, Buffer] | None


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
        self._slots: dict[tuple[int, int], Buffer] = {}
        self._sums_before = [sum(bands[:row]) * _SUMS * 4 for row in range(len(bands) + 1)]
        self.sum_bytes = self._sums_before[-1]
        """Of the sums of each block of each band."""
        self.bytes = _aligned(3 * self._high * self._wide) + self.sum_bytes
        """Of the result: the frame, then the sums."""

    def prepare(self, source: Buffer, target: Buffer) -> Launch:
        sums = target.address + _aligned(3 * self._high * self._wide)
        launches = self.launches(source.address, 3 * self._tiles.columns.size, target.address, sums)

        def launch(stream: Stream) -> None:
            for each in launches:
                each(stream)

        return launch

    @cached_property
    def _room(self) -> _Room:
        path, tile, tiles = self._path, self._path.tile, self._tiles
        held = min(2, len(tiles.rows.spans))
        outputs = self.kept(
            (held * len(tiles.columns.spans), 3, tile.height * tile.scale, tile.width * tile.scale), tile.dtype
        )
        origins = self._uploaded(
            np.array([(y.origin, x.origin) for y in tiles.rows.spans for x in tiles.columns.spans], np.int32)
        )
        tables = [self._uploaded(table) for axis in (tiles.rows, tiles.columns) for table in axis_table(axis)]
        if path.colours is None:
            return _Room(held, outputs, origins, tables, None)
        rows, columns = (int(path.colours.source.constants[name]) for name in ("ROWS", "COLUMNS"))
        programs = math.ceil(tiles.rows.size / rows) * math.ceil(tiles.columns.size / columns)
        colours = self.kept((programs, _SUMS), "float32"), self.kept((3, 256), "uint8")
        return _Room(held, outputs, origins, tables, colours)

    def launches(self, source: int, row_stride: int, target: int, sums: int) -> list[Launch]:
        """The work of a frame at `source`, its rows `row_stride` bytes apart, into `target` and `sums`: addresses."""
        path, tile, tiles = self._path, self._path.tile, self._tiles
        columns = len(tiles.columns.spans)
        held, outputs, origins, tables, colours = self._room
        inputs, slots = path.tiles_in(self._sizes[-1]), self._slots
        one = 3 * tile.height * tile.width * tile.scale**2 * np.dtype(tile.dtype).itemsize
        launches: list[Launch] = []
        for row in range(len(tiles.rows.spans)):
            for part in batches_of(range(columns), self._sizes):
                first = row % held * columns + part.start
                run, made = path.engine_run(len(part))
                if (first, len(part)) not in slots:
                    slot = path.device.part(outputs, first * one, made.shape, tile.dtype)
                    self._held.append(slot)
                    slots[first, len(part)] = slot
                launches.append(
                    self._gather(
                        source, row_stride, origins.address + 8 * (row * columns + part.start), inputs, len(part)
                    )
                )
                launches += [run, partial(_copy, slots[first, len(part)], made)]
            launches.append(self._blend(outputs, tables, target, sums + self._sums_before[row], row, held))
        if path.colours is not None and colours is not None:
            launches += self._colours(path.colours, source, row_stride, target, sums, *colours)
        return launches

    def _gather(self, frame: int, row_stride: int, origins: int, inputs: Buffer, count: int) -> Launch:
        tile, height, width = self._path.tile, self._tiles.rows.size, self._tiles.columns.size
        low, white = tile.value_range
        area = tile.height * tile.width
        return self._path.gather.bind(
            frame=frame, origins=origins, out=inputs.address, height=height, width=width,
            row_stride=row_stride, column_stride=3, channel_stride=1,
            tile_height=tile.height, tile_width=tile.width, out_tile=3 * area, out_channel=area, out_row=tile.width,
            gain=float(np.float32((white - low) / 255)), low_value=float(np.float32(low)), tiles=count,
        )  # fmt: skip

    def _blend(self, outputs: Buffer, tables: list[Buffer], target: int, sums: int, row: int, held: int) -> Launch:
        tile, span = self._path.tile, self._tiles.rows.spans[row]
        low, white = tile.value_range
        high, wide = outputs.shape[2:]
        names = ("row_places", "row_weights", "column_places", "column_weights")
        return self._path.blend.bind(
            tiles=outputs.address, **{name: table.address for name, table in zip(names, tables, strict=True)},
            frame=target, sums=sums,
            first_row=span.start, last_row=span.done, height=self._high, width=self._wide,
            tile_columns=len(self._tiles.columns.spans), tile_rows_held=held,
            tile_stride=3 * high * wide, channel_stride=high * wide, tile_row_stride=wide,
            row_stride=3 * self._wide, column_stride=3, frame_channel_stride=1,
            gain=float(np.float32(255 / (white - low))), black=float(np.float32(low * 255 / (white - low))),
        )  # fmt: skip

    def _colours(
        self, kernels: ColourKernels, frame: int, row_stride: int, target: int, result: int, sums: Buffer, table: Buffer
    ) -> list[Launch]:
        """Sums of the input, a table of codes from these and the blend's, and the table applied in place."""
        height, width, high, wide = self._tiles.rows.size, self._tiles.columns.size, self._high, self._wide
        return [
            kernels.source.bind(
                frame=frame, sums=sums.address, height=height, width=width,
                row_stride=row_stride, column_stride=3, channel_stride=1, gain=1.0,
            ),
            kernels.table.bind(
                source=sums.address, result=result, table=table.address,
                source_programs=sums.shape[0], result_programs=self.sum_bytes // (4 * _SUMS),
                source_pixels=height * width, result_pixels=high * wide,
            ),
            kernels.apply.bind(
                frame=target, table=table.address, height=high, width=wide,
                row_stride=3 * wide, column_stride=3, channel_stride=1,
            ),
        ]  # fmt: skip

    def kept(self, shape: tuple[int, ...], dtype: str) -> Buffer:
        self._held.append(self._path.device.memory(shape, dtype))
        return self._held[-1]

    def _uploaded(self, array: NDArray[Any]) -> Buffer:
        host: HostBuffer = self._path.device.host(array.shape, array.dtype.str)
        np.copyto(host.array, array)
        buffer = self.kept(array.shape, array.dtype.str)
        self._path.compute.copy(buffer, host)
        self._path.compute.sync()
        host.close()
        return buffer

    def close(self) -> None:
        for buffer in reversed(self._held):  # parts before what they are parts of
            buffer.close()
        self._held = []


class _ResidentFrames:
    """Frames of one size that are on the device already."""

    def __init__(self, path: FramePath, tiles: TilePlan, sizes: tuple[int, ...]) -> None:
        self._path, self._engine = path, _FrameEngine(path, tiles, sizes)
        self._shape = (tiles.rows.size * path.tile.scale, tiles.columns.size * path.tile.scale, 3)
        self._done = path.device.event()
        self._result: Buffer | None = None
        self._sums: tuple[Buffer, HostBuffer] | None = None

    def run(self, frame: DeviceView, out: DeviceView | None, done: Callable[[], None]) -> tuple[int, object]:
        compute = self._path.compute
        if out is None and self._result is None:
            self._result = self._engine.kept(self._shape, "uint8")
        target = out or self._result
        assert target is not None
        if self._sums is None:
            shape = (self._engine.sum_bytes,)
            self._sums = self._engine.kept(shape, "uint8"), self._path.device.host(shape, "uint8")
        sums, landed = self._sums
        row_stride = frame.strides[0] if frame.shape[0] > 1 else 3 * frame.shape[1]
        for launch in self._engine.launches(frame.address, row_stride, target.address, sums.address):
            launch(compute)
        done()
        compute.copy(landed, sums)
        compute.record(self._done)
        self._done.sync()
        _checked_sums(landed.array)
        return target.address, out.owner if out else target

    def holds(self, address: int) -> bool:
        return self._result is not None and 0 <= address - self._result.address < math.prod(self._shape)

    def close(self) -> None:
        self._engine.close()
        if self._sums is not None:
            self._sums[1].close()


def _checked_sums(raw: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The sums of all blocks together. RuntimeFault where values were not finite."""
    sums: NDArray[np.float64] = raw.view(np.float32).reshape(-1, _SUMS).astype(np.float64).sum(0)
    if (bad := sums[6]) > 0:
        seen, remedy = f"{bad:.0f} values NaN or infinite", "Build with --precision fp32, or run trt-doctor."
        raise RuntimeFault("the engine failed on this frame", seen=seen, needed="finite values", remedy=remedy)
    return sums


def _copy(target: Buffer, source: Buffer, stream: Stream) -> None:
    stream.copy(target, source)


def _aligned(size: int) -> int:
    return -(-size // 16) * 16
