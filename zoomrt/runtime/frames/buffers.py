"""Pixels in someone else's memory, as numpy arrays: without a copy where a CPU can read them, with one from a GPU.

Taken are numpy arrays, whatever has the buffer protocol (bytes, memoryview, mmap, ctypes), DLPack on the CPU (torch,
jax, ...) and `__cuda_array_interface__` version 2 or 3 (CuPy, PyCUDA's GPUArray, Numba, torch on CUDA).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoomrt.errors import InputError, MissingDependency, RuntimeFault

Copy = Callable[[int, int, int, "int | None"], None]
"""copy(host address, device address, bytes, stream or None): returns once the bytes are there."""


def host_array(source: object) -> NDArray[Any]:
    """`source` as an array in the CPU's memory.

    Raises InputError for what has no such protocol or lies on a device that cannot be read, MissingDependency for CUDA
    memory without cuda-core, RuntimeFault when the copy from the device fails.
    """
    if isinstance(source, np.ndarray):
        return source
    interface = getattr(source, "__cuda_array_interface__", None)
    if interface is not None:
        return from_device(interface, _copy_from_cuda)
    try:
        if hasattr(source, "__dlpack__"):
            return np.from_dlpack(source)
        return np.asarray(memoryview(source))  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError, RuntimeError) as cause:
        needed = "a numpy array, a buffer, DLPack on the CPU or __cuda_array_interface__"
        remedy = "Pass np.asarray(frame), or move the frame to the CPU."
        raise InputError(
            "cannot read this frame's memory", seen=f"{type(source).__name__}: {cause}", needed=needed, remedy=remedy
        ) from cause


def from_device(interface: Mapping[str, Any], copy: Copy) -> NDArray[Any]:
    """A read-only copy of device memory that a `__cuda_array_interface__` describes, in its own strides.

    The span from the first to the last byte is copied in one piece, padding between rows included: one transfer is
    faster than one for each row. Work that the producer has queued on the stream it names is waited for.
    """
    dtype = np.dtype(interface["typestr"])
    shape = tuple(interface["shape"])
    strides = interface.get("strides") or contiguous_strides(shape, dtype.itemsize)
    if any(stride < 0 for stride in strides):
        remedy = "Make a contiguous copy on the device first."
        raise InputError(
            "cannot read this frame's memory", seen=f"strides {strides}", needed="from 0 on", remedy=remedy
        )
    if 0 in shape:
        return np.empty(shape, dtype)
    span = sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) + dtype.itemsize
    host = np.empty(span, np.uint8)
    copy(host.ctypes.data, int(interface["data"][0]), span, interface.get("stream"))
    host.flags.writeable = False  # what is written to a copy never reaches the device
    return np.ndarray(shape, dtype, host, strides=strides)


def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of an array without gaps, last axis fastest."""
    return tuple(itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def _copy_from_cuda(host: int, device: int, size: int, stream: int | None) -> None:
    """Stream 1 is the legacy default stream, 2 that of the thread; CUDA takes both values as they are."""
    try:
        driver = importlib.import_module("cuda.bindings.driver")
    except ImportError as cause:
        needed, remedy = "the extra 'cuda'", "Run: pip install 'zoomrt[cuda]'"
        raise MissingDependency("cannot read CUDA memory", seen=cause, needed=needed, remedy=remedy) from cause
    steps: list[tuple[str, Any, tuple[int, ...]]] = (
        [] if stream is None else [("wait for the frame's stream", driver.cuStreamSynchronize, (stream,))]
    )
    steps.append(("copy the frame from the device", driver.cuMemcpyDtoH, (host, device, size)))
    for what, call, arguments in steps:
        code = call(*arguments)[0]
        if int(code) != 0:
            remedy = "Check that its CUDA context is current in this thread, and run trt-doctor."
            raise RuntimeFault(f"cannot {what}", seen=code, needed="CUDA_SUCCESS", remedy=remedy)
