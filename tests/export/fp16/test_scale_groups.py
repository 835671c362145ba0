"""Streams: any of them scaled by any power of two gives the same bits; what cannot be scaled is never touched."""

from __future__ import annotations

import random

import pytest
import torch
from small_networks import Residual
from torch import Tensor, nn
from torch.nn import functional as F

from zoomrt.export.fp16.ranges import Ranges
from zoomrt.export.fp16.scale_groups import Streams
from zoomrt.export.recording import watched
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY


class Tokens(nn.Module):
    """A transformer block: layer norms, attention, gated feed-forward, position embedding, a layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.proj_in, self.proj_out = nn.Linear(3, 16, bias=False), nn.Linear(16, 3)
        self.position = nn.Parameter(torch.randn(1, 30, 16))
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16, elementwise_affine=False)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 64), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        n, c, high, wide = x.shape
        h = self.proj_in(x.flatten(2).transpose(1, 2)) + self.position
        q, k, v = (layer(self.norm1(h)).reshape(n, -1, 2, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = h + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        value, gate = self.up(self.norm2(h)).chunk(2, dim=-1)
        h = h + self.down(value * F.gelu(gate))
        return self.proj_out(h).transpose(1, 2).reshape(n, c, high, wide)


class Shared(nn.Module):
    """One convolution used twice in a row: it cannot follow two factors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(self.first(x)))


class Offset(nn.Module):
    """A number is added, and a constant is multiplied by, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.gain = nn.Parameter(torch.randn(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.pad(self.first(x) * self.gain + 0.5, (1, 0, 0, 0), value=2.0))[..., 1:]


def edge() -> nn.Module:
    return FAMILY.network(load_checkpoint(FAMILY.embedded_weights))


def followed(network: nn.Module, x: Tensor) -> tuple[Streams, Ranges, Tensor]:
    streams, ranges = Streams(), Ranges()
    result = watched(network, x, streams, ranges)
    streams.finish(result)
    return streams, ranges, result


@pytest.mark.parametrize("make", [Residual, Tokens, Shared, Offset, edge])
def test_any_power_of_two_gives_the_same_bits(make) -> None:
    network = make().eval()
    for norm in network.modules():
        if isinstance(norm, (nn.GroupNorm, nn.LayerNorm)) and norm.weight is not None:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    side = (5, 6) if make is Tokens else (32, 32)
    x = torch.randn(1, 3, *side)
    streams, before, wanted = followed(network, x)
    # no limit at all: every stream that may be scaled is
    free = streams.exponents([value.largest for value in before.values], 1e-30)
    exponents = {stream: random.randint(-9, 4) for stream in free}
    assert bool(exponents) == (make not in (Shared, Offset))
    streams.rescale(exponents)
    after = Ranges()
    assert torch.equal(watched(network, x, after), wanted)
    factors = {index: 2.0**e for stream, e in exponents.items() for index in streams.members()[stream]}
    for index, (one, other) in enumerate(zip(before.values, after.values, strict=True)):
        # inside a product of two streams the values are the same up to their factor
        assert other.largest == one.largest * factors.get(index, 1.0), one.name


def test_the_smallest_exponent_that_helps() -> None:
    network = Residual(gain=1e4)
    streams, ranges, _ = followed(network, torch.randn(1, 3, 16, 16))
    largest = [value.largest for value in ranges.values]
    limit = max(largest) / 5
    exponents = streams.exponents(largest, limit)
    assert -3 in exponents.values()  # 5 / 8 < 1 < 5 / 4
    for stream, exponent in exponents.items():
        most = max(largest[index] for index in streams.members()[stream])
        assert limit / 2 < most * 2.0**exponent <= limit
    assert streams.exponents(largest, max(largest)) == {}


def test_the_same_values_whatever_the_batch_and_the_layout() -> None:
    """Else a value under FP16 could not be found again under FP32."""
    network = Tokens()
    names = []
    for x in (torch.randn(1, 3, 5, 6), torch.randn(4, 3, 5, 6), torch.randn(2, 5, 6, 3).permute(0, 3, 1, 2)):
        ranges = Ranges()
        with torch.no_grad():
            torch.testing.assert_close(watched(network, x, ranges), network(x))
        names.append([value.name for value in ranges.values])
    assert names[0] == names[1] == names[2]
