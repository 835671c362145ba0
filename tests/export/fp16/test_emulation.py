"""FP16 storage emulation rounds where FP16 would be stored, and only there; modules may stay in FP32."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from zoomrt.export.fp16.emulation import run_with_fp16_storage
from zoomrt.models.half import is_half, keep_fp32, kept_fp32, to_half


def halved(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    to_half(network)
    return network


def fp16(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)


def test_rounding_after_every_operation(rng: np.random.Generator) -> None:
    """Against the same arithmetic written out by hand in FP64 with a rounding after each step."""
    x = rng.normal(size=(4, 6)).astype(np.float32)
    network = nn.Sequential(nn.Linear(6, 5), nn.Softplus())
    weight, bias = (fp16(p.detach().numpy()) for p in network[0].parameters())
    wanted = fp16(np.log1p(np.exp(fp16(fp16(x) @ weight.T + bias))))
    got = run_with_fp16_storage(halved(network), torch.from_numpy(x)).numpy()
    # FP32 and FP64 sums may fall on either side of a rounding edge: one FP16 step at most
    np.testing.assert_allclose(got, wanted, rtol=2**-10, atol=2**-14)
    assert np.array_equal(got, got.astype(np.float16).astype(np.float32))


class WideInside(nn.Module):
    """Squares its input, which is written down in FP32, and takes the root of it."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * x.float() + 1e-6).sqrt().to(x.dtype)


class NarrowInside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x + 1e-6).sqrt()


def test_what_the_network_keeps_in_fp32_is_not_rounded() -> None:
    x = torch.rand(100) * 60000 + 300  # squares up to 3.6e9, far beyond FP16
    wide = run_with_fp16_storage(nn.Sequential(nn.Identity(), WideInside()), x)
    np.testing.assert_allclose(wide, x, rtol=2**-10)
    assert not run_with_fp16_storage(nn.Sequential(nn.Identity(), NarrowInside()), x).isfinite().any()


def test_overflow_is_seen_and_a_kept_module_cures_it() -> None:
    class Peak(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(nn.functional.silu(self.up(x)))

    network = nn.Sequential(nn.Linear(8, 8), Peak(), nn.Linear(8, 8))
    with torch.no_grad():
        network[1].up.weight *= 1e6
        network[1].down.weight *= 1e-6
        x = torch.randn(5, 8)
        wanted = network(x)
    assert not run_with_fp16_storage(halved(network), x).isfinite().all()
    keep_fp32(network[1])
    assert kept_fp32(network) == ["1"]
    with torch.no_grad():
        assert torch.equal(network(x), wanted)  # nothing has changed yet
    half = halved(network)
    assert is_half(half)
    assert not is_half(network)
    assert {p.dtype for p in half[1].parameters()} == {torch.float32}
    assert {p.dtype for p in half[0].parameters()} == {torch.float16}
    np.testing.assert_allclose(run_with_fp16_storage(half, x), wanted, atol=0.01, rtol=0.01)


def test_statistics_of_a_norm_are_no_stored_values() -> None:
    """1 / sqrt(epsilon) of a flat tile is beyond FP16, but no kernel writes it down."""
    norm = nn.GroupNorm(2, 4, eps=1e-12)
    assert run_with_fp16_storage(halved(norm), torch.ones(1, 4, 3, 3)).isfinite().all()
