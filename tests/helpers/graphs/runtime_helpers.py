"""What the runtime's tests share: tile facts, small ONNX bundles, a fake session, slow references, the seam metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from colour_steps import STEPS
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from zoomrt.bundle import Manifest, TileFacts, writing_bundle
from zoomrt.runtime.session import Session
from zoomrt.runtime.tiles.plan import TilePlan
from zoomrt.runtime.upscaler import Upscaler

ONNX_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def facts(**changes: Any) -> TileFacts:
    """Tile facts for a small x4 model; any field may be replaced. colour : a name of `colour_steps.STEPS`."""
    fields: dict[str, Any] = {
        "scale": 4,
        "height": 32,
        "width": 32,
        "batches": (1,),
        "overlap": 12,
        "context": 4,
        "value_range": (-1.0, 1.0),
        "dtype": "float32",
        "colour": "none",
    } | changes
    return TileFacts(**{**fields, "colour": STEPS[fields["colour"]]})


def manifest(tile: TileFacts, **changes: Any) -> Manifest:
    graphs = {str(n): f"graph_{n}.onnx" for n in tile.batches}
    fields = {"family": "test", "target": "cpu", "backend": "onnxruntime", "precision": "fp32", "graphs": graphs}
    return Manifest(tile=tile, **{**fields, **changes})


class FakeSession(Session):
    """Nearest-neighbour enlargement without an engine; `before` runs first and may raise, `after` may spoil pixels."""

    def __init__(
        self,
        tile: TileFacts,
        before: Callable[[int], None] | None = None,
        after: Callable[[int, NDArray[Any]], NDArray[Any]] | None = None,
    ) -> None:
        super().__init__(tile)
        self.runs = 0
        self.released = 0
        self._before, self._after = before, after
        shape = (tile.batches[-1], 3, tile.height * tile.scale, tile.width * tile.scale)
        self._output = np.empty(shape, tile.dtype)

    def _execute(self, batch: NDArray[Any]) -> NDArray[Any]:
        self.runs += 1
        if self._before:
            self._before(self.runs)
        output, scale = self._output[: len(batch)], self.tile.scale
        n, _, high, wide = batch.shape
        output.reshape(n, 3, high, scale, wide, scale)[...] = batch[:, :, :, None, :, None]
        return self._after(self.runs, output) if self._after else output

    def _release(self) -> None:
        self.released += 1


def fake_upscaler(tile: TileFacts, **hooks: Any) -> tuple[Upscaler, FakeSession]:
    session = FakeSession(tile, **hooks)
    return Upscaler(manifest(tile), session), session


def convolution_model(
    seed: int, batch: int, height: int, width: int, *, scale: int = 4, dtype: str = "float32", opset: int = 18
) -> onnx.ModelProto:
    """Linear enlargement plus a residual: two 3x3 convolutions (zero padding, they look 2 LR pixels far).

    Static shape. The residual is about 0.1 of the value range.
    """
    rng = np.random.default_rng(seed)
    outputs = 3 * scale * scale
    weights = {
        "w1": rng.normal(0, 0.2, (8, 3, 3, 3)),
        "b1": rng.normal(0, 0.1, 8),
        "w2": rng.normal(0, 0.03, (outputs, 8, 3, 3)),
        "b2": rng.normal(0, 0.01, outputs),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], **pads),
        helper.make_node("Tanh", ["c1"], ["t1"]),
        helper.make_node("Conv", ["t1", "w2", "b2"], ["c2"], **pads),
        helper.make_node("DepthToSpace", ["c2"], ["d"], blocksize=scale, mode="CRD"),
        helper.make_node("Resize", ["x", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Add", ["d", "r"], ["y"]),
    ]
    initial = [numpy_helper.from_array(value.astype(dtype), name) for name, value in weights.items()]
    initial.append(numpy_helper.from_array(np.array([1, 1, scale, scale], np.float32), "scales"))
    return model_of(
        nodes, (batch, 3, height, width), (batch, 3, height * scale, width * scale), dtype, opset, initial=initial
    )


def model_of(
    nodes: list[Any],
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    dtype: str = "float32",
    opset: int = 18,
    *,
    ir_version: int = 10,
    initial: list[Any] | None = None,
    domains: tuple[str, ...] = (),
) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", ONNX_TYPES[dtype], shape_in)
    y = helper.make_tensor_value_info("y", ONNX_TYPES[dtype], shape_out)
    graph = helper.make_graph(nodes, "test", [x], [y], initializer=initial or [])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def write_bundle(path: Path, tile: TileFacts, model: dict[int, bytes] | int, **changes: Any) -> Path:
    """A bundle around ready graphs by batch size, or around the convolution model of that seed."""
    payloads = model if isinstance(model, dict) else {}
    if isinstance(model, int):
        payloads = {
            n: convolution_model(
                model, n, tile.height, tile.width, scale=tile.scale, dtype=tile.dtype
            ).SerializeToString()
            for n in tile.batches
        }
    with writing_bundle(path) as (scratch, manifests):
        for n, payload in payloads.items():
            (scratch / f"graph_{n}.onnx").write_bytes(payload)
        manifests.append(manifest(tile, **changes))
    return path


def slow_axis_weights(size: int, tile: TileFacts, side: int) -> list[NDArray[np.float64]]:
    """Weight of every tile at every output pixel of one axis, from the definition, in float64."""
    stride, scale = side - tile.overlap, tile.scale
    length = min(tile.overlap - 2 * tile.context, stride) * scale
    count = 1
    while (count - 1) * stride + side < size:
        count += 1
    centres = np.arange(size * scale) + 0.5
    weights = []
    for k in range(count):
        weight = np.ones(size * scale)
        if k < count - 1:
            weight *= np.clip(((k * stride + side - tile.context) * scale - centres) / length, 0, 1)
        if k > 0:
            weight *= np.clip((centres - ((k - 1) * stride + side - tile.context) * scale) / length + 1, 0, 1)
        weights.append(weight)
    return weights


def seam_ratio(frame: NDArray[Any], tiles: TilePlan) -> float:
    """Mean absolute gradient across tile borders over that one pixel to either side of them.

    Borders are where a tile begins or ends to count and the middle of each seam. 1 means that borders do not show,
    but only for a picture without a grid of its own: an enlarged one repeats every `scale` pixels, and borders all lie
    on the same phase (plain bicubic x4 of a photograph: 1.08). Divide by the ratio of the untiled picture then.
    frame : (H, W, 3) or (H, W), output size.
    """
    across, beside = [], []
    for axis, plan in ((0, tiles.rows), (1, tiles.columns)):
        lines = {edge for span in plan.spans[1:] for edge in (span.start, span.start + span.rise)}
        lines |= {span.start + span.rise // 2 for span in plan.spans[1:]}
        gradient = np.abs(np.diff(frame.astype(np.float64), axis=axis))
        for line in lines:  # the gradient between pixel line - 1 and line has index line - 1
            around = np.take(gradient, [line - 2, line - 1, line], axis=axis)
            means = around.mean(axis=tuple(a for a in range(around.ndim) if a != axis))
            across.append(means[1])
            beside.append((means[0] + means[2]) / 2)
    return float(np.mean(across) / np.mean(beside))


def photograph(height: int, width: int) -> NDArray[np.uint8]:
    """A part of a real photograph, (H, W, 3) uint8."""
    from skimage import data

    picture = data.astronaut()
    assert height <= picture.shape[0]
    assert width <= picture.shape[1]
    return np.ascontiguousarray(picture[:height, :width])
