"""Loads a bundle's engines: which backend, whether it can run here, in batches of which size, and who may use them."""

from __future__ import annotations

import contextlib
import gc
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec
import numpy as np

from zoomrt.bundle import Bundle, Manifest, TileFacts
from zoomrt.errors import EngineMismatch, RuntimeFault, TileTooLarge, UsageError, unknown_name
from zoomrt.runtime.backends import BACKENDS, backends_for
from zoomrt.runtime.resources import check_process, core_count
from zoomrt.runtime.session import Session

Loader = Callable[[], tuple[Manifest, Session]]
Result = TypeVar("Result")

_ROUNDS = 3
_WORTH = 0.97  # a larger batch keeps a tile waiting longer, so it must take at most this share of the time per tile


def open_session(bundle: Bundle, threads: int | None, measure_batch: bool | None) -> Session:
    """Load a bundle's engines; arguments and errors as for `zoomrt.load`."""
    manifest = bundle.manifest
    what = f"cannot run bundle {str(bundle.path)!r} here"
    if manifest.steps != 1 and manifest.sampling is None:
        seen, needed = f"{manifest.steps} steps", "a one-step model, or a manifest that says how to sample"
        raise EngineMismatch(what, seen=seen, needed=needed, remedy="Build the bundle again with trt-build.")
    if manifest.backend not in BACKENDS.names():
        seen, needed = f"backend {manifest.backend!r}", f"one of {', '.join(BACKENDS.names())}"
        raise EngineMismatch(what, seen=seen, needed=needed, remedy="Build it with --target cpu to run it here.")
    backend = BACKENDS.named(manifest.backend)
    if backend.device == "cpu":
        check_process(threads or core_count())
    session = backend.open(bundle, threads)
    if backend.device != "cpu" if measure_batch is None else measure_batch:
        try:
            choose_batch(session)
        except BaseException:
            session.close()
            raise
    return session


def check_fallback(bundle: Bundle, fallback: Bundle) -> None:
    """UsageError unless `fallback` has the same network in the same precision, and a smaller tile."""
    one, other = bundle.manifest, fallback.manifest
    mine, theirs = _network_of(one), _network_of(other)
    seen = [f"another {name}: {theirs[name]}" for name in mine if mine[name] != theirs[name]]
    if other.tile.height * other.tile.width >= one.tile.height * one.tile.width:
        seen.append(f"tiles of {other.tile.height}x{other.tile.width}")
    if seen:
        engine = f" --backend {one.backend}" if one.backend in _on_cpu() else ""  # else a build takes the fastest
        raise UsageError(
            f"bundle {str(fallback.path)!r} cannot stand in for {str(bundle.path)!r}",
            seen=", ".join(seen),
            needed=f"the same build with tiles smaller than {one.tile.height}x{one.tile.width}",
            remedy=f"Build it with the same options,{engine} --tile {max(one.tile.height // 2, 1)}.",
        )


def _network_of(manifest: Manifest) -> dict[str, object]:
    """What gives a tile its pixels, whatever its size."""
    tile = manifest.tile
    return {
        "family": manifest.family,
        "weights": manifest.weights.sha256,
        "options": manifest.weights.options,
        "target": manifest.target,
        "backend": manifest.backend,
        "precision": manifest.precision,
        "arithmetic": manifest.arithmetic,
        "scale": tile.scale,
        "value range": tile.value_range,
        "colour": tile.colour,
        "start noise": tile.noise,
        "sampling": manifest.sampling,
    }


def _on_cpu() -> tuple[str, ...]:
    return tuple(backend.name for backend in backends_for("cpu"))


def in_other_runner(bundle: Bundle, backend: str) -> Bundle:
    """The same bundle for another runner, which gives the same numbers only where all is FP32."""
    manifest = bundle.manifest
    if backend not in (known := _on_cpu()):
        raise unknown_name("backend", backend, known)
    several = manifest.sampling is not None
    exact = manifest.backend in known and manifest.precision == "fp32" and not several
    if backend != manifest.backend and not exact:
        form = ", several graphs" if several else ""
        raise UsageError(
            f"cannot run bundle {str(bundle.path)!r} in {backend}",
            seen=f"{manifest.precision} for {manifest.backend}{form}",
            needed="an fp32 bundle for the CPU in one graph",
            remedy=f"Leave it out, or build with --backend {backend}.",
        )
    return bundle.replaced(msgspec.structs.replace(manifest, backend=backend))


def choose_batch(session: Session, clock: Callable[[], float] = time.perf_counter) -> None:
    """Time every batch size in use (a warm-up, then the median of three runs on flat tiles), keep the fastest per tile.

    Writes `session.stats.batch` and `batch_ms`. With a single size nothing is run. Raises what `Session.run` raises.
    """
    if len(session.batches) == 1:
        return
    tile, stats = session.tile, session.stats
    inputs = np.full((session.batches[-1], tile.channels, tile.height, tile.width), sum(tile.value_range) / 2, "f4")
    for size in session.batches:
        seconds = []
        for _ in range(1 + _ROUNDS):
            started = clock()
            session.run(inputs[:size])
            seconds.append(clock() - started)
        if size > stats.batch:  # memory ran out, and what was timed were smaller batches
            break
        stats.batch_ms[size] = statistics.median(seconds[1:]) * 1e3
    best = 1
    for size, milliseconds in stats.batch_ms.items():
        if milliseconds / size < stats.batch_ms[best] / best * _WORTH:
            best = size
    stats.batch = best


class LoadedEngine:
    """A session and the manifest that belongs to it: what `Upscaler` and `ZoomSession` share. Threads take turns.

    It owns the session, and says what happens where memory runs out.

    Parameters
    ----------
    fallback : loads the same network for a smaller tile, should memory run out; None where there is none.
    """

    def __init__(self, manifest: Manifest, session: Session, fallback: Loader | None = None) -> None:
        self.manifest, self.session = manifest, session
        """Of the engine in use: the fallback's once memory ran out."""
        self.closed = False
        self._fallback = fallback
        self._lock = threading.RLock()

    def may_shrink(self, tile: TileFacts) -> bool:
        """Whether there is an engine for a tile smaller than this, to be loaded or in use by now."""
        return self._fallback is not None or self.manifest.tile != tile

    def with_room(self, run: Callable[[], Result]) -> Result:
        """Do what needs the engine; again with the fallback where there is no room for one tile of this.

        Raises what `run` raises, TileTooLarge where there is no fallback, and what loading that one raises; the engine
        is closed then.
        """
        with self._lock:
            while True:
                self.check_open()
                tile = self.manifest.tile
                try:
                    return run()
                except (TileTooLarge, RuntimeFault) as error:
                    changed = self.manifest.tile != tile  # by a frame in between, that a callback sent
                    if not changed and (self._fallback is None or not isinstance(error, TileTooLarge)):
                        raise
                    why = error.seen
                self.shrink(tile, why)

    def shrink(self, tile: TileFacts, why: str) -> None:
        """Let go of the engine for `tile` and load the fallback; nothing if there is none or it is in use by now.

        why : the memory that was seen, for the note. No error about it should be alive any more: its traceback holds
        the engine. Raises what `with_room` does.
        """
        with self._lock:
            self.check_open()
            if self._fallback is None or self.manifest.tile != tile:
                return
            load_fallback, self._fallback = self._fallback, None
            self.session.close()
            gc.collect()  # errors of tiles that nobody waits for any more
            try:
                self.manifest, self.session = load_fallback()
            except BaseException:
                self.closed = True
                raise
            self.note_shrunk(tile, why)

    def note_shrunk(self, tile: TileFacts, why: str) -> None:
        """Say once that there was no room for this tile."""
        now = self.manifest.tile
        self.session.note(
            f"out of memory for tiles of {tile.height}x{tile.width} ({why}): "
            f"tiles of {now.height}x{now.width} from now on"
        )

    @contextlib.contextmanager
    def use(self) -> Iterator[Session]:
        """The session for as long as the block lasts; other threads' frames and tiles wait.

        Raises RuntimeFault when closed.
        """
        with self._lock:
            self.check_open()
            yield self.session

    def close(self) -> None:
        """Release it; may be called again. A frame under way in another thread ends with RuntimeFault."""
        self.closed = True
        with self._lock:
            self.session.close()

    def check_open(self) -> None:
        if self.closed:
            seen, needed = "a closed upscaler", "an open one"
            raise RuntimeFault("cannot upscale", seen=seen, needed=needed, remedy="Load the bundle again.")
