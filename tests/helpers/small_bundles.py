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


def write(path: Path, payload: bytes = b"graph", **changes: object) -> None:
    with writing_bundle(path) as (scratch, manifests):
        (scratch / "graph.onnx").write_bytes(payload)
        (scratch / "graph.onnx.data").write_bytes(payload * 100)
        manifests.append(manifest(**changes))
