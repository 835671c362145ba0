"""The two forms of file that `torch.save` writes: an uncompressed zip archive, and before torch 1.6 pickles in a row.

Read without torch's own reader, which runs no code either, but takes bytes whose checksum is wrong without a word,
holds every tensor of a training run where one state dict is wanted, and refuses a file for any class beside its tensors
(`pickle_data.py`). Sizes are held against the file's before memory is taken for them.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoomrt.models.pickle_data import Made, Persistent, read_pickle

FAULTS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,  # a position before the start of the file
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What reading raises for bytes that make no sense."""
FLOATING = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
MOST_PICKLE_BYTES = 1 << 28
Reader = Callable[[str], NDArray[np.uint8]]
"""Name of a storage -> its bytes."""
_PIECE = 1 << 24  # bytes read at once
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # what torch.save began with before 1.6
_STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexDoubleStorage": ("complex128", 16),
    "ComplexFloatStorage": ("complex64", 8),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "UntypedStorage": ("uint8", 1),
}
"""torch's classes -> element type, and its bytes."""
_UTILS = "torch._utils._rebuild_"
_WRAPPED = (f"{_UTILS}parameter", f"{_UTILS}parameter_with_state")
_PLAIN = (f"{_UTILS}tensor", f"{_UTILS}tensor_v2", f"{_UTILS}tensor_v3")
_OTHER = {
    f"{_UTILS}sparse_tensor": "sparse",
    f"{_UTILS}sparse_csr_tensor": "sparse",
    f"{_UTILS}qtensor": "quantised",
    f"{_UTILS}meta_tensor_no_storage": "meta (no values)",
    f"{_UTILS}nested_tensor": "nested",
}


class ForeignFile(ValueError):
    """A file that is whole, but not what torch.save writes of tensors."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still is in its file. `offset` and `strides` count elements of `dtype` in its storage."""

    storage: str
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def tensor_like(value: Any) -> StoredTensor | str | None:
    """The tensor that a value of `TorchFile.content` stands for; for one that is not dense, what it is; None for
    everything else. Raises what `FAULTS` lists for a description that makes no sense."""
    while isinstance(value, Made) and value.what in _WRAPPED:
        value = value.args[0]
    if not isinstance(value, Made):
        return None
    if value.what == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes
        return tensor_like(Made(value.args[0], value.args[2]))
    if value.what in _PLAIN:
        reference, offset, shape, strides = value.args[:4]
        storage, dtype, count, _ = _storage(reference)
        if value.what.endswith("_v3"):
            dtype = value.args[6].name.removeprefix("torch.")
            if dtype in FLOATING:
                count //= getattr(torch, dtype).itemsize
        return _checked(StoredTensor(storage, dtype, offset, _sizes(shape), _sizes(strides)), count)
    if value.what.startswith((_UTILS, "numpy.")):
        return _OTHER.get(value.what, value.what.removeprefix(_UTILS))
    return None


def _storage(reference: Persistent) -> tuple[str, str, int, int]:
    """(name, dtype, elements, bytes of one) of ("storage", class, name, device, elements, and once a view)."""
    kind, storage_class, name, _, count, *view = reference.id
    if kind != "storage" or any(part is not None for part in view):
        raise ValueError(f"a reference to {kind}")
    dtype, size = _STORAGES[storage_class.name.rpartition(".")[2]]
    return str(name), dtype, int(count), size


def _sizes(shape: Any) -> tuple[int, ...]:
    """Of a tuple or a torch.Size."""
    return tuple(int(side) for side in (shape.args[0] if isinstance(shape, Made) else shape))


def _checked(tensor: StoredTensor, count: int) -> StoredTensor:
    """Raises ValueError for a tensor that reaches beyond its storage, or whose elements overlap in it."""
    sides = [*zip(tensor.shape, tensor.strides, strict=True)]
    if tensor.offset < 0 or any(side < 0 or stride < 0 for side, stride in sides):
        raise ValueError(f"a tensor {tensor.shape} of negative extent")
    elements = math.prod(tensor.shape)
    last = tensor.offset + sum((side - 1) * stride for side, stride in sides)
    if elements and (last >= count or elements > count):
        raise ValueError(f"a tensor {tensor.shape} in a storage of {count} elements")
    return tensor


@dataclass
class TorchFile:
    """content : what was saved, with `pickle_data.Made` where an object was: see `tensor_like`. names : every global
    that the file refers to."""

    content: Any
    names: set[str]
    _storages: Callable[[BinaryIO], AbstractContextManager[Reader]] = field(repr=False)

    @classmethod
    def open(cls, stream: BinaryIO) -> TorchFile:
        """Raises OSError, and for bytes that make no sense what `FAULTS` lists."""
        zipped = stream.read(2) == b"PK"
        stream.seek(0)
        return _from_zip(stream) if zipped else _from_pickles(stream)

    def load(self, stream: BinaryIO, tensors: Iterable[StoredTensor]) -> dict[StoredTensor, Tensor]:
        """Of the element types in `FLOATING`, from the same file; a storage is read once. Raises as `open`."""
        raw: dict[str, Tensor] = {}
        found = {}
        with self._storages(stream) as read:
            for tensor in tensors:
                dtype = getattr(torch, tensor.dtype)
                if not math.prod(tensor.shape):
                    found[tensor] = torch.empty(tensor.shape, dtype=dtype)
                    continue
                if tensor.storage not in raw:
                    raw[tensor.storage] = torch.from_numpy(read(tensor.storage))
                found[tensor] = raw[tensor.storage].view(dtype).as_strided(tensor.shape, tensor.strides, tensor.offset)
        return found


def _from_zip(stream: BinaryIO) -> TorchFile:
    with _archive(stream) as (archive, root):
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ForeignFile("numbers in another byte order than this machine's")
        if (size := archive.getinfo(f"{root}data.pkl").file_size) > MOST_PICKLE_BYTES:
            raise ValueError(f"{size} bytes of description")
        pickled = read_pickle(archive.read(f"{root}data.pkl"))
    return TorchFile(pickled.content, pickled.names, _zipped_storages)


@contextmanager
def _archive(stream: BinaryIO) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """The archive and the folder in it. Nothing in it may be compressed, so it cannot be larger than its file."""
    with zipfile.ZipFile(stream) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise ForeignFile("a TorchScript program instead of a state dict")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ForeignFile("compressed entries, which torch does not write")
        if sum(entry.file_size for entry in entries) > os.fstat(stream.fileno()).st_size:
            raise ValueError("entries that overlap")
        found = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(found) != 1:
            raise ForeignFile("a zip archive that torch did not write: " + ", ".join(archive.namelist()[:3]))
        yield archive, found[0].removesuffix("data.pkl")


@contextmanager
def _zipped_storages(stream: BinaryIO) -> Iterator[Reader]:
    with _archive(stream) as (archive, root):

        def read(storage: str) -> NDArray[np.uint8]:
            entry = archive.getinfo(f"{root}data/{storage}")
            with archive.open(entry) as opened:  # its end is where the checksum is compared
                return _bytes_of(opened, entry.file_size)

        yield read


def _from_pickles(stream: BinaryIO) -> TorchFile:
    with closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as raw:
        if (magic := read_pickle(raw)).content != _MAGIC:
            names = ", ".join(sorted(magic.names)[:3])
            raise ForeignFile("a plain pickle" + (f" that refers to {names}" if names else ""))
        protocol, system, saved = (read_pickle(raw) for _ in range(3))
        if protocol.content != _PROTOCOL:
            raise ForeignFile(f"torch's file format {protocol.content}")
        if not system.content.get("little_endian", True):
            raise ForeignFile("numbers in another byte order than this machine's")
        listed = read_pickle(raw).content
        sizes = {name: (count, size) for name, _, count, size in map(_storage, saved.persistent)}
        places = {}
        for name in map(str, listed):
            count, size = sizes[name]
            if struct.unpack("<q", raw.read(8)) != (count,):
                raise ValueError(f"storage {name} of another size than described")
            if raw.tell() + count * size > raw.size():
                raise EOFError(f"storage {name} is cut short")
            places[name] = (raw.tell(), count * size)
            raw.seek(count * size, os.SEEK_CUR)

    @contextmanager
    def storages(stream: BinaryIO) -> Iterator[Reader]:
        def read(storage: str) -> NDArray[np.uint8]:
            place, length = places[storage]
            stream.seek(place)
            return _bytes_of(stream, length)

        yield read

    return TorchFile(saved.content, saved.names, storages)


def _bytes_of(stream: IO[bytes], length: int) -> NDArray[np.uint8]:
    raw = np.empty(length, np.uint8)
    for start in range(0, length, _PIECE):
        piece = stream.read(min(_PIECE, length - start))
        raw[start : start + _PIECE] = np.frombuffer(piece, np.uint8)
    return raw
