"""files.py: look-ups that never wait and never surprise, writes whole or not at all, scratch that is swept in time."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from zoomrt import _scratch, files
from zoomrt.errors import BundleError, InputError, StorageError

LONG = "n" * 300
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file systems")


@pytest.fixture(autouse=True)
def _forget() -> None:
    """What is remembered for the length of a process: which folders were swept, what was told."""
    _scratch._sweep.cache_clear()
    files._told.clear()


def as_nobody(code: str, folder: Path) -> str:
    """Run Python in `folder` as a user without rights, if the tests run as root, and return what it prints."""
    command = [sys.executable, "-c", code]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- look-ups


@pytest.mark.parametrize("look", [files.exists, files.is_file, files.is_folder])
def test_names_that_no_file_can_have(tmp_path: Path, look: Callable[..., bool]) -> None:
    with pytest.raises(InputError, match=r"name too long, need .* shorter name"):
        look(tmp_path / LONG)
    with pytest.raises(BundleError, match="null byte"):
        look("a\0b", BundleError)


def test_kinds_of_things(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    seen = {
        n: (files.exists(p), files.is_file(p), files.is_folder(p)) for n in os.listdir(tmp_path) for p in [tmp_path / n]
    }
    assert seen == {
        "file": (True, True, False),
        "link": (True, True, False),
        "lost": (False, False, False),
        "pipe": (True, False, False),
    }
    assert files.is_folder(tmp_path)
    assert not files.exists(tmp_path / "file" / "below")
    assert files.size_of(tmp_path / "link") == 3
    assert files.entries(tmp_path) == sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="cannot list folder"):
        files.entries(tmp_path / "file")


@pytest.mark.parametrize(
    ("what", "seen"),
    [
        ("pipe", "not a file"),
        ("/dev/zero", "not a file"),
        (".", "a folder"),
        ("none", "nothing there"),
        (LONG, "too long"),
    ],
)
def test_only_regular_files_are_read(tmp_path: Path, what: str, seen: str) -> None:
    """A pipe without a writer would be waited for, /dev/zero has no end."""
    os.mkfifo(tmp_path / "pipe")
    for read in (
        lambda path: files.read_bytes(path, BundleError, limit=10),
        lambda path: files.sha256_of(path, BundleError),
        lambda path: files.size_of(path, BundleError),
    ):
        with pytest.raises(BundleError, match=seen):
            read(tmp_path / what)


def test_a_pipe_put_there_after_the_look_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files, "_regular", lambda *_: None)
    with pytest.raises(InputError, match="not a file"):
        files.read_bytes(tmp_path / "pipe", limit=10)


def test_reading_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert files.read_bytes(tmp_path / "a", limit=11) == b"x" * 11
    with pytest.raises(InputError, match="11 bytes, need a file of at most 10"):
        files.read_bytes(tmp_path / "a", limit=10)
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 42)  # 4 TB that take no room
    with pytest.raises(InputError, match="at most 10"):
        files.read_bytes(tmp_path / "sparse", limit=10)


def test_a_file_that_grows_while_it_is_read_is_bounded_too() -> None:
    """Files of /proc say that they are empty."""
    with pytest.raises(InputError, match="need a file of at most 10"):
        files.read_bytes("/proc/self/status", limit=10)


@POSIX
def test_a_folder_without_search_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "x").write_bytes(b"x")
    tmp_path.chmod(0o755)
    (tmp_path / "locked").chmod(0)
    code = """
from zoomrt import files
for look in (files.exists, files.is_file, files.is_folder, files.size_of, files.entries, files.check_writable):
    try:
        look("locked/x")
    except Exception as e:
        print(type(e).__name__, e.seen, "permissions" in e.remedy)
"""
    try:
        told = as_nobody(code, tmp_path).splitlines()
    finally:
        (tmp_path / "locked").chmod(0o755)
    assert told == ["InputError Permission denied True"] * 5 + ["StorageError Permission denied True"]


def test_walk_lists_files_below_and_follows_no_folder_links(tmp_path: Path) -> None:
    for name in ("b/y", "b/c/z", "a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in files.walk(tmp_path)] == ["a", "b/c/z", "b/y"]
    assert files.total_bytes(tmp_path) == 6
    assert files.total_bytes(tmp_path / "none") == 0


def test_messages_show_a_path_short_and_harmless() -> None:
    assert files.shown("a\x1b[31m\nb") == r"'a\x1b[31m\nb'"
    assert len(files.shown("x" * 4000)) < 200
    assert files.shown(Path("plain.png")) == "'plain.png'"


# --- files, whole or not at all


def test_a_file_appears_whole_with_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "out.bin", b"content")
        with files.atomic_folder(tmp_path / "folder") as scratch:
            (scratch / "x").write_bytes(b"")
    finally:
        os.umask(old)
    assert (tmp_path / "out.bin").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "out.bin").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750
    assert sorted(os.listdir(tmp_path)) == ["folder", "out.bin"]


@pytest.mark.parametrize("problem", [ZeroDivisionError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_of_an_interrupted_write(tmp_path: Path, problem: type[BaseException]) -> None:
    (tmp_path / "out.bin").write_bytes(b"old")

    def write(stop: bool) -> None:
        with files.atomic_file(tmp_path / "new" / "out.bin", parents=True) as stream:
            stream.write(b"half")
            if stop:
                raise problem

    with pytest.raises(problem):
        write(stop=True)
    assert os.listdir(tmp_path) == ["out.bin"]
    write(stop=False)
    assert (tmp_path / "new" / "out.bin").read_bytes() == b"half"


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    def fill() -> None:
        with files.atomic_file(tmp_path / "out"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match="No space left"):
        fill()
    assert os.listdir(tmp_path) == []


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"dear")
    (tmp_path / "out").symlink_to("victim")
    files.write_bytes(tmp_path / "out", b"new")
    assert (tmp_path / "victim").read_bytes() == b"dear"
    assert not (tmp_path / "out").is_symlink()


def test_scratch_is_opened_exclusively_and_does_not_follow_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the name could be guessed."""
    monkeypatch.setattr(_scratch.secrets, "token_hex", lambda _: "0" * 16)
    (tmp_path / "victim").write_bytes(b"dear")
    (tmp_path / f".zoomrt-{'0' * 16}.part.mp4").symlink_to("victim")
    (tmp_path / f".zoomrt-{'0' * 16}.part").symlink_to("victim")
    with pytest.raises(StorageError, match="File exists"):
        files.write_bytes(tmp_path / "out.mp4", b"new")
    with pytest.raises(StorageError, match="File exists"), files.atomic_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "victim").read_bytes() == b"dear"


def test_scratch_names_end_like_the_target_and_differ(tmp_path: Path) -> None:
    with files.atomic_file(tmp_path / "a.mp4") as one, files.atomic_file(tmp_path / "a.mp4") as other:
        assert one.name != other.name
        assert Path(one.name).suffix == ".mp4"
    with files.atomic_file(tmp_path / ("n" * 255)) as stream:  # the longest name that a file may have
        stream.write(b"x")
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "n" * 255]


# --- refused before the work


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "folder", "seen"),
    [
        (".", True, "the folder that this command runs in"),
        ("..", True, "one above it"),
        ("folder/..", True, "the folder that this command runs in"),
        ("/", True, "mount point"),
        ("/proc", True, "mount point"),
        ("file", True, "a file"),
        ("pipe", True, "not a file"),
        (".", False, "a folder"),
        ("folder", False, "a folder"),
        ("pipe", False, "not a file"),
        ("/dev/null", False, "a device"),
        ("/dev/full", False, "a device"),
        ("/dev/stdout", False, "a device"),
        ("/proc/x", False, "No such file"),
        ("file/x", False, "Not a directory"),
        (LONG, False, "too long"),
        ("new/" + LONG, True, "too long"),
        ("a\0b", False, "null byte"),
    ],
)
def test_places_that_cannot_be_written_are_known_before(here: Path, target: str, folder: bool, seen: str) -> None:
    before = sorted(os.listdir(here))
    with pytest.raises(StorageError, match=seen):
        files.check_writable(target, folder=folder)
    with pytest.raises(StorageError), files.atomic_folder(target) if folder else files.atomic_file(target):
        pass
    assert sorted(os.listdir(here)) == before


@pytest.mark.parametrize(
    ("target", "folder"), [("new", False), ("file", False), ("new", True), ("folder", True), ("a/b/new", True)]
)
def test_places_that_can_be_written(here: Path, target: str, folder: bool) -> None:
    before = sorted(os.listdir(here))
    files.check_writable(target, folder=folder)
    assert sorted(os.listdir(here)) == before


@POSIX
def test_a_folder_without_write_permission_is_known_before(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    code = """
from zoomrt import files
for target in ("new", "below/new"):
    try:
        files.check_writable(target)
    except Exception as e:
        print(type(e).__name__, e.seen)
"""
    assert as_nobody(code, tmp_path).splitlines() == ["StorageError Permission denied"] * 2


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mountinfo")
def test_a_mount_of_the_same_disk_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.path.ismount does not tell it; a rename would fail with EBUSY after all the work."""
    (tmp_path / "mo unt").mkdir()
    known = Path.read_bytes
    line = b"36 35 98:0 /sub " + os.fsencode(tmp_path) + b"/mo\\040unt rw - ext4 /dev/root rw\n"
    monkeypatch.setattr(Path, "read_bytes", lambda path: line if "mountinfo" in str(path) else known(path))
    with pytest.raises(StorageError, match="mount point"):
        files.check_writable(tmp_path / "mo unt", folder=True)


# --- folders, replaced in one step


def fill(folder: Path, content: str) -> None:
    with files.atomic_folder(folder) as scratch:
        (scratch / "x").write_text(content)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not exchange:  # as on a system, or a disk, without the step

        def missing(*_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(_scratch, "_exchange", missing)
    for content in ("one", "two", "three"):
        fill(tmp_path / "b", content)
        assert (tmp_path / "b" / "x").read_text() == content
        assert os.listdir(tmp_path) == ["b"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_be_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "b", "old")

    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "no such call")

    rename, calls = os.rename, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(_scratch, "_exchange", missing)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "b", "new")
    assert (tmp_path / "b" / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["b"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2")
def test_at_no_moment_is_there_no_folder(tmp_path: Path) -> None:
    fill(tmp_path / "b", "0")
    missing = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                os.stat(tmp_path / "b" / "x")
            except OSError as cause:
                missing.append(cause)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(50):
        fill(tmp_path / "b", str(number))
    done.set()
    watcher.join()
    assert not missing


def test_two_writers_of_one_folder_end_with_one_of_the_two(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=lambda name=name: [fill(tmp_path / "b", name) for _ in range(20)])
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "b" / "x").read_text() in ("one", "two")
    assert os.listdir(tmp_path) == ["b"]


def test_parents_are_made_and_taken_back(tmp_path: Path) -> None:
    def fail() -> None:
        with files.atomic_folder(tmp_path / "a" / "b" / "c"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []
    fill(tmp_path / "a" / "b" / "c", "x")
    assert (tmp_path / "a" / "b" / "c" / "x").exists()


# --- scratch of processes that are gone

WRITER = """
import sys, time
from zoomrt import files
with files.atomic_file("out.bin"), files.atomic_folder("out"):
    print("ready", flush=True)
    time.sleep(600)
"""


@POSIX
@pytest.mark.parametrize("how", [signal.SIGKILL, None])
def test_scratch_is_swept_when_its_process_is_gone_and_never_before(tmp_path: Path, how: signal.Signals | None) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER], cwd=tmp_path, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        (there := sorted(os.listdir(tmp_path)))
        assert len(there) == 2
        assert all(name.startswith(".zoomrt-") for name in there)
        if how is None:  # alive: its scratch stays, however old it looks
            for name in there:
                os.utime(tmp_path / name, (0, 0))
        else:
            writer.send_signal(how)
            writer.wait()
        files.write_bytes(tmp_path / "other", b"")
        assert sorted(os.listdir(tmp_path)) == ([*there, "other"] if how is None else ["other"])
        writer.kill()


@POSIX
def test_nothing_but_scratch_is_swept(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"dear")
    name = f".zoomrt-{'a' * 16}.part"
    (tmp_path / name).symlink_to("kept")  # a link is not ours
    for other in (".zoomrt-", ".zoomrt-notes.part", name + ".ending-too-long-to-be-one", ".b.part-old"):
        (tmp_path / other).write_bytes(b"dear")
    before = sorted(os.listdir(tmp_path))
    files.write_bytes(tmp_path / "zz", b"")
    assert sorted(os.listdir(tmp_path)) == [*before, "zz"]


@POSIX
def test_scratch_that_was_swept_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, stolen = _scratch._lock, []

    def stealing(handle: int, *, wait: bool = True) -> int:
        if not stolen:
            stolen.extend(tmp_path.glob(".zoomrt-*"))
            _scratch._remove(stolen[0])
        return lock(handle, wait=wait)

    monkeypatch.setattr(_scratch, "_lock", stealing)
    files.write_bytes(tmp_path / "out", b"content")
    stolen.clear()
    fill(tmp_path / "folder", "content")
    assert (tmp_path / "out").read_bytes() == b"content"
    assert (tmp_path / "folder" / "x").read_text() == "content"


@POSIX
def test_a_folder_that_was_swept_before_it_was_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may look through the place between the making of a scratch folder and its lock."""
    swept: list[Path] = []
    opened = os.open

    def after_a_sweep(path: Path, flags: int, *more: int) -> int:
        if not swept and Path(path).name.startswith(".zoomrt-"):
            swept.append(Path(path))
            Path(path).rmdir()
        return opened(path, flags, *more)

    monkeypatch.setattr(_scratch.os, "open", after_a_sweep)
    with files.scratch_folder(tmp_path) as scratch:
        assert swept == [scratch]
        assert scratch.is_dir()


def test_a_disk_without_locks_is_written_and_never_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_scratch.fcntl, "flock", refuse)
    (tmp_path / f".zoomrt-{'a' * 16}.part").mkdir()
    files.write_bytes(tmp_path / "out", b"content")
    assert sorted(os.listdir(tmp_path)) == [f".zoomrt-{'a' * 16}.part", "out"]


# --- the cache


def test_the_cache_keeps_and_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "cache"))
    place = files.cache_path("kernels", "k")
    assert place == tmp_path / "cache" / "kernels" / "k"
    assert files.read_cached(place) is None
    files.write_cached(place, b"content")
    assert files.read_cached(place) == b"content"


@pytest.mark.parametrize("place", ["/proc/cache", "/dev/null/cache", f"/tmp/{LONG}"])
def test_work_goes_on_without_a_cache_with_one_warning(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOOMRT_CACHE", place)
    assert files.read_cached(files.cache_path("kernels", "k")) is None
    with pytest.warns(files.CacheWarning, match="without a cache"):
        files.write_cached(files.cache_path("kernels", "k"), b"content")
    files.write_cached(files.cache_path("kernels", "l"), b"content")  # a second warning would be an error here


def test_a_user_without_a_home_folder_has_no_cache_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is no home folder
    for name in ("ZOOMRT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert files.cache_path("kernels") is None
    with pytest.warns(files.CacheWarning, match="no home folder"):
        files.write_cached(files.cache_path("kernels", "k"), b"content")
    assert os.listdir(tmp_path) == []


@POSIX
def test_a_home_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    code = """
import os, warnings
for name in ("ZOOMRT_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
os.environ["HOME"] = os.path.abspath("home")
from zoomrt import files
with warnings.catch_warnings(record=True) as told:
    files.write_cached(files.cache_path("kernels", "k"), b"content")
print(len(told), told[0].message)
"""
    told = as_nobody(code, tmp_path)
    assert told.startswith("1 working without a cache")
    assert "Permission denied" in told


def test_scratch_folders_are_gone_after_the_block(tmp_path: Path) -> None:
    with files.scratch_folder(tmp_path) as beside, files.scratch_folder() as anywhere:
        (beside / "x").write_bytes(b"x")
        assert anywhere.is_dir()
    assert not anywhere.exists()
    assert os.listdir(tmp_path) == []
