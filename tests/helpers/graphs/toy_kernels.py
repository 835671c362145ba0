"""Kernels small enough to compile in a moment, and faulty ones, for tests of the compiler."""

from __future__ import annotations

import os

import triton
import triton.language as tl

if os.environ.get("TOY_KERNELS_ABORT"):  # what LLVM does when it meets what it cannot do
    os.abort()


@triton.jit
def add(x, y, out, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    tl.store(out + at, tl.load(x + at, mask=inside) + tl.load(y + at, mask=inside), mask=inside)


@triton.jit
def product(x, y, out, SIDE: tl.constexpr):
    rows, columns = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    at = rows * SIDE + columns
    tl.store(out + at, tl.dot(tl.load(x + at), tl.load(y + at)))


@triton.jit
def faulty(x):
    tl.store(x, no_such_name)  # noqa: F821
