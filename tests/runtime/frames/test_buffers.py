"""Somebody else's memory: buffers, DLPack and the CUDA array interface, without a copy where that can be."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.frames.buffers import from_device, host_array


def test_buffers_are_not_copied() -> None:
    for source in (bytearray(b"abcd"), memoryview(bytearray(b"abcd")), mmap.mmap(-1, 4)):
        array = host_array(source)
        source[0] = 65 if not isinstance(source, mmap.mmap) else b"A"[0]
        assert array[0] == 65


def test_dlpack_is_not_copied() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.zeros((4, 5, 3), dtype=torch.uint8)
    array = host_array(tensor)
    tensor[1, 2, 0] = 7
    assert array[1, 2, 0] == 7
    assert array.shape == (4, 5, 3)


class OnDevice:
    """Looks like an array on a GPU; lies in the CPU's memory."""

    def __init__(self, array: np.ndarray[Any, Any], strides: bool = True, stream: int | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": array.strides if strides else None,
            "version": 3,
            "stream": stream,
        }


@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    padding=st.integers(0, 3),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
)
def test_device_memory_keeps_its_shape_and_strides(shape: list[int], padding: int, dtype: Any) -> None:
    """The copy of the driver is replaced by one within the CPU's memory; layouts are what is tested."""
    whole = np.arange(np.prod([side + padding for side in shape]), dtype=dtype).reshape(
        [side + padding for side in shape]
    )
    part = whole[tuple(slice(0, side) for side in shape)]
    asked: list[tuple[int, int | None]] = []

    def copy(host: int, device: int, size: int, stream: int | None) -> None:
        asked.append((size, stream))
        ctypes.memmove(host, device, size)

    result = from_device(OnDevice(part, stream=2).__cuda_array_interface__, copy)
    np.testing.assert_array_equal(result, part)
    assert not np.shares_memory(result, whole)
    assert all(0 < size <= whole.nbytes and stream == 2 for size, stream in asked)
    dense = np.ascontiguousarray(part)
    np.testing.assert_array_equal(from_device(OnDevice(dense, strides=False).__cuda_array_interface__, copy), dense)


def test_negative_strides_on_a_device_are_refused() -> None:
    with pytest.raises(InputError, match="strides"):
        from_device(OnDevice(np.zeros((4, 4))[::-1]).__cuda_array_interface__, lambda *_: None)


def test_device_memory_without_cuda_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(MissingDependency, match="cuda"):
        host_array(OnDevice(np.zeros((4, 4), np.uint8)))


@pytest.mark.parametrize("source", [3, "text", None, [1, 2]])
def test_what_is_no_memory(source: object) -> None:
    with pytest.raises(InputError, match="numpy array"):
        host_array(source)


@pytest.mark.gpu
def test_an_array_on_a_gpu() -> None:
    cupy = pytest.importorskip("cupy")
    array = cupy.arange(60, dtype=cupy.uint8).reshape(4, 5, 3)
    np.testing.assert_array_equal(host_array(array[:, 1:4]), cupy.asnumpy(array)[:, 1:4])
