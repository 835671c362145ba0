"""The step's algebra: what is computed between UNet and decoder, and that it stays FP32 in an FP16 graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
from torch import nn

from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.models.networks.blocks.one_step import OneStepLatentSR
from zoomrt.models.networks.blocks.schedule import one_step


class Plain(nn.Module):
    """A stand-in for a whole network, so that the algebra alone is seen."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def network(timestep: int, monkeypatch: pytest.MonkeyPatch, *, clamp: bool = False) -> OneStepLatentSR:
    for name in ("fold_time", "fold_text"):
        monkeypatch.setattr(f"zoomrt.models.networks.blocks.one_step.{name}", lambda *_: None)
    monkeypatch.setattr("zoomrt.models.networks.blocks.one_step.FoldedUNet", lambda unet: unet)
    quant = nn.Conv2d(3, 6, 1)
    vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=0.18215),
        encoder=nn.Identity(),
        quant_conv=quant,
        post_quant_conv=nn.Identity(),
        decoder=Plain(2.0),
    )
    step, prompt = one_step(timestep), torch.zeros(1, 77, 8)
    return OneStepLatentSR(
        nn.Identity(), Plain(0.5), vae, timestep=timestep, step=step, prompt=prompt, clamp=clamp
    ).eval()


@pytest.mark.parametrize("timestep", [200, 999])
def test_algebra(timestep: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(timestep, monkeypatch)
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        got = model(x).double()
        mean = torch.nn.functional.conv2d(x.double(), model.to_mean.weight.double(), model.to_mean.bias.double())
    assert model.to_mean.out_channels == 3
    step = one_step(timestep)
    latent = mean * 0.18215
    wanted = 2 * (step.latent * latent - step.noise * (0.5 * latent)) / 0.18215
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)


def test_mean_is_the_first_half() -> None:
    from zoomrt.models.networks.blocks.one_step import _mean_half

    conv, x = nn.Conv2d(8, 8, 1), torch.randn(1, 8, 3, 3)
    with torch.no_grad():
        torch.testing.assert_close(_mean_half(conv)(x), conv(x)[:, :4], atol=1e-6, rtol=0)


def test_clamp(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.full((1, 3, 4, 4), 3.0)
    with torch.no_grad():
        model = network(200, monkeypatch, clamp=True)
        torch.testing.assert_close(model(x), model(torch.ones_like(x)))
        loose = network(200, monkeypatch)
        assert (loose(x) - loose(torch.ones_like(x))).abs().max() > 0.01


def test_fp32_in_an_fp16_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.onnx"
    export_graph(network(999, monkeypatch), path, shape=(1, 3, 8, 8), half=True, opset=23)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {v.name: v.type.tensor_type.elem_type for v in [*model.graph.value_info, *model.graph.output]}
    (difference,) = [node for node in model.graph.node if node.op_type == "Sub"]
    assert {types[name] for name in [*difference.input, *difference.output]} == {onnx.TensorProto.FLOAT}
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    used = [array for array in constants.values() if array.size == 1 and abs(float(array) - 14.614641) < 1e-5]
    assert len(used) == 1
    assert used[0].dtype.name == "float32"
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
