"""Time and text folded away: the same function, and nodes gone from the graph, counted before and after."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

pytest.importorskip("diffusers")

from published_files import SMALL, random_state, shapes_of, unet_config

from zoomrt.export.graph.to_onnx import export_graph, operator_counts
from zoomrt.models.networks.blocks.folding import ConstantCrossAttention, FoldedUNet, fold_text, fold_time

TIMESTEP = 999


def fresh_unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_config(unet_config(SMALL)).eval()
    unet.load_state_dict(random_state(shapes_of(unet)))
    return unet


class Unfolded(nn.Module):
    """The UNet as diffusers calls it. Prompt and timestep hang on the input by a zero, so nothing may fold them."""

    def __init__(self, unet: nn.Module, prompt: torch.Tensor) -> None:
        super().__init__()
        self.unet, self.prompt = unet, nn.Buffer(prompt)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        zero = z.sum() * 0
        return self.unet(z, TIMESTEP + zero.expand(z.shape[0]), self.prompt + zero)[0]


def test_same_function_and_fewer_nodes(tmp_path: Path) -> None:
    unet, prompt = fresh_unet(), torch.randn(1, 77, SMALL.text_width)
    z = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        wanted = unet(z, TIMESTEP, prompt)[0]
    export_graph(Unfolded(unet, prompt), tmp_path / "before.onnx", shape=(1, 4, 16, 16), half=False, opset=23)
    residual = sum(hasattr(m, "time_emb_proj") for m in unet.modules())
    crossed = sum(hasattr(m, "attn2") for m in unet.modules())
    assert (residual, crossed) == (2 + 2 + 4, 1 + 1 + 2)
    parameters = sum(p.numel() for p in unet.parameters())
    fold_time(unet, TIMESTEP)
    fold_text(unet, prompt)
    folded = FoldedUNet(unet).eval()
    with torch.no_grad():
        torch.testing.assert_close(folded(z), wanted, atol=2e-5, rtol=1e-5)
    assert sum(p.numel() for p in folded.parameters()) < parameters
    export_graph(folded, tmp_path / "after.onnx", shape=(2, 4, 16, 16), half=False, opset=23)
    pair = torch.randn(2, 4, 16, 16)
    session = onnxruntime.InferenceSession(tmp_path / "after.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"image": pair.numpy()})[0], folded(pair).numpy(), atol=1e-4)
    before, after = operator_counts(tmp_path / "before.onnx"), operator_counts(tmp_path / "after.onnx")
    products = [counts.get("Gemm", 0) + counts.get("MatMul", 0) for counts in (before, after)]
    # two of the time embedding, one projection for each residual block, key and value of each cross-attention
    assert products[0] - products[1] == 2 + residual + 2 * crossed
    # per transformer: proj_in, proj_out, q k v out of self-attention, q out of cross-attention, two of feed-forward
    assert products[1] == crossed * (2 + 4 + 2 + 2)
    assert before["Attention"] == after["Attention"] == 2 * crossed
    assert {"Sin", "Cos"} <= before.keys()
    assert not {"Sin", "Cos", "Gemm"} & after.keys()
    assert sum(after.values()) < sum(before.values()) - products[0] + products[1]


def test_another_timestep_and_prompt_are_another_function() -> None:
    z, prompt = torch.randn(1, 4, 16, 16), torch.randn(2, 1, 77, SMALL.text_width)
    state = fresh_unet().state_dict()
    results = []
    for timestep, text in ((999, prompt[0]), (200, prompt[0]), (999, prompt[1])):
        unet = fresh_unet()
        unet.load_state_dict(state)
        fold_time(unet, timestep)
        fold_text(unet, text)
        with torch.no_grad():
            results.append(FoldedUNet(unet).eval()(z))
    assert all((results[0] - other).abs().max() > 0.01 for other in results[1:])


def test_folding_leaves_the_given_tensors_alone() -> None:
    unet = fresh_unet()
    given = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    shared = dict(unet.state_dict())
    fold_time(unet, TIMESTEP)
    for key, tensor in shared.items():
        torch.testing.assert_close(tensor, given[key], atol=0, rtol=0)


def test_constant_attention_takes_batches() -> None:
    from diffusers.models.attention_processor import Attention

    attention = Attention(query_dim=32, cross_attention_dim=24, heads=4, dim_head=8).eval()
    prompt, tokens = torch.randn(1, 77, 24), torch.randn(3, 10, 32)
    with torch.no_grad():
        wanted = attention(tokens, encoder_hidden_states=prompt.expand(3, -1, -1))
        got = ConstantCrossAttention(attention, prompt)(tokens)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
