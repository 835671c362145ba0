"""A server of published files on this machine: the hub's resolve API, plain files with HTTP ranges, and their faults.

What is asked is kept in `requests`; what is served is in `files` (by path) and `repositories` (by name, then path).
Large files of a repository are stored elsewhere, as on the hub: its answer leads to another host name of this server.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

COMMIT = "c0ffee" + 34 * "0"
LARGE = 4096


class Fault(NamedTuple):
    """What is wrong with one answer. status : that of the answer instead. cut : bytes of the body that are sent.

    content : another body. headers : besides the usual, or instead. hold : wait for this before the rest is sent.
    heads : also of answers without a body, to HEAD.
    """

    status: int | None = None
    cut: int | None = None
    content: bytes | None = None
    headers: dict[str, str] = {}  # noqa: RUF012
    hold: threading.Event | None = None
    heads: bool = True


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class FileServer:
    """faults : by path, one for each answer until none is left; one that is alone in a tuple is for all answers."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    faults: dict[str, list[Fault] | tuple[Fault]] = field(default_factory=dict)
    requests: list[Asked] = field(default_factory=list)
    ranges: bool = True
    tags: bool = True

    def asked(self, method: str = "GET") -> list[str]:
        """The paths of the requests with a method."""
        return [one.path for one in self.requests if one.method == method]

    def fault(self, path: str, head: bool) -> Fault:
        """That of the next answer to a path."""
        left = self.faults.get(path, [])
        if not left or (head and not left[0].heads):
            return Fault()
        return left[0] if isinstance(left, tuple) else left.pop(0)

    def found(self, path: str) -> tuple[bytes, dict[str, str], str] | None:
        """(content, headers, path of its store) of what is at a path."""
        if path in self.files:
            content = self.files[path]
            return content, self._tag(hashlib.md5(content, usedforsecurity=False).hexdigest()), ""
        if path.startswith("/store/"):
            repository, _, place = path.removeprefix("/store/").partition("/resolve/")
            return self.repositories[repository][place.partition("/")[2]], self._tag("stored"), ""
        repository, _, place = path[1:].partition("/resolve/")
        content = self.repositories.get(repository, {}).get(place.partition("/")[2])
        if content is None:
            return None
        headers = {"X-Repo-Commit": COMMIT}
        if len(content) < LARGE:
            return content, headers | self._tag(git_hash(content)), ""
        sha256 = hashlib.sha256(content).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return content, headers, f"/store{path}"

    def _tag(self, text: str) -> dict[str, str]:
        return {"ETag": f'"{text}"'} if self.tags else {}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.files.requests.append(Asked(self.command, self.path, dict(self.headers)))
        fault, found = self.files.fault(self.path, not body), self.files.found(self.path)
        if fault.status is not None or found is None:
            self._send(fault.status or 404, {"Content-Length": "0", **fault.headers})
            return
        content, headers, store = found
        content = content if fault.content is None else fault.content
        if store:
            port = self.files.url.rpartition(":")[2]
            self._send(302, {**headers, "Location": f"http://localhost:{port}{store}", "Content-Length": "0"})
            return
        status, start = 200, 0
        asked = self.headers.get("Range")
        if asked and self.files.ranges and self.headers.get("If-Range") in (None, headers.get("ETag")):
            status, start = 206, int(asked.removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        self._send(status, {"Content-Length": str(len(part)), **headers, **fault.headers})
        if body:
            self.wfile.write(part[: fault.cut])
            self.wfile.flush()
            if fault.hold is not None:
                fault.hold.wait(20)
            if fault.cut is not None:
                self.close_connection = True

    def _send(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """A server for the length of a with-block."""
    served = FileServer()
    handler = type("Handler", (_Answers,), {"files": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
