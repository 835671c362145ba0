"""What a finished TensorRT-RTX engine says about itself, read from its bytes: no GPU, no driver, no TensorRT.

A plan opens with a 64-byte header and holds its compiled program as text: which GPUs it is for, every tensor with
shape and element type, every kernel with its launch grid and the ONNX nodes that went into it. Knows nothing of
what was asked for; `engine.py` compares. The layout is not documented: it was observed on TensorRT-RTX 1.7.1,
pyproject.toml caps the version, and anything else is an `UnreadablePlan`.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoomrt.errors import BuildError
from zoomrt.files import open_file, size_of

# Header, little endian: magic at 0, file size (u64) at 16, version as four bytes at 24.
_MAGIC = b"vtrt"
_HEADER_BYTES = 64
# A program is framed as magic, format (u32), text length (u64), text.
_PROGRAM = re.compile(rb"NLYM....(.{8})header \{\n", re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[{}=]|[^\s{}="]+')
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")

# Element types as the program spells them: name here, bytes per element.
_TYPES = {
    "half": ("fp16", 2),
    "float": ("fp32", 4),
    "bf16": ("bf16", 2),
    "fp8_e4m3": ("fp8", 1),
    "int8": ("int8", 1),
    "uint8": ("uint8", 1),
    "bool": ("bool", 1),
    "int32": ("int32", 4),
    "int64": ("int64", 8),
}
FLOATING = frozenset({"fp16", "fp32", "bf16"})
"""Types in which a kernel computes; the rest are codes, indices and flags."""
EIGHT_BIT = frozenset({"fp8", "int8"})
"""Types of quantised data."""
_KINDS = {"function": "generated", "corrltn": "convolution", "fully_connected": "gemm"}

_ARGUMENTS = frozenset({"input_args", "input", "output_args", "output"})

# A value is a word or a flat list of words; in a list of `key=value`, "=" is a word too.
_Value = str | tuple[str, ...]
_Statement = tuple[str, dict[str, _Value]]


@dataclass(frozen=True)
class PlanTensor:
    """One tensor of the program. `storage` is the tensor it is a view of, else its own name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """fp16, fp32, bf16, fp8, int8, uint8, bool, int32 or int64."""
    bytes: int
    """Logical size: elements times element size."""
    constant: bool
    storage: str


@dataclass(frozen=True)
class Kernel:
    """One launch of the program."""

    name: str
    kind: str
    """generated, convolution, gemm, attention, or the compiler's own word (runtime_fusion, memset, ...)."""
    nodes: tuple[str, ...]
    """ONNX nodes that were compiled into it."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    grid: tuple[int, ...]
    """Thread blocks; empty where the kernel is chosen on the user's GPU (convolution, gemm, runtime_fusion)."""
    block: tuple[int, ...]
    """Threads per block; empty as above."""
    shared_bytes: int


@dataclass(frozen=True)
class PlanSummary:
    """A finished engine. Kernels in launch order."""

    version: str
    """Of the compiler that wrote it, as in 1.7.1.116. An engine runs on the same version only."""
    sms: tuple[str, ...]
    """Target GPUs, as in SM89."""
    tf32: bool
    """Whether FP32 convolutions and matrix products may round their inputs to 10 mantissa bits."""
    bytes: int
    workspace_bytes: int
    """Device memory that a run needs beside weights, input and output."""
    tensors: dict[str, PlanTensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kernels: tuple[Kernel, ...]

    @property
    def fused_attentions(self) -> int:
        """Kernels that do a whole attention (`_gemm_mha_v2`, `_gemv_mha_v1`)."""
        return sum(kernel.kind == "attention" for kernel in self.kernels)

    @property
    def static_bytes(self) -> int:
        """Bytes that all kernels of one run read and write if nothing stays in cache: a figure to compare engines by.

        Every tensor a kernel names counts once at its logical size, weights and the kernel's partial sums included.
        """
        return sum(self.tensors[name].bytes for kernel in self.kernels for name in {*kernel.inputs, *kernel.outputs})

    def dtypes(self, kernel: Kernel) -> frozenset[str]:
        """Floating-point types in which the kernel takes and hands on data; empty for index and flag kernels.

        Constants do not count (TensorRT keeps the scale of a normalisation in FP32), nor does a kernel's private
        workspace: a tensor that it writes, that no other kernel reads and that is no output of the graph.
        """
        return frozenset(
            tensor.dtype
            for tensor in self.data(kernel)
            if tensor.dtype in FLOATING and not self._is_private(kernel, tensor)
        )

    def data(self, kernel: Kernel) -> list[PlanTensor]:
        """The tensors a kernel reads and writes, without constants."""
        named = (self.tensors[name] for name in (*kernel.inputs, *kernel.outputs))
        return [tensor for tensor in named if not tensor.constant]

    def graph_io(self, kernel: Kernel) -> list[PlanTensor]:
        """Those of `data` that are inputs or outputs of the graph, or views of them."""
        return [tensor for tensor in self.data(kernel) if tensor.storage in {*self.inputs, *self.outputs}]

    def _is_private(self, kernel: Kernel, tensor: PlanTensor) -> bool:
        return tensor.name in kernel.outputs and tensor.storage not in self._read

    @cached_property
    def _read(self) -> frozenset[str]:
        """Storage that some kernel reads or that leaves the graph."""
        reads = (self.tensors[name].storage for kernel in self.kernels for name in kernel.inputs)
        return frozenset((*reads, *self.outputs))


class UnreadablePlan(Exception):
    """A plan that is truncated, of another kind or laid out in a way that this reader does not know; its text tells."""

    def __init__(self, seen: object, needed: str) -> None:
        super().__init__(f"got {seen}, need {needed}")


def read_plan(path: Path) -> PlanSummary:
    """Read a plan file; costs no memory beyond its program text, however large the weights. Raises UnreadablePlan."""
    try:
        with (
            open_file(path, BuildError, needed="a TensorRT-RTX plan") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as plan,
        ):
            version = _check_header(plan)
            programs = _program_texts(plan)
    except (BuildError, ValueError) as cause:  # ValueError: an empty file cannot be mapped
        raise UnreadablePlan(cause, "a TensorRT-RTX plan") from cause
    if len(programs) != 1:
        raise UnreadablePlan(f"{len(programs)} compiled programs", "1: the graph compiled as a whole")
    try:
        return _summary(version, size_of(path, BuildError), _sections(programs[0]))
    except (KeyError, ValueError, IndexError) as cause:
        seen = f"{type(cause).__name__}: {cause}"
        raise UnreadablePlan(seen, "a program with static shapes, laid out as by TensorRT-RTX 1.7") from cause


def _check_header(plan: mmap.mmap) -> str:
    if len(plan) < _HEADER_BYTES or plan[:4] != _MAGIC:
        raise UnreadablePlan(f"{len(plan)} bytes that start with {plan[:4]!r}", f"a plan that starts with {_MAGIC!r}")
    (size,) = struct.unpack_from("<Q", plan, 16)
    if size != len(plan):
        raise UnreadablePlan(f"{len(plan)} bytes", f"the {size} bytes that its header promises")
    return ".".join(str(number) for number in plan[24:28])


def _program_texts(plan: mmap.mmap) -> list[str]:
    """All program texts but those for accelerator `*`: they are the insides of fused kernels, no launches."""
    texts = []
    for match in _PROGRAM.finditer(plan):
        (length,) = struct.unpack("<Q", match.group(1))
        start = match.end(1)
        if start + length > len(plan):
            raise UnreadablePlan("a program that runs past the end", "a whole file")
        text = plan[start : start + length].decode("utf-8", "replace")
        if "accelerators={*}" not in text:
            texts.append(text)
    return texts


def _summary(version: str, size: int, sections: dict[str, list[str]]) -> PlanSummary:
    entries = _pairs(_tokens("\n".join(sections["header"])))
    header = dict(entries)
    regions = [dict(_pairs(_words(value))) for key, value in entries if key == "region"]
    summary = PlanSummary(
        version=version,
        sms=tuple(sm.upper() for sm in _words(header["accelerators"])),
        tf32=header["tf32"] == "1",
        bytes=size,
        workspace_bytes=sum(int(_text(r["size"])) for r in regions if _text(r["name"]).startswith("devmem")),
        tensors={tensor.name: tensor for tensor in map(_tensor, _statements(sections["descriptors"]))},
        inputs=_words(header["inputs"]),
        outputs=_words(header["outputs"]),
        kernels=tuple(_kernel(s) for s in _statements(sections["main"]) if not s[1].keys().isdisjoint(_ARGUMENTS)),
    )
    for kernel in summary.kernels:
        if unknown := {*kernel.inputs, *kernel.outputs} - summary.tensors.keys():
            raise ValueError(f"kernel {kernel.name} with tensors that are not described: {', '.join(sorted(unknown))}")
    return summary


def _sections(text: str) -> dict[str, list[str]]:
    """Section name -> its lines. A section opens with `name {` and closes with `}` at the margin."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in text.split("\n"):
        if line.endswith(" {") and not line.startswith(" "):
            current = sections.setdefault(line[:-2], [])
        elif line.startswith("  "):
            current.append(line)
    return sections


def _statements(lines: list[str]) -> list[_Statement]:
    """Lines of the form `kind={ key=value ... }`; labels and jumps without braces are skipped."""
    found = []
    for line in lines:
        tokens = _tokens(line)
        if tokens[1:3] == ["=", "{"]:
            found.append((tokens[0], dict(_pairs(tokens[3:-1]))))
    return found


def _tokens(line: str) -> list[str]:
    return _TOKEN.findall(line)


def _pairs(tokens: Sequence[str]) -> list[tuple[str, _Value]]:
    """`key = value` after `key = value`."""
    pairs = []
    at = 0
    while at < len(tokens):
        if tokens[at + 1] != "=":
            raise ValueError(f"no value for {tokens[at]!r}")
        value, after = _value(tokens, at + 2)
        pairs.append((tokens[at], value))
        at = after
    return pairs


def _value(tokens: Sequence[str], at: int) -> tuple[_Value, int]:
    """A word, a quoted string or a brace list that starts at `at`, and where the next token is."""
    if tokens[at] != "{":
        return tokens[at].strip('"'), at + 1
    close = tokens.index("}", at)
    return tuple(token.strip('"') for token in tokens[at + 1 : close]), close + 1


def _text(value: _Value) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a list where a word should be: {value}")
    return value


def _words(value: _Value) -> tuple[str, ...]:
    if isinstance(value, str):
        raise ValueError(f"a word where a list should be: {value}")
    return value


def _tensor(statement: _Statement) -> PlanTensor:
    _, fields = statement
    shape = tuple(int(size) for size in _words(fields["dims"]))
    dtype, size = _TYPES[_text(fields["type"])]
    return PlanTensor(
        name=_text(fields["name"]),
        shape=shape,
        dtype=dtype,
        bytes=math.prod(shape) * size,
        constant="const_payload_size" in fields,
        storage=_text(fields.get("base", fields["name"])),
    )


def _kernel(statement: _Statement) -> Kernel:
    kind, fields = statement
    name = _text(fields["name"])
    return Kernel(
        name=name,
        kind="attention" if "mha" in name else _KINDS.get(kind, kind),
        nodes=tuple(_NODE.findall(_text(fields.get("layers", "")))),
        inputs=_words(fields.get("input_args", fields.get("input", ()))),
        outputs=_words(fields.get("output_args", fields.get("output", ()))),
        grid=tuple(int(size) for size in _words(fields.get("grid", ()))),
        block=tuple(int(size) for size in _words(fields.get("block", ()))),
        shared_bytes=int(_text(fields.get("shmem", "0"))),
    )
