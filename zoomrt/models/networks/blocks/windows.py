"""Self-attention inside windows of 8 x 8, every second time shifted by half a window: what SwinIR and SinSR share.

The shift is a cyclic roll, so windows at the lower and right edge hold pixels from two sides of the picture; masks,
which a family chooses, keep them apart. Bias and mask are one additive constant, so the attention stays one node.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 8
SHIFT = WINDOW // 2
TOKENS = WINDOW * WINDOW
MASKED = -100.0
"""What is added to the score of two tokens that may not see each other; not -inf, which FP16 could not hold."""


def cyclic_masks() -> Tensor:
    """The textbook masks of a shifted picture: in the last row (column) of windows, the halves do not see each other.

    Returns (2, 2, 64, 64) float32 for `WindowAttention`.
    """
    side = torch.arange(WINDOW) >= SHIFT
    lower, right = side.repeat_interleave(WINDOW), side.repeat(WINDOW)
    rows, columns = (half[:, None] != half[None, :] for half in (lower, right))
    kinds = [[torch.zeros_like(rows), columns], [rows, rows | columns]]
    return torch.stack([torch.stack(pair) for pair in kinds]).float() * MASKED


class WindowAttention(nn.Module):
    """(N, H, W, C) -> (N, H, W, C), H and W multiples of 8, at least 16; attention inside each window.

    heads : how many; C is a multiple of it.
    masks : None for windows on the grid; (2, 2, 64, 64) for windows shifted by half: what is added to the scores in a
        window, told by whether it is in the last row of windows and whether it is in the last column.

    Parameters are named as published: relative_position_bias_table (225, heads), qkv, proj.
    """

    def __init__(self, width: int, heads: int, masks: Tensor | None) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative: Tensor
        self.masks: Tensor | None
        self.register_buffer("relative", _relative_positions(), persistent=False)
        self.register_buffer("masks", masks, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, high, wide, width = x.shape
        rows, columns = high // WINDOW, wide // WINDOW
        shifted = self.masks is not None
        if shifted:
            x = _rolled(x, SHIFT)
        windows = x.reshape(n, rows, WINDOW, columns, WINDOW, width).transpose(2, 3)
        # a mask per window makes windows a kind of head; without, they are a kind of picture, and the bias is shared
        lead = (n, rows * columns) if shifted else (n * rows * columns, 1)

        def split(t: Tensor) -> Tensor:
            return t.reshape(*lead, TOKENS, self.heads, width // self.heads).transpose(2, 3).flatten(1, 2)

        query, key, value = (split(part) for part in self.qkv(windows).chunk(3, dim=-1))
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=self._added(rows, columns))
        out = out.reshape(*lead, self.heads, TOKENS, width // self.heads).transpose(2, 3)
        out = self.proj(out.reshape(n, rows, columns, WINDOW, WINDOW, width))
        out = out.transpose(2, 3).reshape(n, high, wide, width)
        return _rolled(out, -SHIFT) if shifted else out

    def _added(self, rows: int, columns: int) -> Tensor:
        """(1, windows * heads, 64, 64), or (1, heads, 64, 64) without masks."""
        bias = self.relative_position_bias_table[self.relative].permute(2, 0, 1)
        if self.masks is None:
            return bias[None]
        kinds = self.masks[:, :, None] + bias
        kinds = torch.cat([kinds[:, :1].expand(-1, columns - 1, -1, -1, -1), kinds[:, 1:]], dim=1)
        kinds = torch.cat([kinds[:1].expand(rows - 1, -1, -1, -1, -1), kinds[1:]])
        return kinds.flatten(0, 2)[None]


def _relative_positions() -> Tensor:
    """(64, 64): for tokens i and j of a window, the row of the bias table for their offset."""
    y, x = torch.arange(TOKENS) // WINDOW, torch.arange(TOKENS) % WINDOW
    down, right = (axis[:, None] - axis[None, :] + WINDOW - 1 for axis in (y, x))
    return down * (2 * WINDOW - 1) + right


def _rolled(x: Tensor, shift: int) -> Tensor:
    """(N, H, W, C) moved up and left by `shift`, what leaves coming back on the other side.

    torch.roll exports slices that start from the end, which some compilers refuse.
    """
    for axis in (1, 2):
        cut = shift % x.shape[axis]
        x = torch.cat([x.narrow(axis, cut, x.shape[axis] - cut), x.narrow(axis, 0, cut)], dim=axis)
    return x
