"""Which other files an ONNX file wants read: the locations of its external data.

A reader of the protobuf wire format (protobuf.dev/programming-guides/encoding) that descends only where onnx.proto3 has
tensors and skips the rest unread, so that the runtime needs no onnx package and a graph of gigabytes takes no memory.
It is stricter than a parser of protobuf: what it cannot follow is an error, never skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zoomrt.errors import BundleError
from zoomrt.files import open_file

# message -> field number -> the message in it, for every path from a model to a tensor (onnx.proto3, IR version 13)
_FIELDS: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2  # of Entry, onnx.proto3's StringStringEntryProto
_DEEPEST = 100  # protobuf's own limit
_LONGEST = 4096
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def external_locations(path: Path) -> set[str]:
    """The files that hold weights of an ONNX file, as it names them, relative to its folder.

    Raises BundleError where it is no ONNX file.
    """
    found: set[str] = set()
    with open_file(path, BundleError, needed="an ONNX graph") as stream:
        end = stream.seek(0, 2)
        stream.seek(0)
        try:
            _scan(stream, end, "Model", found, 0)
        except _Malformed as cause:
            remedy = "Build the bundle again with trt-build, or copy it again from where it came."
            what = f"graph {str(path)!r} is damaged"
            raise BundleError(what, seen=cause, needed="a valid ONNX graph", remedy=remedy) from cause
    return found


class _Malformed(Exception):
    """Not the wire format."""


def _scan(stream: BinaryIO, end: int, message: str, found: set[str], depth: int) -> None:
    """Read one message up to byte `end` and note the locations in it."""
    if depth > _DEEPEST:
        raise _Malformed(f"messages nested more than {_DEEPEST} deep")
    if message == "Entry":
        found.update(_locations(stream, end))
        return
    for field, stop in _fields(stream, end):
        if (inner := _FIELDS[message].get(field)) is not None:
            _scan(stream, stop, inner, found, depth + 1)


def _locations(stream: BinaryIO, end: int) -> list[str]:
    """The values of an entry if one of its keys is `location`: of fields that repeat, a parser takes the last one."""
    texts: dict[int, list[str]] = {_KEY: [], _VALUE: []}
    for field, stop in _fields(stream, end):
        if field in texts:
            if stop - stream.tell() > _LONGEST:
                raise _Malformed("a name of external data that is too long")
            try:
                texts[field].append(stream.read(stop - stream.tell()).decode())
            except UnicodeDecodeError:
                raise _Malformed("a name of external data that is no text") from None
    return (texts[_VALUE] or [""]) if "location" in texts[_KEY] else []


def _fields(stream: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """(number, byte after it) of each field of bytes in a message, the stream at its first byte; others are skipped."""
    while stream.tell() < end:
        tag = _varint(stream, 32)
        number, kind = tag >> 3, tag & 7
        if number == 0 or kind not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            raise _Malformed(f"a field of number {number} and type {kind}")
        if kind == _VARINT:
            _varint(stream, 70)
            size = 0
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(kind) or _varint(stream, 31)
        stop = stream.tell() + size
        if stop > end:
            raise _Malformed("a field that is longer than what it is in")
        if kind == _BYTES:
            yield number, stop
        stream.seek(stop)


def _varint(stream: BinaryIO, bits: int) -> int:
    """A number of at most so many bits, 7 to a byte, the lowest first."""
    value = 0
    for place in range(0, bits, 7):
        byte = stream.read(1)
        if not byte:
            raise _Malformed("an end within a number")
        value |= (byte[0] & 0x7F) << place
        if byte[0] < 0x80:
            if value >> bits:
                break
            return value
    raise _Malformed(f"a number of more than {bits} bits")
