"""Memory does not suffice for one tile: the bundle with the smaller tile takes over, said once, no pixel lost."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runtime_helpers import FakeSession, facts, write_bundle
from seeds import rng_for

from zoomrt import ZoomSession
from zoomrt.bundle import Bundle
from zoomrt.bundle.records import WeightFacts
from zoomrt.cli._common import run as run_command
from zoomrt.cli.upscale import cli as upscale
from zoomrt.errors import OutOfMemory, RuntimeFault, TileTooLarge, UsageError
from zoomrt.runtime.backends import BACKENDS
from zoomrt.runtime.upscaler import Upscaler, engine_of, load

FRAME = rng_for("test_smaller_tile").integers(0, 256, (90, 90, 3), np.uint8)
EXPECTED = FRAME.repeat(4, 0).repeat(4, 1)
SMALL = {"height": 16, "width": 16, "overlap": 6, "context": 2}


def no_room() -> OutOfMemory:
    return OutOfMemory("the engine has no room", seen="12 MB left", needed="40 MB", remedy="Close other programs.")


class Room:
    """Stands for the memory of an engine."""


class Fake(FakeSession):
    """Holds its engine where ONNX Runtime's session does: in a local of the run that fails."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.room: Room | None = Room()

    def _execute(self, batch: np.ndarray) -> np.ndarray:
        room = self.room
        assert room is not None
        return super()._execute(batch)

    def _release(self) -> None:
        super()._release()
        self.room = None


class Sessions:
    """Stands in for ONNX Runtime: nearest neighbours; `fails(tile height, run)` says where memory runs out, run 0 is
    loading. `held` : whether the room of an earlier engine was still taken when one was loaded."""

    def __init__(self, fails: Callable[[int, int], bool]) -> None:
        self.fails, self.made, self.held = fails, list[Fake](), list[bool]()
        self.rooms = list[weakref.ref[Room]]()

    def __call__(self, bundle: Bundle, _threads: int | None) -> Fake:
        tile = bundle.manifest.tile
        self.held.append(any(room() is not None for room in self.rooms))

        def before(run: int) -> None:
            if self.fails(tile.height, run):
                raise no_room()

        made = Fake(tile, before=before)
        assert made.room is not None
        self.rooms.append(weakref.ref(made.room))
        before(0)
        self.made.append(made)
        return made


@pytest.fixture
def sessions() -> Iterator[Callable[[Callable[[int, int], bool]], Sessions]]:
    with ExitStack() as stack:

        def install(fails: Callable[[int, int], bool]) -> Sessions:
            made = Sessions(fails)
            stack.enter_context(BACKENDS.added(replace(BACKENDS.named("onnxruntime"), open=made)))
            return made

        yield install


@pytest.fixture
def bundles(tmp_path: Path) -> tuple[Path, Path]:
    return write_bundle(tmp_path / "large", facts(), 1), write_bundle(tmp_path / "small", facts(**SMALL), 1)


def both(bundles: tuple[Path, Path]) -> Upscaler:
    return load(bundles[0], fallback=bundles[1])


@pytest.mark.parametrize("run", [1, 7])
def test_in_a_frame_it_is_begun_again(sessions, bundles: tuple[Path, Path], run: int) -> None:
    made = sessions(lambda height, now: height == 32 and now == run)
    done: list[int] = []
    with both(bundles) as upscaler:
        with pytest.warns(UserWarning, match="tiles of 32x32.*12 MB left.*16x16 from now on") as said:
            result = upscaler.upscale(FRAME, on_tile=lambda count, _total: done.append(count))
        np.testing.assert_array_equal(result, EXPECTED)
        assert [one.tile.height for one in made.made] == [32, 16]
        assert made.made[0].released == 1
        assert made.held == [False, False], "its memory was needed"
        assert done.count(1) == (2 if run > 1 else 1)
        assert len(said) == len(upscaler.stats.notes) == 1
        assert upscaler.manifest.tile.height == 16
        np.testing.assert_array_equal(upscaler(FRAME[:40]), EXPECTED[:160])
    assert made.made[1].released == 1


def test_while_loading(sessions, bundles: tuple[Path, Path]) -> None:
    made = sessions(lambda height, now: height == 32 and now == 0)
    with pytest.warns(UserWarning, match="16x16 from now on"):
        upscaler = both(bundles)
    with upscaler:
        np.testing.assert_array_equal(upscaler(FRAME), EXPECTED)
        assert len(upscaler.stats.notes) == 1
    assert made.held == [False, False]
    with pytest.raises(UserWarning, match="16x16"):  # where warnings are errors
        both(bundles)
    assert [one.released for one in made.made] == [1, 1]


def test_with_room_it_is_not_loaded(sessions, bundles: tuple[Path, Path]) -> None:
    made = sessions(lambda _height, _now: False)
    with both(bundles) as upscaler:
        np.testing.assert_array_equal(upscaler(FRAME), EXPECTED)
    assert len(made.made) == 1


@pytest.mark.filterwarnings("ignore:out of memory for tiles")
@pytest.mark.parametrize("run", [0, 3])
def test_where_the_smaller_one_has_no_room_either(sessions, bundles: tuple[Path, Path], run: int) -> None:
    made = sessions(lambda height, now: now == (2 if height == 32 else run))
    upscaler = both(bundles)
    with pytest.raises(OutOfMemory):
        upscaler(FRAME)
    if run == 0:
        assert upscaler.closed
        with pytest.raises(RuntimeFault, match="closed"):
            upscaler(FRAME)
    else:
        np.testing.assert_array_equal(upscaler(FRAME), EXPECTED)
    upscaler.close()
    assert all(one.released == 1 for one in made.made)


def test_without_one_the_error_comes_through_and_names_it(sessions, bundles: tuple[Path, Path]) -> None:
    sessions(lambda _height, now: now == 2)
    with load(bundles[0]) as upscaler:
        with pytest.raises(TileTooLarge, match=r"no smaller batch.*--tile 16.*fallback"):
            upscaler(FRAME)
        np.testing.assert_array_equal(upscaler(FRAME), EXPECTED)


@pytest.mark.parametrize("run", [0, 3])
def test_the_command_says_so_once(
    sessions, bundles: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], run: int
) -> None:
    sessions(lambda height, now: height == 32 and now == run)
    for name in ("a", "b"):
        Image.fromarray(FRAME).save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / f"{name}.png") for name in ("a", "b")]
    words = [str(bundles[0]), *pictures, "-o", str(tmp_path / "out"), "--fallback", str(bundles[1])]
    assert run_command(upscale, words) == 0
    err = capfd.readouterr().err
    assert err.count("warning: out of memory for tiles of 32x32 (12 MB left): tiles of 16x16 from now on") == 1
    for name in ("a", "b"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), EXPECTED)


def refused() -> Iterator[tuple[dict[str, object], dict[str, object], str]]:
    yield {}, {}, "tiles of 32x32"
    yield SMALL | {"scale": 2}, {}, "another scale: 2"
    yield SMALL, {"family": "other"}, "another family: other"
    yield SMALL, {"weights": WeightFacts(sha256="ab" * 32)}, "another weights: abab"
    yield SMALL, {"weights": WeightFacts(options={"base": "cd"})}, "another options"
    yield SMALL, {"precision": "fp16"}, "another precision: fp16"
    yield SMALL, {"arithmetic": "bf16", "backend": "openvino"}, "another backend: openvino, another arithmetic: bf16"
    yield SMALL, {"target": "sm89"}, "another target: sm89"


@pytest.mark.parametrize(("tile", "changes", "seen"), list(refused()))
def test_another_network_is_refused(
    tmp_path: Path, tile: dict[str, object], changes: dict[str, object], seen: str
) -> None:
    large = write_bundle(tmp_path / "large", facts(), 1)
    other = write_bundle(tmp_path / "other", facts(**tile), 1, **changes)
    with pytest.raises(UsageError, match=rf"{seen}.*--tile 16"):
        load(large, fallback=other)


def test_memory_that_is_not_the_tiles_changes_nothing(sessions, bundles: tuple[Path, Path]) -> None:
    made = sessions(lambda _height, _now: False)

    def on_tile(_done: int, _total: int) -> None:
        raise no_room()

    with both(bundles) as upscaler:
        with pytest.raises(OutOfMemory):
            upscaler.upscale(FRAME, on_tile=on_tile)
        np.testing.assert_array_equal(upscaler(FRAME), EXPECTED)
        assert upscaler.manifest.tile.height == 32
    assert len(made.made) == 1


@pytest.mark.filterwarnings("ignore:out of memory for tiles")
def test_a_frame_in_between_changes_the_tile_of_the_one_around_it(sessions, bundles: tuple[Path, Path]) -> None:
    sessions(lambda height, now: height == 32 and now == 4)
    inner: list[np.ndarray] = []

    with both(bundles) as upscaler:

        def on_tile(done: int, _total: int) -> None:
            if done == 3 and not inner:
                inner.append(upscaler(FRAME))

        np.testing.assert_array_equal(upscaler.upscale(FRAME, on_tile=on_tile), EXPECTED)
        np.testing.assert_array_equal(inner[0], EXPECTED)


def test_a_closed_upscaler_loads_nothing(sessions, bundles: tuple[Path, Path]) -> None:
    made = sessions(lambda _height, _now: False)
    upscaler = both(bundles)
    upscaler.close()
    with pytest.raises(RuntimeFault, match="closed"):
        engine_of(upscaler).shrink(upscaler.manifest.tile, "")
    assert len(made.made) == 1


ZOOMED = rng_for("zoomed").integers(0, 256, (120, 160, 3), np.uint8)


@pytest.mark.filterwarnings("ignore:out of memory for tiles")
@pytest.mark.parametrize("shared", [False, True])
def test_zoom_sessions_follow(sessions, bundles: tuple[Path, Path], shared: bool) -> None:
    """Also one whose upscaler changed in somebody else's hands."""
    made = sessions(lambda height, now: height == 32 and now == 9)
    with (
        load(bundles[1]) as alone,
        both(bundles) as upscaler,
        ZoomSession(alone, (160, 120)) as wanted,
        ZoomSession(upscaler, (160, 120), still_tolerance=0.01) as session,
    ):
        before = session.process(ZOOMED, 8.0)
        made.rooms = made.rooms[1:]  # not those of `alone`
        if shared:
            upscaler(ZOOMED)
        else:
            whole = session.process(ZOOMED, 1.5)
            np.testing.assert_array_equal(whole.pixels, wanted.process(ZOOMED, 1.5).pixels)
        assert upscaler.manifest.tile.height == 16
        assert made.held[-1] is False, "the engine before was gone"
        after = session.process(ZOOMED, 8.0)
        assert (after.mode, after.problem) == ("full", None)
        assert after.tiles == wanted.process(ZOOMED, 8.0).tiles
        np.testing.assert_array_equal(after.pixels, wanted.process(ZOOMED, 8.0).pixels)
        np.testing.assert_allclose(after.pixels.astype(int), before.pixels.astype(int), atol=1)


@pytest.mark.filterwarnings("ignore:out of memory for tiles")
def test_sessions_that_run_out_at_once_all_answer(sessions, bundles: tuple[Path, Path]) -> None:
    sessions(lambda height, now: height == 32 and now >= 2)
    with both(bundles) as upscaler:
        zooms = [ZoomSession(upscaler, (160, 120)) for _ in range(3)]
        modes: list[str] = []
        threads = [
            threading.Thread(target=lambda one=one: modes.append(one.process(ZOOMED, 2.0).mode)) for one in zooms
        ]
        threads += [threading.Thread(target=lambda: modes.append("full" if upscaler(ZOOMED).size else ""))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for one in zooms:
            one.close()
    assert modes == ["full"] * 4


@pytest.mark.filterwarnings("ignore:out of memory for tiles")
@pytest.mark.parametrize("run", [1, 2, 3])
def test_with_a_budget_and_a_moving_camera(
    sessions, bundles: tuple[Path, Path], run: int, rng: np.random.Generator
) -> None:
    """Runs 1 and 2 are the warm-up; a tile that fails after its frame was answered changes the engine too."""
    sessions(lambda height, now: height == 32 and now == run)
    with both(bundles) as upscaler, ZoomSession(upscaler, (160, 120), budget_ms=5) as session:
        for _ in range(500):
            session.process(rng.integers(0, 256, (120, 160, 3), np.uint8), 4.0)
            if upscaler.manifest.tile.height == 16:
                break
        assert upscaler.manifest.tile.height == 16
        assert session.process(ZOOMED, 4.0).problem is None
