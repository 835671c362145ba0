"""Files of the Hugging Face hub: into its own cache, verified, once; mirrors; every refusal says what to do by hand."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from file_server import COMMIT, LARGE, Fault, FileServer

from zoomrt.errors import FetchError, MissingDependency, StorageError
from zoomrt.models.published import hub
from zoomrt.models.published.cache import by_hand, found
from zoomrt.models.published.fetch import fetch
from zoomrt.models.published.records import Licence, Published, PublishedFile, Repository

FREE = Licence("MIT", "https://licence.example")
FILES = (
    PublishedFile("unet/config.json"),
    PublishedFile("unet/model.safetensors"),
    PublishedFile("text/model.safetensors", unless="prompt_embedding"),
)
BASE = Published(
    key="base", files=FILES, licence=FREE, repositories=(Repository("one/base"), Repository("two/base")), folder=True
)
LARGE_FILE = "/one/base/resolve/main/unet/model.safetensors"
STORE = f"/store{LARGE_FILE}"


@pytest.fixture
def contents(rng: np.random.Generator, server: FileServer) -> dict[str, bytes]:
    sizes = {"unet/config.json": 100, "unet/model.safetensors": 2_000_000, "text/model.safetensors": 2 * LARGE}
    server.repositories["one/base"] = {place: rng.bytes(size) for place, size in sizes.items()}
    return server.repositories["one/base"]


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(one: Published = BASE, kind: type[FetchError | StorageError] = FetchError) -> str:
    """The one line of a fetch that fails, which says what to do by hand."""
    with pytest.raises(kind) as caught:
        fetch([one])
    line = str(caught.value)
    assert "\n" not in line
    assert re.search(r"By hand: download http://127\.0\.0\.1:[0-9]+/(one|two)/base/resolve/main/[a-z]+/\S+ ", line)
    return line


def test_a_folder_comes_whole_and_once(server: FileServer, contents: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[tuple[str, float]] = []
    place = fetch([BASE], on_progress=lambda *at: seen.append(at))["base"]
    assert place == tmp_path / "hub" / "models--one--base" / "snapshots" / COMMIT
    assert held(place) == contents
    assert {label.split()[1] for label, _ in seen} == {"config.json", "model.safetensors"}
    assert seen[-1][1] == 1.0
    before = len(server.requests)
    assert fetch([BASE], offline=True) == fetch([BASE]) == {"base": place}
    assert len(server.requests) == before
    assert not (tmp_path / "cache" / "weights").exists()


def test_a_file_that_was_put_there_by_hand_is_held_against_its_hash() -> None:
    content = b"as published"
    file = PublishedFile("a/model.safetensors", size=len(content), sha256=hashlib.sha256(content).hexdigest())
    one = Published(key="base", files=(file,), licence=FREE, repositories=(Repository("one/base"),))
    place = by_hand(one, file)
    place.parent.mkdir(parents=True)
    place.write_bytes(content[::-1])
    with pytest.raises(FetchError, match=r"is not the published file.*Delete it"):
        fetch([one], offline=True)
    place.write_bytes(content)
    assert fetch([one], offline=True) == {"base": place}


def test_what_is_not_needed_is_not_fetched(contents: dict[str, bytes]) -> None:
    given = {"prompt_embedding": Path("prompt.npy")}
    place = fetch([BASE], given)["base"]
    assert held(place).keys() == contents.keys() - {"text/model.safetensors"}
    assert found(BASE, given) == place
    assert found(BASE, {}) is None


def test_what_another_program_fetched_is_used(server: FileServer, contents: dict[str, bytes], tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in contents:
        hf_hub_download("one/base", name, cache_dir=tmp_path / "hub", endpoint=server.url)
    before = len(server.requests)
    assert held(fetch([BASE])["base"]) == contents
    assert len(server.requests) == before


def test_what_is_sent(server: FileServer, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """Nothing but the files is asked for, and a token goes to the hub alone."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch([BASE])
    assert {asked.path.partition("/resolve/")[0] for asked in server.requests} == {"/one/base", "/store/one/base"}
    for asked in server.requests:
        headers = {name.lower(): value for name, value in asked.headers.items()}
        assert headers["user-agent"].startswith("zoomrt/")
        assert "torch" not in headers["user-agent"]
        assert headers.get("authorization") == (None if asked.path.startswith("/store") else "Bearer hf_secret")


def test_nothing_is_sent_but_for_the_files(server: FileServer, contents: dict[str, bytes], tmp_path: Path) -> None:  # noqa: ARG001
    """In a process of its own, without the variable that `trt-build` sets."""
    without = {
        name: value for name, value in os.environ.items() if name not in ("HF_HUB_DISABLE_TELEMETRY", "AI_AGENT")
    }
    without |= {"HF_HUB_CACHE": str(tmp_path / "other"), "HF_HOME": str(tmp_path / "home")}
    assert child(without).wait() == 0
    assert {asked.path.split("/resolve/")[0] for asked in server.requests} == {"/one/base", "/store/one/base"}


def test_a_cut_connection_goes_on(server: FileServer, contents: dict[str, bytes]) -> None:
    server.faults[STORE] = [Fault(cut=500_000, heads=False), Fault(cut=0, heads=False)]
    assert held(fetch([BASE])["base"]) == contents
    assert [asked.path for asked in server.requests].count(STORE) == 3


def test_a_connection_that_is_cut_for_good(server: FileServer, contents: dict[str, bytes]) -> None:
    server.faults[STORE] = (Fault(cut=0, heads=False),)
    assert "a connection that failed" in refused()
    server.faults.clear()
    assert held(fetch([BASE])["base"]) == contents


@pytest.mark.parametrize("path", [STORE, "/one/base/resolve/main/unet/config.json"])
def test_another_content_is_refused_and_deleted(
    server: FileServer, contents: dict[str, bytes], path: str, tmp_path: Path
) -> None:
    right = server.found(path)
    assert right is not None
    server.faults[path] = [Fault(content=right[0][::-1], heads=False)]
    one = Published(key="base", files=FILES, licence=FREE, repositories=BASE.repositories[:1], folder=True)
    assert "another hash" in refused(one)
    assert right[0][::-1] not in held(tmp_path / "hub").values()
    assert held(fetch([one])["base"]) == contents


def test_a_mirror_with_another_file_is_refused(server: FileServer, contents: dict[str, bytes]) -> None:  # noqa: ARG001
    """Whatever the mirror itself says that it is."""
    digest = hashlib.sha256(b"the published one").hexdigest()
    file = PublishedFile("unet/model.safetensors", sha256=digest)
    one = Published(key="weights", files=(file,), licence=FREE, repositories=(Repository("one/base"),))
    assert f"need {digest}, that of the published file" in refused(one)


@pytest.mark.parametrize(
    ("status", "headers", "said"),
    [
        (401, {}, "gated, private or gone.*ask for access at http.*one/base, and run `hf auth login` or set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "gated, private or gone"),
        (404, {"X-Error-Code": "EntryNotFound"}, "no such file any more"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no such file any more"),
        (429, {"Retry-After": "7"}, "too many requests.*Try again in 7 s"),
        (500, {}, "HTTP status 500.*Try again later"),
        (503, {}, "HTTP status 503.*Try again later"),
    ],
)
def test_a_hub_that_refuses(
    server: FileServer, contents: dict[str, bytes], status: int, headers: dict[str, str], said: str
) -> None:
    one = Published(key="base", files=FILES, licence=FREE, repositories=BASE.repositories[:1], folder=True)
    server.faults["/one/base/resolve/main/unet/config.json"] = (Fault(status=status, headers=headers),)
    assert re.search(said, refused(one))
    server.repositories["two/base"] = contents
    assert held(fetch([BASE])["base"]) == contents  # from the mirror
    assert "two--base" in str(found(BASE, {}))


def test_no_network(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror, at the same address, is not asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert re.search(r"no answer from 127\.0\.0\.1.*/one/base", refused())
    assert server.requests == []


@pytest.mark.parametrize("module", ["huggingface_hub", "pooch"])
def test_a_package_that_is_missing(module: str, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("hub", "web"):
        monkeypatch.delitem(sys.modules, f"zoomrt.models.published.{name}", raising=False)
        monkeypatch.delattr(f"zoomrt.models.published.{name}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=rf"no module {module}.*zoomrt\[fetch\]"):
        fetch([BASE])
    assert server.requests == []


def test_an_endpoint_that_is_no_hub(server: FileServer, contents: dict[str, bytes]) -> None:  # noqa: ARG001
    server.files["/one/base/resolve/main/unet/config.json"] = b"something"
    assert "not a hub's" in refused()


@pytest.mark.parametrize("by", ["option", "variable"])
def test_offline_says_what_goes_where(
    server: FileServer, contents: dict[str, bytes], by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FetchError, match="cannot fetch one/base without a network") as caught:
        fetch([BASE], offline=by == "option")
    folder = tmp_path / "cache" / "weights" / "one--base"
    assert f"{', '.join(contents)} of {server.url}/one/base/tree/main to the folder {str(folder)!r}" in str(
        caught.value
    )
    places = [folder / name for name in contents]
    for name, place in zip(contents, places, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents[name])
    assert fetch([BASE], offline=True) == {"base": folder}
    assert server.requests == []


def test_a_full_disk(server: FileServer, contents: dict[str, bytes], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        line = refused(kind=StorageError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(27) in line  # EFBIG: the system's own refusal, as that of a full disk
    assert "set HF_HOME" in line
    assert "pass --base FOLDER" in line
    assert not list(tmp_path.rglob("*.incomplete"))
    assert held(fetch([BASE])["base"]) == contents
    assert server.requests


def test_a_cache_that_cannot_be_written(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "hub").touch()
    assert "cannot write" in refused(kind=StorageError)
    assert server.requests == []


CHILD = """
from zoomrt.models.published.fetch import fetch
from zoomrt.models.published.records import Licence, Published, PublishedFile, Repository
files = (PublishedFile("unet/config.json"), PublishedFile("unet/model.safetensors"))
licence = Licence("MIT", "https://licence.example")
fetch([Published(key="base", files=files, licence=licence, repositories=(Repository("one/base"),), folder=True)])
"""


def child(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD], env=environment)


def test_two_processes_fetch_it_once(server: FileServer, contents: dict[str, bytes], tmp_path: Path) -> None:
    hold = threading.Event()
    server.faults[STORE] = [Fault(hold=hold, heads=False)]
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path / "home")}
    processes = [child(environment), child(environment)]
    for _ in range(2000):
        if server.asked("HEAD").count(LARGE_FILE) == 2:
            break
        threading.Event().wait(0.01)
    hold.set()
    assert [process.wait() for process in processes] == [0, 0]
    assert server.asked().count(STORE) == 1
    place = found(BASE, {"prompt_embedding": 0})
    assert place is not None
    assert held(place).items() <= contents.items()


def test_the_hash_of_a_small_file_is_gits(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")
    assert hub._git_hash(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"
