"""The child process that compiles kernels: jobs come as JSON lines on stdin, answers leave as JSON lines on stdout.

`python -m zoomrt.cli.kernels.compile_child`. A process of its own because LLVM aborts on combinations it does not know;
one child takes many jobs, since importing Triton and the kernels costs seconds. It ends when its stdin closes.

Triton writes the PTX; its last stage, the assembler, is replaced by ours, for two reasons. Two parameters that Triton
adds for scratch memory of its own are taken out before, so that a launch, ours or TensorRT's, passes what the signature
says and no more. And one of Triton's two ptxas, that of CUDA 12, assembles for every SM; from the other, of CUDA 13,
which Triton takes from SM90 on, binaries come in a layout of their own (ELF ABI 8) that is younger than the
drivers of CUDA 12.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from typing import Any

import msgspec

from zoomrt.errors import ZoomrtError
from zoomrt.files import scratch_folder
from zoomrt.kernels.binary import Compiled, read_resources

_SCRATCH = ("global_scratch_size", "profile_scratch_size")
_PARAMETERS = re.compile(r"(\.entry \w+\(\n)(.*?)(\n\))", re.DOTALL)
_TARGET = re.compile(r"^\.target (\w+)", re.MULTILINE)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel to compile for one SM; the fields of a `Configuration` that decide its code."""

    module: str
    function: str
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    warps: int
    stages: int
    fused_multiply_add: bool
    sm: int
    ptx_version: int
    """84 for PTX ISA 8.4."""


class Refusal(msgspec.Struct, frozen=True, tag=True):
    """Why the kernel cannot be compiled."""

    why: str


def main() -> None:
    """Answer each `Job` with a `Compiled` or a `Refusal`."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native code prints where it likes
    answer: Compiled | Refusal
    for line in sys.stdin:
        try:
            answer = _compiled(msgspec.json.decode(line, type=Job))
        except ZoomrtError as failure:
            answer = Refusal(failure.seen)
        except Exception as failure:  # whatever the compiler raises is its verdict on this kernel
            answer = Refusal(" ".join(f"{type(failure).__name__}: {failure}".split()))
        stream.write(msgspec.json.encode(answer) + b"\n")
        stream.flush()


def _compiled(job: Job) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(job.module), job.function)
    tools = triton.knobs.nvidia

    def last_stage(*given: Any) -> tuple[str, str]:
        """Triton's hook: given its stages it may change them; called with nothing it says what tells its cache so."""
        if given:
            given[1]["cubin"] = lambda ptx, _metadata: _assembled(ptx, job, tools.ptxas.path)
        return "zoomrt assembles", "zoomrt assembles"

    triton.knobs.runtime.add_stages_inspection_hook = last_stage
    types = {name: job.signature.get(name, "constexpr") for name in function.arg_names}
    multiples = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in job.aligned}
    kernel = triton.compile(
        ASTSource(function, types, job.constants, multiples),
        target=GPUTarget("cuda", job.sm, 32),
        options={
            "num_warps": job.warps,
            "num_stages": job.stages,
            "enable_fp_fusion": job.fused_multiply_add,
            "ptx_version": job.ptx_version,
        },
    )
    _require_plain_launch(kernel.metadata)
    cubin = kernel.asm["cubin"]
    return Compiled(
        entry=kernel.metadata.name,
        shared_bytes=kernel.metadata.shared,
        resources=read_resources(cubin, kernel.metadata.name, tools.cuobjdump.path),
        cubin=cubin,
        ptx=without_hidden_parameters(kernel.asm["ptx"], len(job.signature)),
        compiler=f"triton {triton.__version__}, ptxas {tools.ptxas.version}",
    )


def _require_plain_launch(metadata: Any) -> None:
    extras = {name: getattr(metadata, name, 0) for name in (*_SCRATCH, "tensordesc_meta")}
    wanted = [name for name, value in extras.items() if value]
    if wanted or metadata.num_ctas != 1:
        raise ValueError(f"a launch would need more than arguments: {', '.join(wanted) or 'block clusters'}")


def without_hidden_parameters(ptx: str, arguments: int) -> str:
    """PTX of one kernel without the pointers after its first `arguments` parameters. ValueError where they are used."""
    entries = _PARAMETERS.findall(ptx)
    if len(entries) != 1:
        raise ValueError(f"{len(entries)} kernels in the PTX, 1 expected")
    parameters = entries[0][1].split(",\n")
    hidden = [parameter.split()[-1] for parameter in parameters[arguments:]]
    if len(parameters) < arguments or any(len(re.findall(rf"\b{name}\b", ptx)) != 1 for name in hidden):
        raise ValueError(f"{len(parameters)} parameters in the PTX for {arguments} arguments, and {hidden} may be used")
    return _PARAMETERS.sub(lambda match: match[1] + ",\n".join(parameters[:arguments]) + match[3], ptx)


def _assembled(ptx: str, job: Job, ptxas: str) -> bytes:
    ptx = without_hidden_parameters(ptx, len(job.signature))
    (target,) = _TARGET.findall(ptx)
    with scratch_folder() as folder:
        source, binary = folder / "kernel.ptx", folder / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        options = [f"--gpu-name={target}", f"--fmad={str(job.fused_multiply_add).lower()}"]
        command = [ptxas, *options, str(source), "-o", str(binary)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise ValueError(f"ptxas: {answer.stderr.strip()[:400]}")
        return binary.read_bytes()


if __name__ == "__main__":
    main()
