"""Files of web servers: whole, verified, once; cut and killed downloads go on; a refusal says what to do by hand."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import tree
from file_server import Fault, FileServer

from zoomrt.errors import FetchError, StorageError
from zoomrt.models.published.fetch import fetch
from zoomrt.models.published.records import Licence, Published, PublishedFile

BLOCK = 1 << 16  # what is read at a time

FREE = Licence("MIT", "https://licence.example")
PATH = "/release/v1/model.pth"
SIZE = 3_000_000


@pytest.fixture
def content(rng: np.random.Generator, server: FileServer) -> bytes:
    server.files[PATH] = rng.bytes(SIZE)
    return server.files[PATH]


def item(server: FileServer, *, content: bytes | None = None, size: int | None = None, sha256: str = "") -> Published:
    """content : from which size and hash are known."""
    if content is not None:
        size, sha256 = len(content), hashlib.sha256(content).hexdigest()
    return Published(key="weights", files=(PublishedFile(server.url + PATH, size, sha256),), licence=FREE)


def refused(one: Published, kind: type[FetchError | StorageError] = FetchError) -> str:
    """The one line of a fetch that fails, which says what to do by hand."""
    with pytest.raises(kind) as caught:
        fetch([one])
    line = str(caught.value)
    assert "\n" not in line
    assert f"By hand: download {one.files[0].place} " in line
    return line


def kept(cache: Path) -> dict[str, bytes | None]:
    """What lies in the folder of weights but locks."""
    return {name: held for name, held in tree(cache / "weights").items() if not name.startswith(".locks")}


def test_it_comes_whole_and_once(server: FileServer, content: bytes, tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    place = fetch([item(server, content=content)], on_progress=lambda *at: seen.append(at))["weights"]
    assert place == tmp_path / "cache" / "weights" / "model.pth"
    assert kept(tmp_path / "cache") == {"model.pth": content}
    assert {label for label, _ in seen} == {"fetch model.pth (3.0 MB)"}
    assert [share for _, share in seen] == sorted(share for _, share in seen)
    assert seen[-1][1] == 1.0
    assert fetch([item(server, content=content)]) == {"weights": place}
    assert server.asked() == [PATH]
    assert fetch([item(server, content=content)], offline=True) == {"weights": place}


def test_what_is_sent(server: FileServer, content: bytes) -> None:  # noqa: ARG001
    fetch([item(server)])
    (asked,) = server.requests
    assert asked.headers["User-Agent"].startswith("zoomrt/")
    assert asked.headers.keys() == {"Host", "User-Agent", "Accept-Encoding", "Accept", "Connection"}


@pytest.mark.parametrize("known", [True, False])
def test_a_cut_connection_goes_on(server: FileServer, content: bytes, known: bool, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(cut=1_000_000), Fault(cut=0), Fault(status=503), Fault(cut=1_500_000)]
    fetch([item(server, content=content if known else None)])
    assert kept(tmp_path / "cache") == {"model.pth": content}
    ranges = [asked.headers.get("Range") for asked in server.requests]
    first = 1_000_000 // BLOCK * BLOCK
    second = first + 1_500_000 // BLOCK * BLOCK
    assert ranges == [None, *3 * [f"bytes={first}-"], f"bytes={second}-"]
    assert all("If-Range" in asked.headers for asked in server.requests[1:])


def test_a_connection_that_is_cut_for_good(server: FileServer, content: bytes) -> None:
    server.faults[PATH] = [Fault(cut=10 * BLOCK), *4 * [Fault(cut=0)]]
    line = refused(item(server, content=content))
    assert f"ended after {10 * BLOCK} bytes" in line
    assert "Run it again: it goes on where it stopped" in line
    fetch([item(server, content=content)])
    assert server.requests[-1].headers["Range"] == f"bytes={10 * BLOCK}-"


CHILD = """
import sys
from zoomrt.models.published.fetch import fetch
from zoomrt.models.published.records import Licence, Published, PublishedFile
file = PublishedFile(sys.argv[1], int(sys.argv[2]) or None)
fetch([Published(key="weights", files=(file,), licence=Licence("MIT", "https://licence.example"))])
"""


def child(server: FileServer, size: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url + PATH, str(size)])


def wait_for(server: FileServer, requests: int) -> None:
    """Until that many requests have come."""
    for _ in range(2000):
        if len(server.requests) >= requests:
            return
        threading.Event().wait(0.01)
    raise AssertionError(server.requests)


@pytest.mark.parametrize("changed", [False, True])
def test_a_killed_process_goes_on(
    server: FileServer, content: bytes, changed: bool, tmp_path: Path, rng: np.random.Generator
) -> None:
    """Unless the file has changed on the server since: then all of it comes again."""
    server.faults[PATH] = [Fault(cut=2_000_000, hold=threading.Event())]
    process = child(server)
    weights = tmp_path / "cache" / "weights"
    for _ in range(2000):
        if any(path.stat().st_size >= 1 << 20 for path in weights.glob(".model.pth.*.part")):
            break
        threading.Event().wait(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    if changed:
        content = server.files[PATH] = rng.bytes(SIZE)
    fetch([item(server)])
    assert kept(tmp_path / "cache") == {"model.pth": content}
    assert int(server.requests[-1].headers["Range"].removeprefix("bytes=").rstrip("-")) >= 1 << 20


@pytest.mark.parametrize("attribute", ["ranges", "tags"])
def test_a_server_that_cannot_go_on_sends_all(
    server: FileServer, content: bytes, attribute: str, tmp_path: Path
) -> None:
    setattr(server, attribute, False)
    server.faults[PATH] = [Fault(cut=1_000_000), Fault(cut=2_000_000)]
    fetch([item(server)])
    assert kept(tmp_path / "cache") == {"model.pth": content}


def test_two_processes_fetch_it_once(server: FileServer, content: bytes, tmp_path: Path) -> None:
    hold = threading.Event()
    server.faults[PATH] = [Fault(hold=hold)]
    processes = [child(server, SIZE), child(server, SIZE)]
    wait_for(server, 1)
    hold.set()
    assert [process.wait() for process in processes] == [0, 0]
    assert server.asked() == [PATH]
    assert kept(tmp_path / "cache") == {"model.pth": content}


def test_another_content_is_refused_and_deleted(server: FileServer, content: bytes, tmp_path: Path) -> None:
    server.faults[PATH] = [Fault(content=content[::-1])]
    assert "another SHA-256" in refused(item(server, content=content))
    assert kept(tmp_path / "cache") == {}
    fetch([item(server, content=content)])
    assert kept(tmp_path / "cache") == {"model.pth": content}


def test_another_size_is_refused_before_it_comes(server: FileServer, content: bytes, tmp_path: Path) -> None:
    assert "got 3000000 bytes, need 2999999" in refused(item(server, size=len(content) - 1))
    assert kept(tmp_path / "cache") == {}


def test_a_web_page_is_no_file(server: FileServer, content: bytes) -> None:
    server.faults[PATH] = [Fault(content=content[:9], headers={"Content-Type": "text/html; charset=utf-8"})]
    assert "a web page from 127.0.0.1" in refused(item(server))


@pytest.mark.parametrize(
    ("status", "headers", "said", "requests"),
    [
        (401, {}, "gated, private or gone", 1),
        (403, {}, "gated, private or gone", 1),
        (404, {}, "no such file any more", 1),
        (429, {"Retry-After": "7"}, "too many requests.*Try again in 7 s", 4),
        (500, {}, "HTTP status 500.*Try again later", 4),
        (503, {}, "HTTP status 503.*Try again later", 4),
    ],
)
def test_a_server_that_refuses(
    server: FileServer, status: int, headers: dict[str, str], said: str, requests: int, tmp_path: Path
) -> None:
    server.faults[PATH] = (Fault(status=status, headers=headers),)
    assert re.search(said, refused(item(server)))
    assert len(server.requests) == requests
    assert kept(tmp_path / "cache") == {}


def test_no_network(server: FileServer) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = FileServer(f"http://127.0.0.1:{free.getsockname()[1]}")
    assert "no answer from 127.0.0.1" in refused(item(closed))
    assert server.requests == []


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may grow beyond 2 MB: the system's own refusal to write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(server: FileServer, content: bytes, small_disk: None, tmp_path: Path) -> None:  # noqa: ARG001
    """What came is kept, and gone on with once there is room."""
    line = refused(item(server, content=content), StorageError)
    assert os.strerror(27) in line  # EFBIG
    assert "room for model.pth, 3.0 MB" in line
    assert "set ZOOMRT_CACHE" in line
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    fetch([item(server, content=content)])
    assert kept(tmp_path / "cache") == {"model.pth": content}
    assert server.requests[-1].headers["Range"] != "bytes=0-"


def test_a_disk_without_room_is_seen_before(server: FileServer) -> None:
    line = refused(item(server, size=1 << 60), StorageError)
    assert "bytes free" in line
    assert server.requests == []


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write" in refused(item(server), StorageError)
    assert server.requests == []


def test_offline_says_what_goes_where(server: FileServer, content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "weights" / "model.pth"
    with pytest.raises(FetchError, match=r"without a network.*--offline") as caught:
        fetch([item(server, content=content)], offline=True)
    assert f"Download by hand: {server.url}{PATH} to {str(place)!r}." in str(caught.value)
    place.parent.mkdir(parents=True)
    place.write_bytes(content[:-1])
    with pytest.raises(FetchError, match=f"{SIZE - 1} bytes at "):
        fetch([item(server, content=content)], offline=True)
    place.write_bytes(content[::-1])
    with pytest.raises(FetchError, match=r"is not the published file.*Delete it"):
        fetch([item(server, content=content)], offline=True)
    place.write_bytes(content)
    assert fetch([item(server, content=content)], offline=True) == {"weights": place}
    assert server.requests == []


def test_a_pointer_of_git_lfs_is_no_file(server: FileServer, content: bytes, tmp_path: Path) -> None:
    place = tmp_path / "cache" / "weights" / "model.pth"
    place.parent.mkdir(parents=True)
    place.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    assert fetch([item(server)]) == {"weights": place}
    assert place.read_bytes() == content
