"""External data of ONNX files, found without the onnx package, against what onnx itself wrote."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_bundles import model_with_external_data

from zoomrt.bundle.onnx_file import external_locations
from zoomrt.errors import BundleError


def external(location: str) -> TensorProto:
    tensor = TensorProto(name=location, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph_with(tensor: TensorProto) -> onnx.GraphProto:
    return onnx.GraphProto(name="inner", initializer=[tensor])


def attribute(**fields: object) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="X")
    node.attribute.append(onnx.AttributeProto(name="a", **fields))
    return node


def sparse(tensor: TensorProto, field: str = "values") -> onnx.SparseTensorProto:
    found = onnx.SparseTensorProto(dims=[1])
    getattr(found, field).CopyFrom(tensor)
    return found


PLACES: dict[str, Callable[[onnx.ModelProto, TensorProto], object]] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "values of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(sparse(t)),
    "indices of a sparse initializer": lambda m, t: m.graph.sparse_initializer.append(sparse(t, "indices")),
    "attribute": lambda m, t: m.graph.node.append(attribute(t=t)),
    "attribute of tensors": lambda m, t: m.graph.node.append(attribute(tensors=[t, t])),
    "sparse attribute": lambda m, t: m.graph.node.append(attribute(sparse_tensor=sparse(t))),
    "sparse attributes": lambda m, t: m.graph.node.append(attribute(sparse_tensors=[sparse(t)])),
    "subgraph": lambda m, t: m.graph.node.append(attribute(g=graph_with(t))),
    "subgraphs": lambda m, t: m.graph.node.append(attribute(graphs=[graph_with(t)])),
    "subgraph of a subgraph": lambda m, t: m.graph.node.append(
        attribute(g=onnx.GraphProto(node=[attribute(g=graph_with(t))]))
    ),
    "function": lambda m, t: m.functions.append(onnx.FunctionProto(name="f", node=[attribute(t=t)])),
    "default of a function": lambda m, t: m.functions.append(
        onnx.FunctionProto(name="f", attribute_proto=[onnx.AttributeProto(name="a", t=t)])
    ),
    "training": lambda m, t: m.training_info.append(onnx.TrainingInfoProto(initialization=graph_with(t))),
    "training step": lambda m, t: m.training_info.append(onnx.TrainingInfoProto(algorithm=graph_with(t))),
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_a_tensor_may_be(place: str, tmp_path: Path) -> None:
    model = onnx.ModelProto(ir_version=10, producer_name="zoomrt")
    model.graph.name = "g"
    model.graph.initializer.append(helper.make_tensor("inline", TensorProto.FLOAT, [3], np.ones(3)))
    PLACES[place](model, external("weights/a.bin"))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "m.onnx") == {"weights/a.bin"}


def messages_with_tensors() -> set[tuple[str, str]]:
    """(message, field) for every way that leads to a TensorProto in the installed onnx's own schema."""
    names = {name for name in dir(onnx) if name.endswith("Proto") and hasattr(getattr(onnx, name), "DESCRIPTOR")}
    kinds = {name: getattr(onnx, name).DESCRIPTOR for name in names}
    reach = {"TensorProto"}
    while True:
        more = {n for n, d in kinds.items() if any(f.message_type and f.message_type.name in reach for f in d.fields)}
        if more <= reach:
            break
        reach |= more
    todo, found = ["ModelProto"], set()
    while todo:
        for field in kinds[name := todo.pop()].fields:
            if field.message_type and field.message_type.name in reach and (name, field.name) not in found:
                found.add((name, field.name))
                todo.append(field.message_type.name)
    return found


def test_no_way_to_a_tensor_is_missed() -> None:
    from zoomrt.bundle.onnx_file import _FIELDS

    ours = {
        (f"{name}Proto", getattr(onnx, f"{name}Proto").DESCRIPTOR.fields_by_number[number].name)
        for name, fields in _FIELDS.items()
        for number, inner in fields.items()
        if inner != "Entry"
    }
    assert ours == messages_with_tensors()


def test_of_a_field_that_repeats_every_value_counts(tmp_path: Path) -> None:
    """A parser takes the last key and the last value; a reader that takes the first ones would be fooled."""
    entry = b"".join(
        bytes([tag, len(text)]) + text
        for tag, text in ((0x0A, b"offset"), (0x12, b"0"), (0x12, b"../x"), (0x0A, b"location"))
    )
    tensor = onnx.TensorProto(name="w").SerializeToString() + b"\x6a" + bytes([len(entry)]) + entry
    parsed = onnx.TensorProto.FromString(tensor)
    assert (parsed.external_data[0].key, parsed.external_data[0].value) == ("location", "../x")
    model = onnx.ModelProto(ir_version=10, graph=onnx.GraphProto(name="g")).SerializeToString()
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    (tmp_path / "m.onnx").write_bytes(model + b"\x3a" + bytes([len(graph)]) + graph)
    assert "../x" in external_locations(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"\x0b",
        b"\x00\x00",
        b"\x08",
        b"\x3a\x7f",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xff" * 40,
        b"\x80\x80\x80\x80\x80\x01",
        b"<?xml version='1.0'?><net/>",
    ],
)
def test_what_is_no_onnx_file(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        external_locations(tmp_path / "m.onnx")


def test_nesting_is_bounded(tmp_path: Path) -> None:
    inner = b""
    for _ in range(300):
        node = b"\x2a" + length(inner_attribute := b"\x32" + length(inner) + inner) + inner_attribute
        inner = b"\x0a" + length(node) + node
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + length(inner) + inner)
    with pytest.raises(BundleError, match="nested"):
        external_locations(tmp_path / "m.onnx")


def length(content: bytes) -> bytes:
    value, found = len(content), b""
    while value >= 0x80:
        value, found = value >> 7, found + bytes([value & 0x7F | 0x80])
    return found + bytes([value])


def test_damaged_files_end_soon_and_miss_no_location_that_onnx_would_find(tmp_path: Path) -> None:
    whole = model_with_external_data("a.bin", "b/c.bin")
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(random.randrange(1, 4)):
            damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            ours = external_locations(tmp_path / "m.onnx")
        except BundleError:
            continue
        try:
            model = onnx.ModelProto.FromString(bytes(damaged))
        except Exception:  # protobuf's own errors
            continue
        theirs = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert theirs <= ours
