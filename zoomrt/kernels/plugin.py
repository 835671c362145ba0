"""Attention with heads wider than TensorRT fuses (256), as a plugin of full TensorRT from 10.9 on: our PTX in its plan.

The kernel is compiled before the engine for one shape, so that it takes nothing but its four tensors: TensorRT passes
inputs, then 32-bit integers, then outputs, and stores no attributes. A node names the kernel that it wants in its
attribute `kernel`. `register_attention` needs neither Triton nor torch: it runs in the engine's child process.

Written, and not run on a GPU: tests drive the registration and `aot_impl` through NVIDIA's own Python bindings, and
assemble the PTX; what they cannot see is the launch, the binding of the arguments, and speed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from zoomrt.errors import PluginError
from zoomrt.kernels.compile import compile_kernels, is_for

if TYPE_CHECKING:
    from zoomrt.kernels.configuration import Configuration

NAMESPACE, OPERATOR = "zoomrt", "attention"
SHARED_BYTES = 48 * 1024
"""Whether TensorRT raises the limit above which a launch has to ask for shared memory is not documented."""
_REMEDY = "Build without --attention-plugin: plain operators do the same."


class AttentionCall(msgspec.Struct, frozen=True, kw_only=True):
    """One attention of a graph, with all that a kernel for it must know."""

    batch: int
    heads: int
    query_tokens: int
    key_tokens: int
    size: int
    """Of a head."""
    scale: float
    folded: bool
    """Tensors are (batch, tokens, heads * size), else (batch, heads, tokens, size); contiguous."""
    dtype: Literal["fp16", "bf16"]

    @property
    def name(self) -> str:
        shape = f"b{self.batch}_h{self.heads}_q{self.query_tokens}_k{self.key_tokens}"
        return f"attention_d{self.size}_{self.dtype}_{shape}_{'folded_' if self.folded else ''}scale_{self.scale!r}"


class PluginKernel(msgspec.Struct, frozen=True, kw_only=True):
    """One call compiled for one SM, ready to be handed to TensorRT."""

    name: str
    entry: str
    ptx: str
    blocks: int
    """Along x, as the threads."""
    threads: int
    shared_bytes: int
    registers: int
    spilled_bytes: int


def compile_calls(calls: Iterable[AttentionCall], sm: int) -> list[PluginKernel]:
    """Compile a kernel for each different call. Raises PluginError where one does not compile, fit, or keep to 48 KB of
    shared memory; MissingDependency without Triton."""
    different = {call.name: call for call in calls}
    configurations = [_configuration(call) for call in different.values()]
    if refused := [one for one in configurations if not is_for(one, sm)]:
        raise PluginError(
            f"the attention plugin is not for SM{sm}",
            seen=refused[0].name,
            needed="of " + ", ".join(f"SM{known}" for known in refused[0].sms),
            remedy=_REMEDY,
        )
    binaries = compile_kernels(configurations, [sm])
    kernels = []
    for call, binary in zip(different.values(), binaries, strict=True):
        compiled, one = binary.compiled, binary.configuration
        if compiled.shared_bytes > SHARED_BYTES:
            raise PluginError(
                f"the attention plugin takes too much shared memory on SM{sm}",
                seen=f"{compiled.shared_bytes} bytes for {call.name}",
                needed=f"at most {SHARED_BYTES} bytes, which no launch has to ask for",
                remedy=_REMEDY,
            )
        blocks, *_ = one.grid_of({"batch": call.batch})
        kernels.append(
            PluginKernel(
                name=call.name,
                entry=compiled.entry,
                ptx=compiled.ptx,
                blocks=blocks,
                threads=one.warps * 32,
                shared_bytes=compiled.shared_bytes,
                registers=compiled.resources.registers,
                spilled_bytes=compiled.resources.spilled_bytes,
            )
        )
    return kernels


def _configuration(call: AttentionCall) -> Configuration:
    """The kernel with every number fixed, so that its arguments are query, key, value and out."""
    from zoomrt.kernels import attention

    general = attention.configuration(call.size, call.dtype, scale=call.scale)
    unit = general.constants["UNIT"]
    fixed = {"query_tokens": call.query_tokens, "key_tokens": call.key_tokens, "heads": call.heads}
    for name, tokens in (
        ("query", call.query_tokens),
        ("key", call.key_tokens),
        ("value", call.key_tokens),
        ("out", call.query_tokens),
    ):
        width = call.heads * call.size
        steps = (tokens * width, call.size, width) if call.folded else (tokens * width, tokens * call.size, call.size)
        fixed |= {f"{name}_{axis}": step // unit for axis, step in zip(("batch", "head", "token"), steps, strict=True)}
    pointers = {name: kind for name, kind in general.signature.items() if name not in fixed}
    return dataclasses.replace(
        general, name=call.name, signature=pointers, constants={**general.constants, **fixed}, aligned=tuple(pointers)
    )


def register_attention(trtp: Any, kernels: Iterable[PluginKernel]) -> None:
    """Make `zoomrt::attention` known to TensorRT, once per process.

    trtp : the module `tensorrt.plugin`. kernels : what nodes may name.

    TensorRT then takes shape and type of the output from the query's, and kernel, grid and shared memory from here.
    """
    known = {kernel.name: kernel for kernel in kernels}
    plugin = f"{NAMESPACE}::{OPERATOR}"

    def describe(query: Any, key: Any, value: Any, kernel: str) -> Any:  # noqa: ARG001 - TensorRT looks at the names
        return query.like()

    def launch(query: Any, key: Any, value: Any, kernel: str, outputs: Any, tactic: int) -> Any:  # noqa: ARG001
        chosen = known[kernel.rstrip("\0")]  # a parser may hand over C's last byte too
        how = trtp.KernelLaunchParams(grid_x=chosen.blocks, block_x=chosen.threads, shared_mem=chosen.shared_bytes)
        return chosen.entry, chosen.ptx, how, trtp.SymIntExprs(0)

    # TensorRT reads the annotations, and wants types rather than their names.
    tensors = dict.fromkeys(("query", "key", "value"), trtp.TensorDesc)
    describe.__annotations__ = {**tensors, "kernel": str, "return": trtp.TensorDesc}
    launch.__annotations__ = {
        **tensors,
        "kernel": str,
        "outputs": tuple[trtp.TensorDesc],
        "tactic": int,
        "return": tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs],
    }
    trtp.register(plugin)(describe)
    trtp.aot_impl(plugin)(launch)
