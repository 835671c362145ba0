"""A server of one's own, a Hugging Face cache of one's own, and no pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from file_server import FileServer, file_server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """What HF_ENDPOINT leads to; ZOOMRT_CACHE and Hugging Face's cache are empty folders."""
    for name in ("huggingface_hub", "pooch"):
        pytest.importorskip(name)
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    from zoomrt.models.published import web

    quick = SimpleNamespace(sleep=lambda _seconds: None, time=time.time)
    monkeypatch.setattr(_http, "time", quick)
    monkeypatch.setattr(file_download, "time", quick)
    monkeypatch.setattr(web, "time", quick)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for variable in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with file_server() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served
