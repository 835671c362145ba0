"""Adapters merged into weights: against running them beside the module, against PEFT's own merge, and broken files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoomrt.errors import CheckpointError
from zoomrt.models.lora import adapters_of, merge

HERE = Path("adapters.pth")


def pair(module: str, a: tuple[int, ...], b: tuple[int, ...], adapter: str = "x") -> dict[str, torch.Tensor]:
    names = (f"{module}.lora_A.{adapter}.weight", f"{module}.lora_B.{adapter}.weight")
    return {names[0]: torch.randn(a), names[1]: torch.randn(b)}


@settings(max_examples=30)
@given(
    rank=st.integers(1, 5),
    width=st.integers(1, 6),
    out=st.integers(1, 6),
    kernel=st.sampled_from([None, 1, 3]),
    scale=st.sampled_from([1.0, 2.0, 0.125]),
)
def test_like_running_beside_the_module(rank: int, width: int, out: int, kernel: int | None, scale: float) -> None:
    tail, ones = ((), ()) if kernel is None else ((kernel, kernel), (1, 1))
    tensors = pair("m", (rank, width, *tail), (out, rank, *ones))
    base = torch.randn(out, width, *tail)
    state = {"m.weight": base.clone(), "m.bias": torch.zeros(out)}
    merge(state, adapters_of(tensors, HERE), scale, HERE)
    down, up = (t.double() for t in tensors.values())
    if kernel is None:
        x = torch.randn(4, width, dtype=torch.float64)
        wanted = x @ base.double().T + scale * (x @ down.T) @ up.T
        got = x @ state["m.weight"].double().T
    else:
        x = torch.randn(1, width, 6, 5, dtype=torch.float64)
        convolve = nn.functional.conv2d
        wanted = convolve(x, base.double(), padding=kernel // 2)
        wanted = wanted + scale * convolve(convolve(x, down, padding=kernel // 2), up)
        got = convolve(x, state["m.weight"].double(), padding=kernel // 2)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-5)


def test_merged_in_fp32_whatever_was_stored() -> None:
    tensors = {key: value.half() for key, value in pair("m", (2, 3), (4, 2)).items()}
    state = {"m.weight": torch.randn(4, 3).half()}
    wanted = state["m.weight"].float() + 2 * tensors["m.lora_B.x.weight"].float() @ tensors["m.lora_A.x.weight"].float()
    merge(state, adapters_of(tensors, HERE), 2.0, HERE)
    assert state["m.weight"].dtype is torch.float32
    torch.testing.assert_close(state["m.weight"], wanted)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
@pytest.mark.parametrize("alpha_over_rank", [1.0, 2.0])
def test_against_peft(alpha_over_rank: float) -> None:
    """Three adapters on different parts at once, Linear and conv, as OSEDiff has them."""
    pytest.importorskip("diffusers")
    peft = pytest.importorskip("peft")
    from diffusers import UNet2DConditionModel
    from published_files import SMALL, unet_config, unet_modules

    unet = UNet2DConditionModel.from_config(unet_config(SMALL))
    base = {key: value.clone() for key, value in unet.state_dict().items()}
    modules = unet_modules({key: tuple(value.shape) for key, value in base.items()})
    parts = {"encoder": "down_blocks", "decoder": "up_blocks", "others": "mid_block"}
    for name, part in parts.items():
        targets = [m for m in modules if m.startswith(part)]
        config = peft.LoraConfig(r=4, lora_alpha=int(4 * alpha_over_rank), target_modules=targets)
        unet.add_adapter(config, adapter_name=name)
    layers = {name: m for name, m in unet.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    assert len(layers) == len([m for m in modules if m not in ("conv_in", "conv_out")])
    tensors = {}
    for key, value in unet.named_parameters():
        if ".lora_" in key:
            with torch.no_grad():
                value.normal_(std=0.2)
            tensors[key] = value.detach().clone()
    merge(base, adapters_of(tensors, HERE), alpha_over_rank, HERE)
    for name, layer in layers.items():
        layer.merge(adapter_names=list(layer.lora_A))
        torch.testing.assert_close(base[f"{name}.weight"], layer.get_base_layer().weight.data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("m.lora_A.x.weight"), r"half an adapter on m"),
        (lambda t: t.update(pair("m", (2, 3), (4, 2), "y")), r"two adapters on m"),
        (lambda t: t.update({"m.lora_B.x.weight": torch.zeros(4, 3)}), r"lora_A \(2, 3\) and lora_B \(4, 3\)"),
        (lambda t: t.update(pair("other", (2, 3), (4, 2))), r"an adapter for other"),
        (lambda t: t.update(pair("m", (2, 5), (4, 2))), r"shape \(4, 5\) for m \(4, 3\)"),
        (lambda t: t.update(pair("m", (2, 3, 3, 3), (4, 2, 3, 3))), r"1x1 kernel"),
    ],
)
def test_broken_files_change_nothing(change, said: str) -> None:
    tensors = pair("m", (2, 3), (4, 2))
    change(tensors)
    state = {"m.weight": torch.ones(4, 3)}
    with pytest.raises(CheckpointError, match=said):
        merge(state, adapters_of(tensors, HERE), 1.0, HERE)
    assert state["m.weight"].eq(1).all()


def test_other_keys_are_left_alone() -> None:
    assert adapters_of({"conv_in.base_layer.weight": torch.zeros(1), "a.weight": torch.zeros(1)}, HERE) == {}
