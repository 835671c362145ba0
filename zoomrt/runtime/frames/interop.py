"""Memory and streams on a GPU that cross the border as they are: CuPy's, torch's, Numba's, PyCUDA's, cuda-core's.

Nothing is copied here. Whoever made memory or a stream owns it: what comes in is kept alive by its view, and must not
be written to before the work that reads it is done; what goes out is good until its session is closed.
`Upscaler` takes frames on the GPU by these.
DLPack is cuda-core's (`StridedMemoryView`), both ways. `__cuda_array_interface__` is read here: cuda-core takes version
3 only, and asks the driver about each pointer. NOT RUN on a GPU so far.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoomrt.errors import InputError, MissingDependency
from zoomrt.runtime.frames.buffers import contiguous_strides

_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's device types
_DEFAULT_STREAMS = (0, 1, 2)  # 1: legacy, 2: per thread; 0 is either of them, so both protocols forbid it


@dataclass(frozen=True)
class DeviceView:
    """Somebody else's array on the device, to be read by address. strides in bytes. owner : keeps it alive."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: object
    read_only: bool = False


def is_on_gpu(source: Any) -> bool:
    """Whether something says that it is an array in the memory of an NVIDIA GPU."""
    if hasattr(source, "__dlpack_device__"):
        return source.__dlpack_device__()[0] in (_CUDA, _CUDA_MANAGED)
    return hasattr(source, "__cuda_array_interface__")


def stream_handle(stream: object) -> int:
    """The raw handle of anybody's stream, which stays its maker's.

    stream : an int; an object with `__cuda_stream__` (cuda-core, CuPy, Numba), `cuda_stream` (torch), `ptr` (older
        CuPy) or `handle` (PyCUDA).

    Raises InputError for anything else, for another version of the protocol, and for default streams: these hold up,
    and are held up by, all other work of the process.
    """
    what, remedy = "cannot use this stream", "Pass a stream of its own, such as cupy.cuda.Stream(non_blocking=True)."
    handle: Any = stream
    if hasattr(stream, "__cuda_stream__"):
        version, handle = stream.__cuda_stream__()
        if version != 0:
            raise InputError(what, seen=f"version {version} of __cuda_stream__", needed="version 0", remedy=remedy)
    else:
        names = [name for name in ("cuda_stream", "ptr", "handle") if hasattr(stream, name)]
        handle = getattr(stream, names[0]) if names else stream
    try:
        number = int(handle)
    except (TypeError, ValueError) as cause:
        needed = "an int, or __cuda_stream__, cuda_stream, ptr or handle"
        raise InputError(what, seen=type(stream).__name__, needed=needed, remedy=remedy) from cause
    if number in _DEFAULT_STREAMS:
        raise InputError(what, seen=f"default stream {number}", needed="a stream of its own", remedy=remedy)
    return number


def device_view(source: Any, stream: int, follow: Callable[[int], None]) -> DeviceView:
    """Somebody's array on the GPU, without a copy, ready for work on `stream`.

    stream : handle of our stream. follow(handle) : make our stream wait for what is on theirs (`CudaStream.follow`).
        With DLPack the maker does that itself, so DLPack goes before an array interface without the field `stream`
        (torch's, which is of version 2). Where there is neither, the caller synchronises.

    Raises InputError for what is not on a GPU, speaks neither protocol, has a type that NumPy lacks (bfloat16), or is
    not handed out by its maker.
    """
    what, remedy = "cannot read this array on the GPU", "Pass a CuPy, torch, Numba or PyCUDA array."
    try:
        interface = getattr(source, "__cuda_array_interface__", None)
    except Exception as cause:  # torch, of a tensor that wants a gradient
        raise InputError(what, seen=cause, needed="an array that its maker hands out", remedy=remedy) from cause
    if interface is not None and ("stream" in interface or not hasattr(source, "__dlpack__")):
        if (theirs := interface.get("stream")) == 0:
            needed = "None, 1, 2 or a handle"
            raise InputError(what, seen="stream 0, which the protocol forbids", needed=needed, remedy=remedy)
        if theirs is not None and theirs != stream:
            follow(theirs)
        dtype, shape = np.dtype(interface["typestr"]), tuple(interface["shape"])
        strides = tuple(interface.get("strides") or contiguous_strides(shape, dtype.itemsize))
        address, read_only = interface["data"]
        return DeviceView(int(address), shape, strides, dtype, source, read_only)
    if not hasattr(source, "__dlpack__"):
        needed = "__cuda_array_interface__ or DLPack"
        raise InputError(what, seen=type(source).__name__, needed=needed, remedy=remedy)
    if (place := source.__dlpack_device__()[0]) not in (_CUDA, _CUDA_MANAGED):
        raise InputError(what, seen=f"DLPack device type {int(place)}", needed="CUDA (2 or 13)", remedy=remedy)
    utils = _cuda_core("utils")
    try:
        view = utils.StridedMemoryView.from_dlpack(source, stream)
        dtype = np.dtype(view.dtype)
    except Exception as cause:
        raise InputError(what, seen=cause, needed="an array that its maker hands out", remedy=remedy) from cause
    if dtype.kind not in "iuf":
        needed, remedy = "integers or FP16 to FP64", "Convert it first, bfloat16 with .float()."
        raise InputError(what, seen=f"type {dtype}", needed=needed, remedy=remedy)
    strides = contiguous_strides(view.shape, dtype.itemsize)
    if view.strides is not None:
        strides = tuple(step * dtype.itemsize for step in view.strides)
    return DeviceView(view.ptr, view.shape, strides, dtype, view, view.readonly)


def _cuda_core(name: str) -> Any:
    """A module of cuda-core, which is there wherever a session has a GPU. Raises MissingDependency."""
    try:
        return importlib.import_module(f"cuda.core.{name}".removesuffix("."))
    except ImportError as cause:
        needed, remedy = "cuda-core 1.0 or newer", "Run: pip install 'zoomrt[cuda]'"
        raise MissingDependency("arrays on a GPU need cuda-core", seen=cause, needed=needed, remedy=remedy) from cause


class DeviceArray:
    """Memory of ours on the device for others, without a copy: `cupy.asarray(a)`, `torch.from_dlpack(a)`, PyCUDA.

    Made by `Upscaler.upscale`. C-contiguous; `address` on the device, `shape` and `dtype` say the rest.

    Parameters
    ----------
    stream
        Handle of the stream that writes it.
    lead
        Called with the handle of the taker's stream: makes it wait for ours.
    owner
        Kept alive by this and by whoever took it.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: str,
        *,
        stream: int,
        lead: Callable[[int], None],
        owner: object,
    ) -> None:
        self.address, self.shape, self.dtype = address, shape, np.dtype(dtype)
        self._stream, self._lead, self._owner = stream, lead, owner

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The taker waits for `stream` itself."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA, 0

    def __dlpack__(self, *, stream: int | None = None, **asked: Any) -> Any:
        """stream : the taker's, which waits for ours; None means the legacy default stream, -1 that nobody waits."""
        if stream != -1:
            self._lead(1 if stream is None else stream)
        return self._view().__dlpack__(**asked)  # which itself has nobody wait

    def _view(self) -> Any:
        size = math.prod(self.shape) * self.dtype.itemsize
        buffer = _cuda_core("").Buffer.from_handle(self.address, size, owner=self._owner)
        return _cuda_core("utils").StridedMemoryView.from_buffer(buffer, self.shape, dtype=self.dtype)
