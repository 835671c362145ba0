"""Attention without a matrix of scores: softmax(scale * Q K^T + bias + mask) V, block by block, FP32 inside.

The online softmax of FlashAttention (Dao et al. 2022), in powers of two. A program answers for ROWS queries of one head
and goes through all keys. Heads of up to 128 keep their queries in registers. Larger ones, such as the single head of
512 of a VAE, are split: the scores are summed over CHUNK columns of Q and K at a time, and only the result is as wide
as the head, which fits in 48 KB of shared memory and in the registers of every GPU since A100 (ptxas, Triton 3.9).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoomrt.kernels.checks import FLOATS, TYPES, require, require_tensors
from zoomrt.kernels.configuration import TENSOR_CORE_SMS, Configuration
from zoomrt.kernels.cost import Cost

SIZES = (32, 40, 48, 64, 72, 80, 128, 512)
"""Head sizes compiled ahead of time; `attention` takes any up to LARGEST_HEAD."""
LARGEST_HEAD = 512
WHOLE_HEAD = 128


@triton.jit
def _rows_of(pointer, rows, stride, columns, SIZE: tl.constexpr, PADDED: tl.constexpr):
    """(rows, columns) of a matrix whose last axis is contiguous; columns from SIZE on are zero."""
    place = pointer + rows[:, None] * stride + columns[None, :]
    return tl.load(place) if SIZE == PADDED else tl.load(place, mask=columns[None, :] < SIZE, other=0.0)


@triton.jit
def _step(
    q, largest, total, result,
    query, key, value, bias, mask, rows, first, key_tokens,
    query_stride, key_stride, value_stride, bias_stride, mask_stride,
    SCALE: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """One block of keys: the largest score so far, the sum of weights and the weighted sum of values."""
    columns = first + tl.arange(0, COLUMNS)
    # Beyond the end the last key is read again, and its weight below is 0: no mask on any load.
    keys = tl.minimum(columns, key_tokens - 1) if LAST else columns
    if CHUNK == PADDED:
        scores = tl.dot(q, tl.trans(_rows_of(key, keys, key_stride, tl.arange(0, PADDED), SIZE, PADDED)))
    else:
        scores = tl.zeros([ROWS, COLUMNS], tl.float32)
        for begin in range(0, PADDED, CHUNK):
            part = begin + tl.arange(0, CHUNK)
            q_part = _rows_of(query, rows, query_stride, part, SIZE, PADDED)
            k_part = _rows_of(key, keys, key_stride, part, SIZE, PADDED)
            scores = tl.dot(q_part, tl.trans(k_part), scores)
    scores *= SCALE * 1.4426950408889634
    if bias is not None:
        added = tl.load(bias + rows[:, None] * bias_stride + keys[None, :])
        scores += added.to(tl.float32) * 1.4426950408889634
    if mask is not None:
        added = tl.load(mask + rows[:, None] * mask_stride + keys[None, :])
        scores += added.to(tl.float32) * 1.4426950408889634
    if LAST:
        scores = tl.where(columns[None, :] < key_tokens, scores, float("-inf"))
    larger = tl.maximum(largest, tl.max(scores, 1))
    # While a query has seen nothing but -inf there is no largest score to subtract: -inf - -inf is NaN.
    shift = tl.where(larger == float("-inf"), 0.0, larger)
    weights = tl.exp2(scores - shift[:, None])
    fade = tl.exp2(largest - shift)
    total = total * fade + tl.sum(weights, 1)
    v = _rows_of(value, keys, value_stride, tl.arange(0, PADDED), SIZE, PADDED)
    result = tl.dot(weights.to(v.dtype), v, result * fade[:, None])
    return larger, total, result


@triton.jit
def attention_kernel(
    query, key, value, out, bias, mask,
    query_tokens, key_tokens, heads, windows,
    query_batch, query_head, query_token,
    key_batch, key_head, key_token,
    value_batch, value_head, value_token,
    out_batch, out_head, out_token,
    bias_head, bias_row, mask_window, mask_row,
    SCALE: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Strides of query, key, value and out count UNIT elements, so that the compiler knows what they are multiples of;
    those of bias and mask count elements. The last axis of everything is contiguous."""
    blocks = tl.cdiv(query_tokens, ROWS)
    block, place = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    head, batch = place % heads, (place // heads).to(tl.int64)
    query += (batch * query_batch + head * query_head) * UNIT
    key += (batch * key_batch + head * key_head) * UNIT
    value += (batch * value_batch + head * value_head) * UNIT
    out += (batch * out_batch + head * out_head) * UNIT
    if bias is not None:
        bias += head.to(tl.int64) * bias_head
    if mask is not None:
        mask += (batch % windows) * mask_window

    wanted = block * ROWS + tl.arange(0, ROWS)
    rows = tl.minimum(wanted, query_tokens - 1)  # beyond the end the last query is computed again, and not stored
    q = rows
    if CHUNK == PADDED:
        q = _rows_of(query, rows, query_token * UNIT, tl.arange(0, PADDED), SIZE, PADDED)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, PADDED], tl.float32)
    whole = key_tokens // COLUMNS * COLUMNS
    for first in range(0, whole, COLUMNS):
        largest, total, result = _step(
            q, largest, total, result, query, key, value, bias, mask, rows, first, key_tokens,
            query_token * UNIT, key_token * UNIT, value_token * UNIT, bias_row, mask_row,
            SCALE, SIZE, PADDED, CHUNK, ROWS, COLUMNS, False,
        )  # fmt: skip
    if whole < key_tokens:
        largest, total, result = _step(
            q, largest, total, result, query, key, value, bias, mask, rows, whole, key_tokens,
            query_token * UNIT, key_token * UNIT, value_token * UNIT, bias_row, mask_row,
            SCALE, SIZE, PADDED, CHUNK, ROWS, COLUMNS, True,
        )  # fmt: skip
    result /= tl.where(total == 0.0, 1.0, total)[:, None]  # a query that may see no key gets 0
    columns = tl.arange(0, PADDED)
    target = out + wanted[:, None] * (out_token * UNIT) + columns[None, :]
    kept = (wanted[:, None] < query_tokens) & (columns[None, :] < SIZE)
    tl.store(target, result.to(out.dtype.element_ty), mask=kept)


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """What `attention` computes, written out, in the type of q: pass float64 for an exact one."""
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias.to(q.dtype)
    if mask is not None:
        scores = scores + mask.to(q.dtype).repeat(len(q) // len(mask), 1, 1)[:, None]
    unseen = scores.isneginf().all(-1, keepdim=True)
    return scores.masked_fill(unseen, 0).softmax(-1).masked_fill(unseen, 0) @ v


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Softmax attention with FP32 softmax and sums.

    q : (batch, heads, query tokens, size) FP16 or BF16, size up to 512. k, v : (batch, heads, key tokens, size).
        Any strides, only the last axis has to be contiguous: a transposed (batch, tokens, heads, size) is not copied.
    bias : (heads, query tokens, key tokens), any float type; added to the scores of every picture.
    mask : (windows, query tokens, key tokens), any float type; added to picture b's scores is mask[b % windows].
    scale : what products are multiplied by; None is size ** -0.5.
    out : where to write; None is a new tensor, laid out as q.

    A query whose scores are all -inf gets 0. Raises InputError.
    """
    what = "cannot run attention"
    require_tensors(what, attention_kernel, q, k, v, bias, mask, out)
    require(q.ndim == 4 and 1 <= q.shape[-1] <= LARGEST_HEAD and q.numel() > 0, what, f"q {tuple(q.shape)}",
            f"(batch, heads, tokens, size up to {LARGEST_HEAD})", "Split or transpose the heads.")  # fmt: skip
    batch, heads, tokens, size = q.shape
    keys = k.shape[2] if k.ndim == 4 else 0
    shapes: dict[str, tuple[Tensor, tuple[int, ...]]] = {
        "k": (k, (batch, heads, keys, size)),
        "v": (v, (batch, heads, keys, size)),
    }
    if out is None:
        out = torch.empty_like(q)
    shapes["out"] = (out, tuple(q.shape))
    if bias is not None:
        shapes["bias"] = (bias, (heads, tokens, keys))
    if mask is not None:
        shapes["mask"] = (mask, (mask.shape[0], tokens, keys))
        require(batch % max(1, mask.shape[0]) == 0, what, f"{mask.shape[0]} windows in a batch of {batch}",
                "a multiple of the windows", "Put the windows of a picture next to each other.")  # fmt: skip
    require(keys > 0, what, f"k {tuple(k.shape)}", "at least one key", "Check how the keys were made.")
    for name, (tensor, shape) in shapes.items():
        require(tuple(tensor.shape) == shape, what, f"{name} {tuple(tensor.shape)}", f"{name} {shape}",
                "Check the shapes against q.")  # fmt: skip
    for name, added in (("bias", bias), ("mask", mask)):
        usable = added is None or added.dtype in FLOATS
        require(usable, what, f"{name} {added.dtype if added is not None else None}", "FP16, BF16 or FP32",
                "Make a mask of 0 and -inf.")  # fmt: skip
    parts = (q, k, v, out)
    same = {part.dtype for part in parts}
    require(same <= {torch.float16, torch.bfloat16} and len(same) == 1, what,
            " and ".join(sorted(str(dtype) for dtype in same)), "FP16 or BF16 for all",
            "Convert with .half(); for FP32 use torch.")  # fmt: skip
    for tensor, _ in ((q, None), *shapes.values()):
        contiguous = tensor.stride(-1) == 1 or tensor.shape[-1] == 1
        require(contiguous, what, "a last axis with gaps", "a contiguous last axis", "Use .contiguous().")
        span = max(tensor.shape[-2] * tensor.stride(-2), tensor.stride(0))  # what the kernel counts in 32 bits
        span = max(span, heads * tensor.stride(1)) if tensor.ndim == 4 else span
        require(span < 2**31, what, f"{span} elements from the first token, head or picture to the last",
                "fewer than 2^31", "Attend in parts.")  # fmt: skip
    wide = all(part.data_ptr() % 16 == 0 and all(s % 8 == 0 for s in part.stride()[:3]) for part in parts)
    unit = 8 if wide else 1
    strides = {
        f"{name}_{axis}": part.stride(index) // unit
        for name, part in zip(("query", "key", "value", "out"), parts, strict=True)
        for index, axis in enumerate(("batch", "head", "token"))
    }
    types = tuple(None if added is None else TYPES[added.dtype] for added in (bias, mask))
    chosen = configuration(size, TYPES[q.dtype], *types, scale=scale, unit=unit)
    chosen.launch(
        query=q,
        key=k,
        value=v,
        out=out,
        bias=bias,
        mask=mask,
        query_tokens=tokens,
        key_tokens=keys,
        heads=heads,
        batch=batch,
        **strides,
        **({"bias_head": bias.stride(0), "bias_row": bias.stride(1)} if bias is not None else {}),
        **(
            {"windows": len(mask), "mask_window": mask.stride(0), "mask_row": mask.stride(1)}
            if mask is not None
            else {}
        ),
    )
    return out


def configuration(
    size: int,
    dtype: str,
    bias: str | None = None,
    mask: str | None = None,
    *,
    scale: float | None = None,
    unit: int = 8,
) -> Configuration:
    """How heads of a size are computed. dtype, bias, mask : Triton's names of types, None for none of it; scale and
    unit : see `attention` and `attention_kernel`."""
    padded = max(16, triton.next_power_of_2(size))
    if padded <= WHOLE_HEAD:
        rows, columns, chunk, warps, stages = 128, 64, padded, 8, 2 if padded == WHOLE_HEAD else 3
        if padded <= 32:  # the same work for a warp; with 8 warps SM120 spills
            rows, warps = 64, 4
        if bias or mask:  # windows have 64 tokens, and what is added needs registers
            rows, columns, warps, stages = 64, 32, 4, 1
    else:
        rows, columns, chunk, warps, stages = 64, 32, 64, 8, 2
    pointers = {"query": dtype, "key": dtype, "value": dtype, "out": dtype, "bias": bias, "mask": mask}
    numbers = ["query_tokens", "key_tokens", "heads", "windows"]
    numbers += [f"{name}_{axis}" for name in ("query", "key", "value", "out") for axis in ("batch", "head", "token")]
    numbers += ["bias_head", "bias_row", "mask_window", "mask_row"]
    absent = {} if bias else {"bias": None, "bias_head": 0, "bias_row": 0}
    absent |= {} if mask else {"mask": None, "windows": 1, "mask_window": 0, "mask_row": 0}
    present = {name: f"*{kind}" for name, kind in pointers.items() if kind}
    return Configuration(
        kernel="attention",
        name=f"attention_d{size}_{dtype}" + ("_bias" if bias else "") + ("_mask" if mask else ""),
        function=attention_kernel,
        signature=present | {name: "i32" for name in numbers if name not in absent},
        constants=absent
        | {"SCALE": size**-0.5 if scale is None else scale, "SIZE": size, "PADDED": padded, "CHUNK": chunk}
        | {"ROWS": rows, "COLUMNS": columns, "UNIT": unit},
        grid=("cdiv(query_tokens, ROWS) * heads * batch", "1", "1"),
        extents=("batch",),
        warps=warps,
        stages=stages,
        aligned=(*present, *(f"{name}_row" for name in ("bias", "mask") if name in present)),
        sms=TENSOR_CORE_SMS,
    )


def configurations() -> list[Configuration]:
    """All head sizes in FP16 and BF16, and heads of 32 with a bias and with a mask, as SinSR has them."""
    plain = [configuration(size, dtype) for size in SIZES for dtype in ("fp16", "bf16")]
    return [*plain, configuration(32, "fp16", "fp16"), configuration(32, "fp16", "fp16", "fp16")]


def cost(batch: int, heads: int, query_tokens: int, key_tokens: int, size: int) -> Cost:
    """Q, K, V and the result once, two bytes each; two products of (query tokens, key tokens, size)."""
    values = 2 * batch * heads * size * (query_tokens + key_tokens)
    return Cost(bytes=2 * values, operations=4 * batch * heads * query_tokens * key_tokens * size)
