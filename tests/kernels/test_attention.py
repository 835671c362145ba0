"""Attention in Triton's interpreter against float64 of the same rounded inputs.

Tolerance: weights are rounded to the type of v before they multiply it (they sum to 1, so at most one unit roundoff u
of the largest |v|), and the result is rounded to the same type (another u). FP32 sums and exponentials add 1e-5.
u is 2^-11 for FP16 and 2^-8 for BF16.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoomrt.errors import InputError
from zoomrt.kernels.attention import SIZES, attention, configurations, cost, reference
from zoomrt.models.networks.blocks.windows import WindowAttention, cyclic_masks

ROUNDOFF = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def parts(
    generator: torch.Generator, dtype: torch.dtype, *shapes: tuple[int, ...], spread: float = 1.0
) -> list[Tensor]:
    return [(torch.randn(shape, generator=generator) * spread).to(dtype) for shape in shapes]


def check(out: Tensor, q: Tensor, k: Tensor, v: Tensor, *added: Tensor | None, scale: float | None = None) -> None:
    exact = reference(q.double(), k.double(), v.double(), *added, scale=scale)
    allowed = (2 * ROUNDOFF[q.dtype] + 1e-5) * v.abs().max().item()
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=allowed)


@pytest.mark.parametrize("dtype", list(ROUNDOFF), ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_with_ragged_tails(generator: torch.Generator, size: int, dtype: torch.dtype) -> None:
    q, k, v = parts(generator, dtype, (1, 2, 37, size), (1, 2, 77, size), (1, 2, 77, size))
    check(attention(q, k, v), q, k, v)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (129, 64), (5, 65), (64, 128), (70, 63)])
def test_lengths_around_the_blocks(generator: torch.Generator, queries: int, keys: int) -> None:
    q, k, v = parts(generator, torch.float16, (1, 1, queries, 30), (1, 1, keys, 30), (1, 1, keys, 30))
    check(attention(q, k, v, scale=0.3), q, k, v, scale=0.3)


def test_heads_inside_tokens_are_read_and_written_in_place(generator: torch.Generator) -> None:
    """(batch, tokens, 3, heads, size) of one linear layer, and (batch, tokens, heads, size) out: views, no copies."""
    qkv = parts(generator, torch.float16, (4, 33, 3, 3, 40))[0]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    result = torch.full((4, 33, 3, 40), torch.nan, dtype=torch.float16)
    back = attention(q, k, v, out=result.transpose(1, 2))
    assert back.data_ptr() == result.data_ptr()
    check(result.transpose(1, 2), q, k, v)
    assert attention(*(part.transpose(1, 2).contiguous().transpose(1, 2) for part in (q, k, v))).stride(1) == 40


def test_a_gap_in_the_output_is_left_alone(generator: torch.Generator) -> None:
    q, k, v = parts(generator, torch.float16, *[(1, 1, 9, 24)] * 3)
    wide = torch.full((1, 1, 9, 32), 7.0, dtype=torch.float16)
    attention(q, k, v, out=wide[..., :24])
    assert (wide[..., 24:] == 7).all()


@pytest.mark.parametrize("shifted", [False, True])
def test_as_the_swin_networks_use_it(generator: torch.Generator, shifted: bool) -> None:
    """The whole of `WindowAttention` with the kernel in place of torch's attention."""
    heads, size, rows, columns = 2, 30, 2, 3
    masks = cyclic_masks() if shifted else None
    network = WindowAttention(heads * size, heads, masks).eval()
    with torch.no_grad():
        network.relative_position_bias_table.copy_(torch.randn(225, heads, generator=generator))
    bias = network.relative_position_bias_table[network.relative].permute(2, 0, 1).detach().contiguous()
    windows = None
    if masks is not None:
        kinds = torch.cat([masks[:, :1].expand(-1, columns - 1, -1, -1), masks[:, 1:]], dim=1)
        windows = torch.cat([kinds[:1].expand(rows - 1, -1, -1, -1), kinds[1:]]).flatten(0, 1)
    shape = (2 * rows * columns, 64, heads, size)
    q, k, v = (part.transpose(1, 2) for part in parts(generator, torch.float16, *[shape] * 3))
    out = attention(q, k, v, bias, windows)
    check(out, q, k, v, bias, windows)

    split = [part.reshape(2, rows * columns, heads, 64, size).flatten(1, 2) if shifted else part for part in (q, k, v)]
    added = network._added(rows, columns).detach()
    torchs = F.scaled_dot_product_attention(*(part.float() for part in split), attn_mask=added)
    torch.testing.assert_close(out.float(), torchs.reshape(out.shape), rtol=0, atol=1e-2)


def test_large_scores(generator: torch.Generator) -> None:
    """Scores of 1e4 and more, whose exponentials no type holds, are a choice of the nearest key."""
    q, k, v = parts(generator, torch.float16, (1, 1, 20, 64), (1, 1, 70, 64), (1, 1, 70, 64))
    q, k = q * 40, k * 40
    assert (q.double() @ k.double().transpose(-1, -2)).abs().max() / 8 > 1e4 / 8 * 4
    out = attention(q, k, v)
    assert out.isfinite().all()
    # FP32 scores of s have an error of 64 products, s * 2^-24 each at worst, and it is an error of the exponent
    exact = reference(q.double(), k.double(), v.double())
    worst = (q.float() @ k.float().transpose(-1, -2)).abs().max().item() / 8
    allowed = (2 * 2.0**-11 + 8 * worst * 2.0**-24) * v.abs().max().item()
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=allowed)


def test_keys_that_nobody_may_see(generator: torch.Generator) -> None:
    """-inf for whole blocks of keys, first, last, and all: no NaN; a query that sees nothing gets 0."""
    q, k, v = parts(generator, torch.float16, (1, 1, 6, 32), (1, 1, 150, 32), (1, 1, 150, 32))
    bias = torch.zeros(1, 6, 150)
    bias[0, 0, :140] = bias[0, 1, 10:] = bias[0, 2, 60:130] = bias[0, 3] = bias[0, 4, 1:] = -torch.inf
    out = attention(q, k, v, bias)
    assert (out[0, 0, 3] == 0).all()
    assert torch.equal(out[0, 0, 4], v[0, 0, 0])
    check(out, q, k, v, bias)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda q, k, v: (q.float(), k, v), "torch.float16 and torch.float32"),
        (lambda q, k, v: (q.float(), k.float(), v.float()), "need FP16 or BF16"),
        (lambda q, k, v: (q, k[:, :1], v), r"k \(2, 1, 5, 16\), need k \(2, 2, 5, 16\)"),
        (lambda q, k, v: (q, k, v[:, :, :4]), r"v \(2, 2, 4, 16\)"),
        (lambda q, k, v: (q[0], k, v), r"q \(2, 3, 16\)"),
        (lambda q, k, v: (q, k[:, :, :0], v[:, :, :0]), "at least one key"),
        (lambda q, k, v: (q.transpose(2, 3).contiguous().transpose(2, 3), k, v), "contiguous last axis"),
        (lambda q, k, v: (q, k, v, torch.zeros(2, 3, 4)), r"bias \(2, 3, 4\), need bias \(2, 3, 5\)"),
        (lambda q, k, v: (q, k, v, torch.ones(2, 3, 5, dtype=torch.bool)), "bias torch.bool"),
        (lambda q, k, v: (q, k, v, None, torch.zeros(3, 3, 5)), "3 windows in a batch of 2"),
        (lambda q, k, v: (q.to("meta"), k, v), "tensors on cpu and meta"),
    ],
)
def test_wrong_arguments_are_told_so(generator: torch.Generator, change, words: str) -> None:  # type: ignore[no-untyped-def]
    q, k, v = parts(generator, torch.float16, (2, 2, 3, 16), (2, 2, 5, 16), (2, 2, 5, 16))
    with pytest.raises(InputError, match=words):
        attention(*change(q, k, v))


@pytest.mark.parametrize("part", ["query", "bias rows", "bias heads", "mask rows", "mask windows", "query heads"])
def test_what_the_kernel_cannot_count_in_32_bits_is_refused(part: str) -> None:
    """Never touched, so the 4 GB are only promised."""
    big = torch.empty(2**31 + 64, dtype=torch.float16)
    q, k = torch.zeros(2, 2, 3, 16, dtype=torch.float16), torch.zeros(2, 2, 5, 16, dtype=torch.float16)
    wide = {"rows": (0, 2**30, 1), "heads": (2**31, 0, 1), "windows": (2**31, 0, 1)}
    added = big.as_strided((2, 3, 5), wide[part.split()[1]]) if part[:4] in ("bias", "mask") else None
    if part.startswith("query"):
        q = big.as_strided((2, 2, 3, 16), (0, 2**30, 16, 1) if part.endswith("heads") else (0, 0, 2**30, 1))
    with pytest.raises(InputError, match=r"elements from the first .*fewer than 2\^31"):
        attention(q, k, k, added if part.startswith("bias") else None, added if part.startswith("mask") else None)


def test_the_cost_is_what_a_loop_counts() -> None:
    batch, heads, queries, keys, size = 2, 3, 5, 7, 4
    multiply_adds = sum(2 for _ in range(batch * heads * queries * keys * size))  # one for Q K^T, one for the values
    tensors = [
        torch.empty(batch, heads, tokens, size, dtype=torch.float16) for tokens in (queries, keys, keys, queries)
    ]
    found = cost(batch, heads, queries, keys, size)
    assert found.operations == 2 * multiply_adds
    assert found.bytes == sum(tensor.nbytes for tensor in tensors)


def test_configurations_are_complete() -> None:
    found = configurations()
    assert {(c.constants["SIZE"], c.signature["query"]) for c in found} >= {
        (size, f"*{dtype}") for size in SIZES for dtype in ("fp16", "bf16")
    }
