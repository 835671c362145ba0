"""Equalisation changes no result, balances what it should, and refuses networks it does not understand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.calibration.calibrate import Statistics, observe
from zoomrt.calibration.data import Tiles
from zoomrt.calibration.equalise import equalise, seams_of
from zoomrt.calibration.fake_quant import INT8, fake_quantised
from zoomrt.calibration.layers import watching
from zoomrt.errors import PrecisionError


class GatedFeedForward(nn.Module):
    """Parts named as in diffusers: net[0].proj makes value and gate, net[2] reads their product."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = nn.Module()
        first.proj = nn.Linear(width, 8 * width)
        self.net = nn.ModuleList([first, nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.net[0].proj(x).chunk(2, -1)
        return self.net[2](value * F.gelu(gate))


class SelfAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return self.to_out[0](attend(self.to_q(x), self.to_k(x), self.to_v(x)))


class PromptAttention(nn.Module):
    """Constant keys and values, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.register_buffer("key", torch.randn(1, 2, 7, width // 2))
        self.register_buffer("value", torch.randn(1, 2, 7, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        query = self.to_q(x).unflatten(-1, (2, -1)).transpose(1, 2)
        return self.to_out(F.scaled_dot_product_attention(query, self.key, self.value).transpose(1, 2).flatten(2))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = [tokens.unflatten(-1, (2, -1)).transpose(1, 2) for tokens in (query, key, value)]
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


class Transformer(nn.Module):
    """One block as in Stable Diffusion with a fixed prompt; channels of very different strength."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.proj_in = nn.GroupNorm(4, width), nn.Conv2d(width, width, 1)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1, self.attn2, self.ff = SelfAttention(width), PromptAttention(width), GatedFeedForward(width)
        with torch.no_grad():
            for norm in (self.norm, self.norm1, self.norm2, self.norm3):
                norm.weight.copy_(torch.exp(2 * torch.randn(width)))
                norm.bias.normal_()
            self.attn1.to_v.weight.mul_(torch.exp(torch.randn(width, 1)))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x))
        x = x + self.ff(self.norm3(x))
        return x.transpose(1, 2).reshape(n, c, h, w)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in, self.block, self.conv_out = nn.Conv2d(3, 16, 1), Transformer(), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.block(self.conv_in(x)))


@pytest.fixture
def tiles(rng: np.random.Generator) -> Tiles:
    return Tiles(rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8), (-1.0, 1.0))


def spread(channels: Tensor) -> float:
    """How uneven channel ranges are: standard deviation of their logarithm."""
    return float(channels.clamp(min=1e-9).log2().std())


@pytest.mark.parametrize("per_channel", [False, True])
def test_function_is_unchanged_and_channels_are_balanced(tiles: Tiles, per_channel: bool) -> None:
    network = Network().eval()
    unseen = torch.randn(2, 3, 16, 16)
    wanted, weights = network(unseen), {key: value.clone() for key, value in network.state_dict().items()}
    before = observe(network, tiles)
    assert equalise(network, before, next(iter(tiles)), per_channel=per_channel) == 7
    assert torch.equal(network(unseen), wanted)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, weights[key])}
    assert {"block.norm.weight", "block.norm1.bias", "block.proj_in.weight", "block.attn2.value"} <= changed
    assert not {"conv_in.weight", "conv_out.weight", "block.attn2.key", "block.proj_in.bias"} & changed
    after = observe(network, tiles)
    for name in ("block.proj_in", "block.attn1.to_q", "block.attn2.to_q", "block.ff.net.0.proj"):
        old, new = (statistics.observers[name].channel_max for statistics in (before, after))
        assert spread(new) < 0.8 * spread(old)


def layer_errors(network: nn.Module, statistics: Statistics, tile: Tensor, per_channel: bool) -> dict[str, float]:
    """Relative squared error of each layer of the block when it alone is quantised, on its exact input."""
    errors = {}

    def note(name: str, layer: nn.Module, values: Tensor, result: Tensor) -> None:
        if name.startswith("block"):
            quantised = fake_quantised(layer, statistics.observers[name].largest, INT8, per_channel=per_channel)
            errors[name] = float((quantised(values) - result).square().mean() / result.square().mean())

    with watching(network, note), torch.no_grad():
        network(tile)
    return errors


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_layers_come_closer(tiles: Tiles, per_channel: bool) -> None:
    """The geometric mean over layers falls to 0.3 to 0.6 of what it was (per tensor; 40 draws). One layer may lose,
    and so may the whole network, whose error is chaotic."""
    network = Network().eval()
    tile = next(iter(tiles))
    before = layer_errors(network, statistics := observe(network, tiles), tile, per_channel)
    equalise(network, statistics, tile, per_channel=per_channel)
    after = layer_errors(network, observe(network, tiles), tile, per_channel)
    assert len(before) == 9
    assert np.mean([np.log(after[name] / before[name]) for name in before]) < np.log(0.85)


def test_a_residual_block_has_no_seam(tiny_edge: nn.Module) -> None:
    """Only the attention's norm and values: SiLU stands between every other norm and its convolution."""
    readers = [reader for seam in seams_of(tiny_edge) for reader in seam.readers]
    attention = tiny_edge.get_submodule("attention.0")
    assert readers == [attention.to_q, attention.to_k, attention.to_v, attention.to_out]


def test_edge_is_unchanged(tiny_edge: nn.Module, rng: np.random.Generator) -> None:
    tiles = Tiles(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), (-1.0, 1.0))
    unseen = torch.randn(1, 3, 48, 32)
    wanted = tiny_edge(unseen)
    assert equalise(tiny_edge, observe(tiny_edge, tiles), next(iter(tiles)), per_channel=False) == 2
    assert torch.equal(tiny_edge(unseen), wanted)


def test_the_same_names_with_another_meaning_are_caught(tiles: Tiles) -> None:
    class Misleading(Network):
        def forward(self, x: Tensor) -> Tensor:
            block = self.block
            return self.conv_out(block.proj_in(F.silu(block.norm(self.conv_in(x)))))

    network = Misleading().eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(PrecisionError, match="equalis"):
        equalise(network, observe(network, tiles), next(iter(tiles)), per_channel=True)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
