"""Kernels run in Triton's interpreter here: Triton is loaded with TRITON_INTERPRET=1, which is unset again at once.

Triton decides when it is imported, for the whole process; child processes, such as those that compile, see nothing of
it. Skipped where Triton does not exist (macOS, Windows).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

collect_ignore_glob: list[str] = []

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("test_*.py")
else:
    # Other tests' imports may have loaded Triton already, to compile: load it anew, but for its compiled part.
    for name in [
        name for name in sys.modules if name.partition(".")[0] == "triton" or name.startswith("zoomrt.kernels")
    ]:
        if not name.startswith("triton._C"):
            del sys.modules[name]
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        import triton.experimental.gluon  # noqa: F401  loaded late otherwise, and then it minds
        import triton.language as tl
        from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

        from zoomrt.kernels import configuration

        configuration.all_configurations()

    _dot, _cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def _dot_of_bf16(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        """Triton 3.9's interpreter multiplies BF16 as the 16-bit integers that it stores them in."""
        return _dot(
            self, *(_cast_of_bf16(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)), *rest
        )

    def _cast_of_bf16(self: Any, x: Any, kind: Any) -> Any:
        """And it cuts FP32 off where a GPU rounds to nearest."""
        source, target = x.dtype.scalar, kind.scalar
        if (source, target) == (tl.float32, tl.bfloat16):
            return TensorHandle(torch.tensor(x.data).bfloat16().view(torch.uint16).numpy(), target)
        if (source, target) == (tl.bfloat16, tl.float32):
            return TensorHandle((x.data.astype("u4") << 16).view("f4"), target)
        return x if source == target else _cast(self, x, kind)

    for name in ("cast_impl", "create_fp_ext", "create_fp_trunc"):
        setattr(InterpreterBuilder, name, _cast_of_bf16)
    InterpreterBuilder.create_dot = _dot_of_bf16


@pytest.fixture
def generator(rng: np.random.Generator) -> torch.Generator:
    """torch's generator of this test's random inputs."""
    return torch.Generator().manual_seed(int(rng.integers(2**32)))
