"""A bundle of a few bytes."""

from __future__ import annotations

from pathlib import Path

from zoomrt.bundle import Manifest, TileFacts, writing_bundle

TILE = TileFacts(
    scale=4,
    height=64,
    width=64,
    batches=(1,),
    overlap=16,
    context=4,
    value_range=(-1.0, 1.0),
    dtype="float32",
)


def manifest(**changes: object) -> Manifest:
    fields = {"family": "edge", "target": "cpu", "backend": "onnxruntime", "precision": "fp32", "tile": TILE}
    return Manifest(**{**fields, "graphs": {"1": "graph.onnx"}, **changes})


EMPTY_MODEL = b"\x08\x0a"
"""An ONNX file that says nothing but its IR version, 10."""


def model_with_external_data(*locations: str) -> bytes:
    """An ONNX file with a weight in each of these places."""
    import onnx  # here, so that children that only write a bundle start soon

    graph = onnx.GraphProto(name="g")
    for number, location in enumerate(locations):
        tensor = graph.initializer.add(name=f"w{number}", data_type=onnx.TensorProto.FLOAT, dims=[1])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("offset", "0"), ("location", location), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
    return onnx.ModelProto(ir_version=10, graph=graph).SerializeToString()


def write(path: Path, payload: bytes = b"graph", **changes: object) -> None:
    with writing_bundle(path) as (scratch, manifests):
        (scratch / "graph.onnx").write_bytes(payload)
        (scratch / "graph.onnx.data").write_bytes(payload * 100)
        (scratch / "kernels").mkdir()
        (scratch / "kernels" / "k").write_bytes(payload)
        manifests.append(manifest(**changes))
