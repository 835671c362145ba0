"""Memory and streams on a GPU that cross the border as they are: CuPy's, torch's, Numba's, PyCUDA's, cuda-core's.

Nothing is copied here. Whoever made memory or a stream owns it: what comes in is kept alive by its view, and must not
be written to before the work that reads it is done; what goes out is good until its session is closed.
`Upscaler` takes frames on the GPU by these.
Written to the texts of `__cuda_array_interface__` 3, DLPack and `__cuda_stream__`; NOT RUN on a GPU so far.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoomrt.errors import InputError
from zoomrt.runtime.frames.buffers import contiguous_strides

_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's device types
_KINDS = {0: "i", 1: "u", 2: "f"}  # DLPack's type codes
_CODES = {kind: code for code, kind in _KINDS.items()}
_DEFAULT_STREAMS = (0, 1, 2)  # 1: legacy, 2: per thread; 0 is either of them, so both protocols forbid it


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (("tensor", _DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_NAME = b"dltensor"  # capsules point at these very bytes
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_raw_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_is_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))


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
    try:
        capsule = source.__dlpack__(stream=stream)
    except Exception as cause:
        raise InputError(what, seen=cause, needed="an array that its maker hands out", remedy=remedy) from cause
    return _view_of_capsule(capsule)


def _view_of_capsule(capsule: Any) -> DeviceView:
    """The capsule keeps its name, so that it gives the memory back when the view is gone."""
    tensor = _DLManagedTensor.from_address(_pointer(capsule, _NAME)).tensor
    if tensor.code not in _KINDS or tensor.bits % 8 or tensor.lanes != 1:
        seen = f"DLPack type code {tensor.code} of {tensor.bits} bits"
        needed, remedy = "integers or FP16 to FP64 (codes 0, 1, 2)", "Convert it first, bfloat16 with .float()."
        raise InputError("cannot read this array on the GPU", seen=seen, needed=needed, remedy=remedy)
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = contiguous_strides(shape, dtype.itemsize)
    if tensor.strides:
        strides = tuple(step * dtype.itemsize for step in tensor.strides[: tensor.ndim])
    return DeviceView((tensor.data or 0) + tensor.byte_offset, shape, strides, dtype, capsule)


class DeviceArray:
    """Memory of ours on the device for others, without a copy: `cupy.asarray(a)`, `torch.from_dlpack(a)`, PyCUDA.

    address, shape, dtype : C-contiguous. stream : handle of the stream that writes it. lead(handle) : make the taker's
    stream wait for ours (`CudaStream.lead`). owner : kept alive by this and by whoever took it. place : DLPack device.
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
        place: tuple[int, int] = (_CUDA, 0),
    ) -> None:
        self.address, self.shape, self.dtype = address, shape, np.dtype(dtype)
        self._stream, self._lead, self._owner, self._place = stream, lead, owner, place

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
        return self._place

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """stream : the taker's, which waits for ours; None means the legacy default stream, -1 that nobody waits."""
        if stream != -1 and self._place[0] == _CUDA:
            self._lead(1 if stream is None else stream)
        sides = (ctypes.c_int64 * len(self.shape))(*self.shape)
        managed = _DLManagedTensor()
        tensor = managed.tensor
        tensor.data, tensor.ndim, tensor.lanes = self.address, len(self.shape), 1
        tensor.device_type, tensor.device_id = self._place
        tensor.code, tensor.bits = _CODES[self.dtype.kind], 8 * self.dtype.itemsize
        tensor.shape = ctypes.cast(sides, ctypes.POINTER(ctypes.c_int64))
        managed.deleter = ctypes.cast(_forget, ctypes.c_void_p)
        at = ctypes.addressof(managed)
        _lent[at] = (managed, sides, self._owner)
        return _new(at, _NAME, ctypes.cast(_unused, ctypes.c_void_p))


_lent: dict[int, tuple[object, ...]] = {}  # what takers of our memory hold, until they say that they are done


def _give_back(managed: int) -> None:
    _lent.pop(managed, None)


def _give_back_unused(capsule: int) -> None:
    """A capsule that nobody took (a taker renames it) gives back what it holds."""
    if _is_named(capsule, _NAME):
        _give_back(_raw_pointer(capsule, _NAME))


_forget, _unused = _Deleter(_give_back), _Deleter(_give_back_unused)
