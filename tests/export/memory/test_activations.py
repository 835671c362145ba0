"""Activation memory on fake tensors: networks small enough to count by hand, and torch's own allocations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from zoomrt.export.memory.activations import activations_of
from zoomrt.models.networks.edge import EdgeConfig, EdgeNetwork

FLOAT = 4


class Chain(nn.Module):
    """3 -> a -> b -> 3 channels, each value dead once the next one is there."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, a, 3, padding=1),
            nn.Conv2d(a, b, 3, padding=1),
            nn.Conv2d(b, 3, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = self.second(h)
        return self.third(h)  # type: ignore[no-any-return]


class Skip(nn.Module):
    """Keeps the first value until the end; a view and an in-place step that take nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 1)
        self.body = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first = h = self.conv_in(x)
        for conv in self.body:
            h = F.relu_(conv(h))
        return h.flatten(2).view_as(first) + first


class Attend(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)[:, None].contiguous()
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize("batch", [1, 3])
def test_chain_of_convolutions(batch: int) -> None:
    pixels = batch * 20 * 12 * FLOAT
    found = activations_of(Chain(16, 40), (batch, 3, 20, 12))
    assert found.live == pixels * (3 + 16 + 40)  # the caller holds the input throughout
    assert found.converting == found.live + pixels * (16 + 40)
    assert found.unfused == found.live
    assert found.parts == {"first": pixels * 19, "second": pixels * 59, "third": pixels * 46}


def test_values_that_are_kept_views_and_steps_in_place() -> None:
    pixels = 16 * 16 * FLOAT
    found = activations_of(Skip(8), (1, 3, 16, 16))
    assert found.live == pixels * (3 + 3 * 8)  # input, first, one value and the next, or their sum
    assert list(found.parts) == ["conv_in", "body"]


class Grown(nn.Module):
    """Its largest value is made by itself, between two children."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        grown = self.first(x).repeat_interleave(8, 2).repeat_interleave(8, 3)
        return self.second(grown[:, :, ::8, ::8].repeat(1, 1, 8, 8) + 0 * grown)  # type: ignore[no-any-return]


def test_what_the_network_does_itself_belongs_to_no_part() -> None:
    found = activations_of(Grown(), (1, 3, 8, 8))
    assert found.parts["first"] == 8 * 8 * FLOAT * (3 + 2)
    assert found.parts["second"] < found.live


def test_scores_of_an_attention_that_is_not_fused() -> None:
    tokens, width = 24 * 24, 16
    found = activations_of(Attend(), (1, width, 24, 24))
    assert found.unfused - found.live == 2 * tokens**2 * FLOAT


def test_weights_are_neither_counted_nor_touched() -> None:
    network = Chain(32, 32)
    before = {name: (value.data_ptr(), value.clone()) for name, value in network.state_dict().items()}
    tiny = activations_of(network, (1, 3, 2, 2))
    assert tiny.live == 2 * 2 * FLOAT * (3 + 32 + 32)
    for name, value in network.state_dict().items():
        pointer, content = before[name]
        assert value.data_ptr() == pointer
        assert torch.equal(value, content)


def allocated_peak(network: nn.Module, lr: Tensor) -> int:
    """The most that torch's own allocator held above what was held before, from its log of allocations."""
    with torch.no_grad():
        network(lr)  # what is made once and kept
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as log:
            network(lr)
    held = peak = 0
    for event in sorted(log.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def check_against_torch(network: nn.Module, side: int) -> None:
    """Torch's log has the workspaces of its own kernels too (attention's blocks, norms' statistics): up to 15 %."""
    shape = (1, 3, side, side)
    real = allocated_peak(network, torch.rand(shape)) + 3 * side * side * FLOAT
    live = activations_of(network, shape).live
    assert live <= real <= 1.15 * live, (live, real)


def test_edge_against_torchs_own_log() -> None:
    check_against_torch(EdgeNetwork(EdgeConfig((32, 64, 64), (1, 1), 1, (1, 1))).eval(), 64)


@pytest.mark.parametrize("model", ["osediff", "hypir", "adcsr"])
def test_families_against_torchs_own_log(model: str, tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    check_against_torch(small_network(model, tmp_path), 16)


def small_network(model: str, root: Path) -> nn.Module:
    """A family's network from random files of the published layout."""
    import published_files as files

    from zoomrt.models.checkpoint import load_checkpoint
    from zoomrt.models.families import FAMILIES

    scale = files.SMALL
    if model == "adcsr":
        layout = files.adcsr_layout(scale)
        torch.save(layout.net_params(), root / "w")
        torch.save(layout.half_decoder(), root / "half.ckpt")
        options = {"decoder": root / "half.ckpt"}
    else:
        osediff = model == "osediff"
        torch.save(files.osediff_layout(scale).content() if osediff else hypir_content(scale), root / "w")
        torch.save(torch.randn(1, 77, scale.text_width), root / "prompt.pt")
        unet, vae = (files.random_state(shapes) for shapes in (files.unet_shapes(scale), files.vae_shapes(scale)))
        base = files.write_base(root / "base", scale, unet=unet, vae=vae)
        options = {"base": base, "prompt_embedding": root / "prompt.pt"}
    return FAMILIES.named(model).network(load_checkpoint(root / "w"), options)


def hypir_content(scale: object) -> dict[str, Tensor]:
    import published_files as files

    return files.random_state(files.hypir_shapes(scale), 0.4)  # type: ignore[arg-type]
