"""What is compiled ahead of time: a kernel with its argument types and constants fixed, and how it is launched.

`all_configurations()` is the list of everything that zoomrt ships. The launch functions go through the same records, so
what tests run is what bundles carry.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoomrt.errors import MissingDependency

SMS = (75, 80, 86, 89, 90, 120)
"""Turing, A100, Ampere, Ada, Hopper and Blackwell of RTX cards: what zoomrt compiles for."""
TENSOR_CORE_SMS = SMS[1:]
"""Without Turing: it has no BF16, and its FP16 attention spills in Triton 3.9: 2 to 11 KB a thread."""
KERNELS: tuple[str, ...] = ("attention", "tile_gather", "tile_blend")
"""The modules of this package that have `configurations()`."""


@dataclass(frozen=True)
class Configuration:
    """One kernel, ready to be compiled.

    kernel : the module's name, "attention".
    name : unique, lower case; file and manifest key: "attention_d64_fp16".
    function : the triton JITFunction.
    signature : run-time arguments in order, with Triton's types: "*fp16", "*u8", "i32", "fp32".
    constants : every other parameter of `function`: tl.constexpr ones, and pointers left out (None).
    warps, stages : Triton's num_warps and num_stages.
    grid : three expressions in names of integer arguments, constants and `extents`, with + - * // and cdiv(a, b).
    extents : names in `grid` that are no arguments; the launcher knows them from its buffers ("batch").
    aligned : arguments that are multiples of 16 (pointers: in bytes). Without it the compiler may not use wide loads;
        the launcher has to keep it.
    fused_multiply_add : False: compile with enable_fp_fusion=False, so that results equal the CPU's bit for bit.
    sms : SM numbers it is for.
    may_spill : registers may be spilled to memory; an error otherwise, see `binary.check_fit`.
    """

    kernel: str
    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    grid: tuple[str, str, str]
    warps: int = 4
    stages: int = 2
    extents: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    fused_multiply_add: bool = True
    sms: tuple[int, ...] = field(default=SMS)
    may_spill: bool = False

    def grid_of(self, values: Mapping[str, Any]) -> tuple[int, int, int]:
        """The number of programs along each axis, for values of arguments and extents."""
        names = {**self.constants, **values, "cdiv": cdiv}
        x, y, z = (int(eval(text, {"__builtins__": {}}, names)) for text in self.grid)
        return x, y, z

    def launch(self, **values: Any) -> None:
        """Run on torch tensors and numbers, one for each argument and extent, on torch's current stream."""
        arguments = {name: values[name] for name in self.signature}
        self.function[self.grid_of(values)](
            **arguments,
            **self.constants,
            num_warps=self.warps,
            num_stages=self.stages,
            enable_fp_fusion=self.fused_multiply_add,
        )


def cdiv(a: int, b: int) -> int:
    """a / b rounded up; also the one function of grid expressions."""
    return -(-a // b)


def all_configurations() -> list[Configuration]:
    """Everything that is compiled ahead of time. Raises MissingDependency without torch or Triton."""
    try:
        modules = [importlib.import_module(f"zoomrt.kernels.{name}") for name in KERNELS]
    except ModuleNotFoundError as cause:
        remedy = "Run: pip install 'zoomrt[kernels]' (Linux only)"
        seen = f"no module {cause.name}"
        raise MissingDependency("kernels need Triton", seen=seen, needed="triton", remedy=remedy) from cause
    return [configuration for module in modules for configuration in module.configurations()]
