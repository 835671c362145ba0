"""The zoom session, which a camera app holds in its frame loop: frames go in, sharp views of a crop come out, in time.

A frame asks for the tiles that its crop needs. Those whose input did not change are there already; the planner says how
many of the others fit into the budget, the engine's thread computes them, and the view is made from what is there when
time is up. While the view stands still the engine goes on, and the next frames are sharper. At most one frame waits:
a newer one takes its place.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt._deprecated import renamed_arguments
from zoomrt.errors import RuntimeFault, UsageError
from zoomrt.runtime.frames.pixel_formats import CameraFrame, PixelFormat
from zoomrt.runtime.frames.yuv import read_window, rows_to_write, write_rows
from zoomrt.runtime.upscaler import Upscaler, engine_of, load
from zoomrt.runtime.zoom.deadline import Planner, mode_of
from zoomrt.runtime.zoom.latest import NewestFirst, closed_fault, ms_since
from zoomrt.runtime.zoom.request import Request, request_of
from zoomrt.runtime.zoom.result import Ticket, ZoomResult
from zoomrt.runtime.zoom.settings import check_settings, check_wait
from zoomrt.runtime.zoom.temporal import Smoother
from zoomrt.runtime.zoom.tile_cache import Codes, TileCache, unchanged
from zoomrt.runtime.zoom.tile_engine import Job, TileEngine
from zoomrt.runtime.zoom.view import View, view_of


class ZoomSession:
    """Views of a crop, frame after frame.

    Any thread may call any method. Frames are answered one at a time. A frame is read until its result is there and not
    after, so its buffer may be used again then; it is never written to. End with `with` or `close()`, which wait for
    the threads; a session that nobody holds any more ends its threads too, once Python collects it.

    Parameters
    ----------
    bundle
        The folder of a bundle, or a loaded `Upscaler`, which stays the caller's and may serve several sessions; one
        with a smaller tile to fall back on is loaded with `load(..., fallback=)`.
    output_size
        (width, height) of every view, in pixels.
    budget_ms
        From a frame's arrival to its view, up to 1,000,000; None computes every tile, however long it takes.
    output_format
        Of the views; None means that of each frame. YUV keeps the frame's matrix, range and siting. Frames of 10 and 16
        bits go through with all of them.
    reuse
        False computes every tile anew, for measurements.
    cache_bytes
        Memory for tiles, 0 or more; one of 192 at scale 4 takes 4 MB. Those of the view that is shown stay even where
        they alone take more; the others are kept in case they are needed again.
    still_tolerance
        In [0, 1], how much a tile's input may change and still count as unchanged. 0 is exact. Sensor noise changes
        every frame: with about three times its standard deviation a still scene is not computed again, at the price
        that a change below it is not seen.
    noise
        Standard deviation of the sensor's noise, in [0, 1]: what does not move is averaged over time, so that a still
        scene does not flicker. 0 is off, and then a view depends on its frame alone.
    colour, threads, verify
        As for `load`; with a loaded `Upscaler`, leave them out.

    Raises
    ------
    ZoomrtError
        What `load` raises; UsageError for a size, budget, format, tolerance or number of bytes that makes no sense.

    Examples
    --------
    >>> with zoomrt.ZoomSession("edge-fp32-cpu", (1280, 720), budget_ms=33) as session:
    ...     ticket = session.submit(frame, zoom=3.0, centre=(0.6, 0.4))
    ...     view = session.result(ticket).pixels
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Upscaler,
        output_size: tuple[int, int],
        *,
        budget_ms: float | None = None,
        output_format: PixelFormat | None = None,
        reuse: bool = True,
        cache_bytes: int = 512 << 20,
        still_tolerance: float = 0.0,
        noise: float = 0.0,
        colour: str | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        check_settings(output_size, budget_ms, output_format, cache_bytes, still_tolerance, noise)
        self._owns = not isinstance(bundle, Upscaler)
        if isinstance(bundle, Upscaler):
            if colour is not None:
                seen, remedy = f"colour={colour!r} with a loaded Upscaler", "Pass it to zoomrt.load."
                raise UsageError("cannot choose the colour step", seen=seen, needed="it when loading", remedy=remedy)
            self._upscaler = bundle
        else:
            self._upscaler = load(bundle, threads=threads, verify=verify, colour=colour)
        self._output = (output_size[1], output_size[0])
        self._format = output_format
        self._reuse, self._tolerance = reuse, still_tolerance
        self._planner = Planner(None if budget_ms is None else float(budget_ms) / 1e3)
        self._cache = TileCache(cache_bytes, still_tolerance)
        self._turn = threading.Lock()  # one frame at a time; guards what follows
        self._view: tuple[tuple[object, ...], View] | None = None
        self._smoother = Smoother(noise) if noise > 0 else None
        self._missing: dict[int, NDArray[np.float32]] = {}
        self._refined: list[Job] = []
        self._frames = NewestFirst()
        try:
            engine_of(self._upscaler).with_room(lambda: self._warm_up(budget_ms))
            self._facts = self._upscaler.manifest.tile
            self._engine = TileEngine(
                engine_of(self._upscaler),
                _keeper(self._cache, reuse),
                self._planner.tile.observe,
                yields=budget_ms is not None,
            )
            weakref.finalize(self, _stop, self._frames, self._engine)  # neither holds the session
        except BaseException:
            if self._owns:
                self._upscaler.close()
            raise

    @renamed_arguments("ZoomSession.submit", center="centre")
    def submit(
        self,
        frame: CameraFrame | NDArray[Any] | object,
        zoom: float,
        centre: tuple[float, float] = (0.5, 0.5),
        *,
        out: CameraFrame | NDArray[Any] | None = None,
    ) -> Ticket:
        """Hand in a frame and return at once. A frame that still waits for its turn is dropped for this one.

        Parameters
        ----------
        frame
            A `CameraFrame`, or (H, W, 3) uint8 or uint16 RGB: an array, a buffer, DLPack or `__cuda_array_interface__`.
        zoom
            1 to 64; at 1 the view is the largest part of the frame with its shape.
        centre
            (x, y) of the view's middle, each a fraction of the frame in [0, 1]; the view is moved to stay inside.
        out
            Where to write the view: a writable frame, or (H, W, 3) uint8 or uint16 array for RGB, of the output size,
            and of `output_format` unless that is None; None makes a new one.

        Returns
        -------
        Ticket
            It raises InputError for a frame, zoom, centre or `out` that cannot be used, RuntimeFault or OutOfMemory
            when the engine fails on one of its tiles. No other frame is affected.

        Raises
        ------
        RuntimeFault
            The session is closed.
        """
        arrival = time.perf_counter()
        self._check_open()
        try:
            request = request_of(frame, zoom, centre, out, arrival)
        except Exception as problem:
            ticket: Ticket = Future()
            ticket.set_exception(problem)
            return ticket
        return self._frames.put(functools.partial(self._answer, request), arrival)

    def result(self, ticket: Ticket, timeout_s: float | None = None) -> ZoomResult:
        """Wait for a ticket's view.

        Parameters
        ----------
        ticket
            From `submit`.
        timeout_s
            Seconds, up to 46 days; None waits without limit.

        Raises
        ------
        TimeoutError
            It is not there yet.
        UsageError
            Nobody can wait for so long.
        ZoomrtError
            What became of the frame, see `submit`.
        """
        check_wait(timeout_s)
        return ticket.result(None if timeout_s is None else float(timeout_s))

    @renamed_arguments("ZoomSession.process", center="centre")
    def process(
        self,
        frame: CameraFrame | NDArray[Any] | object,
        zoom: float,
        centre: tuple[float, float] = (0.5, 0.5),
        *,
        out: CameraFrame | NDArray[Any] | None = None,
    ) -> ZoomResult:
        """`submit` and `result` in one, in this thread; it waits for its turn and is never dropped.

        Parameters
        ----------
        frame, zoom, centre, out
            As for `submit`.

        Raises
        ------
        ZoomrtError
            What `submit` and its ticket raise.
        """
        self._check_open()
        return self._answer(request_of(frame, zoom, centre, out, time.perf_counter()))

    @renamed_arguments("ZoomSession.bicubic", center="centre")
    def bicubic(
        self,
        frame: CameraFrame | NDArray[Any] | object,
        zoom: float,
        centre: tuple[float, float] = (0.5, 0.5),
        *,
        out: CameraFrame | NDArray[Any] | None = None,
    ) -> CameraFrame:
        """The same view without the network, for comparison.

        Parameters
        ----------
        frame, zoom, centre, out
            As for `submit`.
        """
        request = request_of(frame, zoom, centre, out, time.perf_counter())
        frame = request.frame
        view = view_of(frame.shape, self._output, self._facts, request.zoom, request.centre, frame.pixel_aspect)
        target = request.target(self._output, self._format)
        _write(view, read_window(frame, *view.window), {}, target)
        return target

    def close(self) -> None:
        """Release everything; may be called again. Frames that wait or are under way end with RuntimeFault."""
        self._frames.stop()
        self._engine.close()
        self._frames.join()
        with self._turn:
            self._cache.clear()
        if self._owns:
            self._upscaler.close()

    @property
    def closed(self) -> bool:
        """Whether it cannot be used any more."""
        return self._frames.closed

    @property
    def tile_ms(self) -> float | None:
        """What the session counts on for one tile, in milliseconds; None before the first."""
        seconds = self._planner.tile.seconds
        return None if seconds is None else seconds * 1e3

    def __enter__(self) -> ZoomSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, request: Request) -> ZoomResult:
        with self._turn:
            while True:
                self._follow_tile()
                try:
                    return self._answered(request)
                except RuntimeFault:
                    if self._facts == self._upscaler.manifest.tile:
                        raise

    def _follow_tile(self) -> None:
        """The upscaler's tile is a smaller one once memory ran out; whatever is known is about another then."""
        if self._facts != self._upscaler.manifest.tile:
            self._facts, self._view, self._missing, self._refined = self._upscaler.manifest.tile, None, {}, []
            self._cache.clear()
            self._planner.tile.forget()

    def _answered(self, request: Request) -> ZoomResult:
        """One frame, while it is this thread's turn."""
        frame = request.frame
        view = self._view_of(frame.shape, request.zoom, request.centre, frame.pixel_aspect)
        out = request.target(self._output, self._format)
        window = read_window(frame, *view.window)
        if self._smoother is not None:
            window = self._smoother.apply(window, view.window, frame.shape)
        shown, jobs = self._find(view, window)
        reused = len(shown)
        # of tiles that were left to the engine after the frame before
        problem = next((job.error for job in self._refined if job.error is not None), None)
        computed = self._compute(jobs, shown, request.arrival)
        started = time.perf_counter()
        _write(view, window, shown, out)
        self._planner.finish.observe(time.perf_counter() - started)
        needed, latency = len(view.needed), ms_since(request.arrival)
        return ZoomResult(out, mode_of(len(shown), needed), needed, computed, reused, latency, problem=problem)

    def _view_of(self, size: tuple[int, int], zoom: float, centre: tuple[float, float], pixel_aspect: float) -> View:
        """The plan of this view; that of the frame before if nothing moved."""
        key = (size, zoom, centre, pixel_aspect)
        if self._view is None or self._view[0] != key:
            self._view = (key, view_of(size, self._output, self._facts, zoom, centre, pixel_aspect))
            self._missing = {}
        return self._view[1]

    def _find(self, view: View, window: NDArray[np.float32]) -> tuple[dict[int, Codes], list[Job]]:
        """Tiles that are there, and jobs for those that are not, the centre first."""
        shown, jobs = {}, []
        self._cache.pin(map(view.place, view.needed))
        for index in view.needed:
            job = Job(index, view.tile_input(window, index), view)
            codes = self._cache.get(job.place, job.source) if self._reuse else None
            if codes is None:
                jobs.append(job)
            else:
                shown[index] = codes
        return shown, jobs

    def _compute(self, jobs: list[Job], shown: dict[int, Codes], arrival: float) -> int:
        """Have the engine compute the tiles that fit, add them to `shown`; returns how many there were."""
        engine, planner = self._engine, self._planner
        running, since = engine.running()
        busy_s = max((planner.tile.mean or 0.0) * len(running) - since, 0.0)
        jobs = [next((other for other in running if other.same(job)), job) for job in jobs]
        under_way = [job for job in jobs if job in running]
        fresh = [job for job in jobs if job not in running]
        now = planner.tiles_now(time.perf_counter() - arrival, len(fresh), busy_s)
        engine.replace(fresh if self._is_still(jobs) else fresh[:now])
        left = planner.time_left(time.perf_counter() - arrival)
        soon = under_way if left is None or busy_s <= left else []
        engine.wait([*soon, *fresh[:now]], left)
        self._check_open()
        self._missing = {job.index: job.source for job in jobs}
        finished = [job for job in jobs if job.done]
        self._refined = [job for job in jobs if job not in finished]
        for job in finished:
            if job.error is not None:
                engine.replace([])
                raise job.error
            assert job.codes is not None
            shown[job.index] = job.codes
        return len(finished)

    def _is_still(self, jobs: list[Job]) -> bool:
        """Whether the frame before lacked the same tiles in the same view: the engine then goes on after the answer."""
        return bool(jobs) and all(
            job.index in self._missing and unchanged(self._missing[job.index], job.source, self._tolerance)
            for job in jobs
        )

    def _warm_up(self, budget_ms: float | None) -> None:
        """Refuse a bundle without tiles; with a budget, learn what a tile costs before the first frame needs it."""
        with engine_of(self._upscaler).use() as session:
            if budget_ms is None:
                return
            tile = np.zeros((1, session.tile.channels, session.tile.height, session.tile.width), np.float32)
            session.run(tile)  # the first run allocates and is not typical
            started = time.perf_counter()
            session.run(tile)
            self._planner.tile.observe(time.perf_counter() - started)

    def _check_open(self) -> None:
        if self.closed:
            raise closed_fault()


def _write(view: View, window: NDArray[np.float32], shown: Mapping[int, Codes], target: CameraFrame) -> None:
    for rows in view.strips:
        write_rows(view.compose(window, shown, rows_to_write(rows, target)), target, rows)


def _keeper(cache: TileCache, reuse: bool) -> Callable[[Job], None]:
    def keep(job: Job) -> None:
        assert job.codes is not None
        if reuse:
            cache.put(job.place, job.source, job.codes)

    return keep


def _stop(frames: NewestFirst, engine: TileEngine) -> None:
    """What is left to do for a session that was dropped without `close`."""
    frames.stop()
    engine.stop()
