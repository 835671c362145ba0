"""Arrays of other libraries, as their protocols describe them, in memory that a test can read."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoomrt.runtime.frames.interop import DeviceArray

OURS = 640


def refuse(handle: int) -> None:
    raise AssertionError(f"asked to wait for {handle}")


class OnDevice:
    """Somebody's array with an array interface."""

    def __init__(self, array: np.ndarray[Any, Any], **changes: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": array.strides,
            "version": 3,
            "stream": None,
            **changes,
        }


class LikeTorch(OnDevice):
    """An interface of version 2, which knows no streams, and DLPack."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        super().__init__(array, version=2)
        del self.__cuda_array_interface__["stream"]
        self.asked: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __dlpack__(self, *, stream: int) -> Any:
        self.asked.append(stream)
        return self.array.__dlpack__()


def lent(array: np.ndarray[Any, Any], lead: Any = refuse) -> DeviceArray:
    """Memory of ours as it goes out."""
    return DeviceArray(array.ctypes.data, array.shape, array.dtype.str, stream=OURS, lead=lead, owner=array)


class LentByCpu(DeviceArray):
    """The same in the host's memory, so that cuda-core needs no driver and real libraries take it."""

    def __init__(self, array: np.ndarray[Any, Any], lead: Any, owner: object) -> None:
        super().__init__(array.ctypes.data, array.shape, array.dtype.str, stream=OURS, lead=lead, owner=owner)
        self._array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def _view(self) -> Any:
        from cuda.core.utils import StridedMemoryView

        return StridedMemoryView.from_dlpack(_Maker(self._array, self._owner), -1)


class _Maker:
    """What cuda-core reads, and keeps."""

    def __init__(self, array: np.ndarray[Any, Any], owner: object) -> None:
        self.array, self.owner = array, owner

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **_: Any) -> Any:
        return self.array.__dlpack__()
