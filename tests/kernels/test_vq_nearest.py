"""Codes looked up by the kernel against float64: a chosen code is as near as the nearest one, up to FP32 rounding.

A difference has a relative error of 2^-24, its square and a sum of c of them (2 + c) * 2^-24: a code may be chosen
over another that is nearer by less than twice that part of the distance.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zoomrt.errors import InputError
from zoomrt.export.vq_autoencoder import Codebook, VqConfig
from zoomrt.kernels.vq_nearest import cost, reference, vq_nearest


def check(latent: Tensor, codebook: Tensor) -> None:
    quantised, indices = vq_nearest(latent, codebook)
    assert torch.equal(quantised, codebook[indices.long()].permute(0, 3, 1, 2).to(latent.dtype))
    pixels = latent.double().permute(0, 2, 3, 1)
    distances = (pixels[..., None, :] - codebook.double()).square().sum(-1)
    chosen = distances.gather(-1, indices.long()[..., None])[..., 0]
    slack = 2 * (2 + latent.shape[1]) * 2.0**-24
    assert (chosen <= distances.amin(-1) * (1 + slack)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("n", "channels", "high", "wide", "codes"),
    [(1, 3, 3, 7, 513), (4, 3, 1, 5, 130), (1, 4, 2, 17, 1), (2, 1, 3, 3, 128)],
)
def test_as_near_as_the_nearest(
    generator: torch.Generator, n: int, channels: int, high: int, wide: int, codes: int, dtype: torch.dtype
) -> None:
    latent = torch.randn((n, channels, high, wide), generator=generator).to(dtype)
    check(latent, torch.randn((codes, channels), generator=generator))


def test_equal_to_the_network_and_to_the_reference(generator: torch.Generator) -> None:
    """`Codebook` of the autoencoder, and float64, on random codes that are far apart against FP32's rounding."""
    network = Codebook(VqConfig(codes=300)).eval()
    codebook = network.embedding.weight.detach()
    latent = torch.randn((2, 3, 4, 5), generator=generator)
    quantised, indices = vq_nearest(latent, codebook)
    assert torch.equal(indices, reference(latent.double(), codebook)[1])
    assert torch.equal(quantised, network(latent).detach())


def test_near_ties_far_from_zero(generator: torch.Generator) -> None:
    """Codes 1e-3 apart around 100: |z|^2 - 2 z.e + |e|^2 in FP32 has steps of 2e-3 there and would choose at random."""
    codebook = 100 + torch.randn((257, 3), generator=generator) * 1e-3
    latent = 100 + torch.randn((1, 3, 5, 5), generator=generator) * 1e-3
    check(latent, codebook)


def test_the_first_of_equal_codes(generator: torch.Generator) -> None:
    """Repeats inside a block of codes, in the next block and in the last one; and a pixel between two codes."""
    codebook = torch.randn((300, 3), generator=generator)
    codebook[[40, 130, 299]] = codebook[7].clone()
    codebook[[129, 290]] = codebook[128].clone()
    codebook[[2, 200]] = torch.tensor([[50.0, 0, 0], [52.0, 0, 0]])
    points = torch.stack([codebook[7], codebook[128], torch.tensor([51.0, 0, 0])])
    assert vq_nearest(points.T.reshape(1, 3, 1, 3).contiguous(), codebook)[1].flatten().tolist() == [7, 128, 2]


@pytest.mark.parametrize(
    ("latent", "codebook", "words"),
    [
        (torch.zeros(1, 3, 4, 4), torch.zeros(8, 4), r"\(8, 4\) for 3 channels"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(8, 3).half(), "codebook torch.float16"),
        (torch.zeros(1, 3, 4, 8)[..., ::2], torch.zeros(8, 3), "contiguous"),
        (torch.zeros(3, 4, 4), torch.zeros(8, 3), r"\(3, 4, 4\)"),
        (torch.zeros(1, 40, 4, 4), torch.zeros(8, 40), "channels up to 32"),
    ],
)
def test_wrong_arguments_are_told_so(latent: Tensor, codebook: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        vq_nearest(latent, codebook)


def test_the_cost_is_what_a_loop_counts() -> None:
    found = cost(2, 3, 10, 5)
    assert found.operations == sum(1 + sum(3 for _ in range(3)) for _ in range(2 * 10) for _ in range(5))
    latent, codebook = torch.empty(2, 3, 10), torch.empty(5, 3)
    assert found.bytes == 2 * latent.nbytes + codebook.nbytes + 2 * 10 * 4
