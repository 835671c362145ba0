"""The table of backends: what it has, what a record added by hand does, and what it says of others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zoomrt.errors import UsageError
from zoomrt.runtime.backends import BACKENDS


def test_files_of_sessions_are_the_backends() -> None:
    assert BACKENDS.names() == ("onnxruntime", "onnxruntime_cuda", "openvino", "tensorrt", "tensorrt_rtx")
    for name in BACKENDS.names():
        assert BACKENDS.named(name).name == name
    with pytest.raises(UsageError, match="unknown backend: got 'toy'"):
        BACKENDS.named("toy")


def test_one_in_the_place_of_another() -> None:
    ours = BACKENDS.named("onnxruntime")
    with BACKENDS.added(replace(ours, title="mine")):
        assert BACKENDS.named("onnxruntime").title == "mine"
        with BACKENDS.added(replace(ours, name="second")):
            assert BACKENDS.names()[-1] == "second"
        assert "second" not in BACKENDS.names()
    assert BACKENDS.named("onnxruntime") is ours
