"""The shipped `edge` weights and a small OSEDiff from pictures to an INT8 graph that ONNX Runtime runs."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage
import torch
from onnx import numpy_helper
from torch import nn

from zoomrt.calibration.calibrate import observe, ranges_of
from zoomrt.calibration.data import Tiles, tiles_from_pictures
from zoomrt.calibration.equalise import equalise
from zoomrt.calibration.fake_quant import INT8, QuantConv2d, QuantLinear
from zoomrt.calibration.layers import layers_of
from zoomrt.calibration.placement import Placement, placement_of
from zoomrt.calibration.quantise import quantise, tile_psnrs
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY


def photographs(count: int, side: int, seed: int) -> Tiles:
    folder = Path(skimage.__file__).parent / "data"
    pictures = sorted(path for path in folder.glob("*.png") if path.stem in ("astronaut", "coffee", "chelsea", "ihc"))
    return tiles_from_pictures(pictures, count=count, height=side, width=side, value_range=(-1.0, 1.0), seed=seed)


def int8_of(network: nn.Module, tiles: Tiles, backend: str) -> tuple[nn.Module, Placement]:
    tile = next(iter(tiles))
    equalise(network, observe(network, tiles), tile, per_channel=backend != "tensorrt_rtx")
    placement = placement_of(network, layers_of(network, tile), backend)
    return quantise(network, ranges_of(observe(network, tiles), "mse"), placement, INT8), placement


def run(path: Path, tile: torch.Tensor) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": tile.numpy()})[0])


def check_graph(path: Path, placement: Placement, attentions: int) -> None:
    """Every quantised layer's weight is in the file as INT8, no other is, and the attentions stand."""
    graph = onnx.load(path).graph
    kinds = Counter(init.data_type for init in graph.initializer if math.prod(init.dims) > 64 and len(init.dims) > 1)
    assert kinds[onnx.TensorProto.INT8] == len(placement.quantised)
    operators = Counter(node.op_type for node in graph.node)
    assert operators["Attention"] == attentions
    assert operators["DequantizeLinear"] == len(placement.quantised) + operators["QuantizeLinear"]
    assert 0 < operators["QuantizeLinear"] <= len(placement.quantised)


def test_shipped_edge(tmp_path: Path) -> None:
    """INT8 of 96 % of the work: far above one 8-bit step (48 dB) from the FP32 picture."""
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    unseen = photographs(2, 64, seed=2)
    with torch.no_grad():
        wanted = [network(tile) for tile in unseen]
    quantised, placement = int8_of(network, photographs(3, 64, seed=1), "tensorrt_rtx")
    assert placement.share >= 0.9
    decibels = tile_psnrs(quantised, unseen, wanted, 2.0)
    assert min(decibels) >= 50
    export_graph(quantised, tmp_path / "g.onnx", shape=(1, 3, 64, 64), half=False, opset=23)
    check_graph(tmp_path / "g.onnx", placement, attentions=2)
    with_runtime = tile_psnrs(lambda tile: run(tmp_path / "g.onnx", tile), unseen, wanted, 2.0)
    np.testing.assert_allclose(with_runtime, decibels, atol=1.5)
    check_layer_by_layer(tmp_path / "g.onnx", quantised, next(iter(unseen)), len(placement.quantised))


def check_layer_by_layer(path: Path, network: nn.Module, tile: torch.Tensor, layers: int) -> None:
    """What ONNX Runtime makes of a quantised layer's input, inside the whole graph, is what our layer makes of it."""
    model = onnx.load(path)
    maker = {name: node for node in model.graph.node for name in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    codes = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer}
    places = {}  # layer -> names of its input and of its product, in the graph
    twins = {name: module for name, module in network.named_modules() if isinstance(module, (QuantConv2d, QuantLinear))}
    for node in model.graph.node:
        weight = node.input[0] if node.op_type == "DequantizeLinear" else None
        if weight not in codes:
            continue
        product = readers[node.output[0]]
        while product.op_type not in ("Conv", "Gemm", "MatMul"):  # a transposed weight
            product = readers[product.output[0]]
        rounding = maker[maker[product.input[0]].input[0]]
        assert rounding.op_type == "QuantizeLinear"
        (twin,) = (
            name
            for name, module in twins.items()
            if module.codes.numel() == codes[weight].size
            and np.array_equal(module.codes.numpy().ravel(), codes[weight].ravel())
        )
        places[twin] = rounding.input[0], product.output[0]
    assert len(places) == layers
    names = sorted({name for pair in places.values() for name in pair})
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    onnx.save(model, path.with_name("all.onnx"))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path.with_name("all.onnx")), options, providers=["CPUExecutionProvider"])
    values = dict(zip(names, session.run(names, {"image": tile.numpy()}), strict=True))
    for twin, (before, after) in places.items():
        module, got = twins[twin], values[after]
        with torch.no_grad():
            wanted = module(torch.from_numpy(values[before])).numpy()
            if readers.get(after, onnx.NodeProto()).op_type == "Add" and isinstance(module, QuantLinear):
                wanted = wanted - (0 if module.bias is None else module.bias.numpy())
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max(), twin


def small_osediff() -> nn.Module:
    """OSEDiff's whole inference with random weights, one level of small width."""
    diffusers = pytest.importorskip("diffusers")
    from zoomrt.models.networks.blocks.bicubic import PIL, Enlarge
    from zoomrt.models.networks.blocks.one_step import OneStepLatentSR
    from zoomrt.models.networks.blocks.schedule import one_step

    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=24,
        attention_head_dim=2,
        use_linear_projection=True,
    ).eval()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    ).eval()
    prompt = torch.randn(1, 77, 24)
    return OneStepLatentSR(
        Enlarge(4, PIL), unet, vae, timestep=999, step=one_step(999), prompt=prompt, clamp=True
    ).eval()


def test_small_osediff(tmp_path: Path, rng: np.random.Generator) -> None:
    network = small_osediff()
    tiles = Tiles(rng.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), (-1.0, 1.0))
    with torch.no_grad():
        wanted = [network(tile) for tile in tiles]
    quantised, placement = int8_of(network, tiles, "onnxruntime")
    with torch.no_grad():
        unchanged = tile_psnrs(network, tiles, wanted, 2.0)
    assert unchanged == [200.0] * 3  # equalised to the bit
    kept = {name.rsplit(".", 1)[-1] for name in placement.kept}
    assert kept == {"conv_in", "conv_out", "to_mean", "post_quant_conv"}
    parts = {name.split(".")[0] for name in placement.quantised}
    assert parts == {"encoder", "unet", "decoder"}
    decibels = tile_psnrs(quantised, tiles, wanted, 2.0)
    assert 15 < min(decibels) < 150
    export_graph(quantised, tmp_path / "g.onnx", shape=(1, 3, 8, 8), half=False, opset=23)
    attentions = sum(hasattr(module, "to_q") for module in network.modules())
    check_graph(tmp_path / "g.onnx", placement, attentions)
    with_runtime = tile_psnrs(lambda tile: run(tmp_path / "g.onnx", tile), tiles, wanted, 2.0)
    np.testing.assert_allclose(with_runtime, decibels, atol=3)
