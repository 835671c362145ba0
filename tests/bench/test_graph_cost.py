"""Counted work against torch's own counter, and against the fact sheets; bytes against a count by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from zoomrt.bench.graph_cost import GROUPS, cost_of, group_of, node_costs
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY
from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork
from zoomrt.models.networks.edsr import EdsrConfig, EdsrNetwork
from zoomrt.models.networks.real_esrgan import DenseConfig, DenseNetwork
from zoomrt.models.networks.swinir import SwinConfig, SwinNetwork

TOLERANCE = 0.02  # of the sheets, which round
EXACT = 1e-9  # of torch, which counts the same products


class Mixed(nn.Module):
    """Strided, grouped and transposed convolutions, a product, and attention of two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(16, 3, 2, stride=2)
        self.linear = nn.Linear(16, 48)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.grouped(self.down(x)))
        n, c, high, wide = h.shape
        q, k, v = self.linear(h.flatten(2).transpose(1, 2)).view(n, high * wide, 3, 2, 8).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.up(mixed.transpose(1, 2).reshape(n, c, high, wide))  # type: ignore[no-any-return]


def counted_by_torch(network: nn.Module, shape: tuple[int, ...]) -> float:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.to("meta")(torch.empty(shape))
    return counter.get_total_flops() / 2e9


NETWORKS = {
    "mixed": (Mixed, 32),
    "edge": (lambda: EdgeNetwork(EdgeConfig((32, 32, 64), (1, 1), 1, (1, 1))), 32),
    "real-esrgan": (lambda: DenseNetwork(DenseConfig(width=16, growth=8, blocks=2)), 24),
    "edsr": (lambda: EdsrNetwork(EdsrConfig(width=16, blocks=2, scale=4)), 24),
    "swinir": (lambda: SwinNetwork(SwinConfig(width=24, depths=(2, 2), heads=2, mlp=48)), 32),
}


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("name", NETWORKS)
def test_work_is_what_torch_counts(tmp_path: Path, name: str, opset: int) -> None:
    make, side = NETWORKS[name]
    network = make().eval()
    shape = (1, 3, side, side)
    export_graph(network, tmp_path / "g.onnx", shape=shape, half=False, opset=opset)
    found = cost_of({tmp_path / "g.onnx": 1})
    assert found.uncounted == ()
    wanted = counted_by_torch(network, shape)
    # the export folds edge's constant timestep, and the layers that it goes through with it
    assert found.gmac == pytest.approx(wanted, rel=TOLERANCE if name == "edge" else EXACT)
    assert sum(gmac for gmac, _ in found.groups.values()) == pytest.approx(found.gmac)
    assert cost_of({tmp_path / "g.onnx": 3}).gmac == pytest.approx(3 * found.gmac)


def test_work_of_the_shipped_network_is_the_catalogues(tmp_path: Path) -> None:
    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    export_graph(network, tmp_path / "g.onnx", shape=(1, 3, 128, 128), half=False, opset=23)
    assert cost_of({tmp_path / "g.onnx": 1}).gmac == pytest.approx(FAMILY.variants[0].gmac, rel=TOLERANCE)


def test_bytes_are_read_once_and_written_once(tmp_path: Path) -> None:
    """A convolution of FP16 and a view: input, weight and output of the first, nothing of the second."""
    weight = onnx.numpy_helper.from_array(np.zeros((5, 3, 3, 3), np.float16), "w")
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT16, (1, 3, 8, 8)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT16, (1, 5, 64)),
    ]
    shape = onnx.numpy_helper.from_array(np.array([1, 5, 64]), "s")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], name="conv", pads=[1] * 4),
        helper.make_node("Reshape", ["h", "s"], ["y"], name="view"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight, shape])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    (conv,) = node_costs(path)
    assert (conv.name, conv.macs, conv.bytes) == ("conv", 5 * 64 * 27, 2 * (3 * 64 + 5 * 27 + 5 * 64))


def test_a_product_of_unknown_shape_is_named_not_guessed(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 4)) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), str(path))
    assert cost_of({path: 1}).uncounted == ("MatMul",)


@pytest.mark.parametrize(
    ("operator", "group"),
    [
        ("FusedConv", "convolution"),
        ("Attention", "attention"),
        ("InstanceNormalization", "norm+activation"),
        ("FusedMatMul", "matmul"),
        ("Resize", "other"),
    ],
)
def test_groups(operator: str, group: str) -> None:
    assert group_of(operator) == group
    assert group in GROUPS
