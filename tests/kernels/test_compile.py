"""Ahead-of-time compilation: what comes out, what is refused, and what becomes of a compiler that dies."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the extra 'kernels' is not installed")

import toy_kernels

from zoomrt.errors import MissingDependency, PluginError, UsageError
from zoomrt.files import CacheWarning, cache_path
from zoomrt.kernels import compile as subject
from zoomrt.kernels.binary import Compiled, Resources, check_fit
from zoomrt.kernels.compile import KernelBinary, compile_kernels
from zoomrt.kernels.compile_child import without_hidden_parameters
from zoomrt.kernels.configuration import Configuration

_EM_CUDA = 190
"""Machine number of CUDA in an ELF header."""


def addition(block: int = 256, *, aligned: bool = False) -> Configuration:
    return Configuration(
        kernel="add",
        name=f"add_{block}",
        function=toy_kernels.add,
        signature={"x": "*fp16", "y": "*fp16", "out": "*fp16", "count": "i32"},
        constants={"BLOCK": block},
        grid=("cdiv(count, BLOCK)", "1", "1"),
        aligned=("x", "y", "out", "count") if aligned else (),
    )


def product(side: int, kind: str = "*fp16") -> Configuration:
    return Configuration(
        kernel="product",
        name=f"product_{side}",
        function=toy_kernels.product,
        signature={"x": kind, "y": kind, "out": "*fp32"},
        constants={"SIDE": side},
        grid=("1", "1", "1"),
        warps=8,
        sms=(80, 89),
    )


def assembled_again(binary: KernelBinary, folder: Path) -> str:
    """What ptxas itself says of the PTX: another source of the figures than the binary."""
    from triton import knobs

    source = folder / "again.ptx"
    source.write_text(binary.compiled.ptx)
    target = re.findall(r"^\.target (\w+)", binary.compiled.ptx, re.MULTILINE)[0]
    command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", str(source), "-o", str(folder / "again.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> list[KernelBinary]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOOMRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return compile_kernels([addition(), product(64)], (75, 89, 90, 120, 121), workers=1)


def test_each_configuration_comes_for_the_gpus_it_is_for(binaries: list[KernelBinary]) -> None:
    keys = [binary.key for binary in binaries]
    assert keys == [*(f"add_256:sm{sm}" for sm in (75, 89, 90, 120, 121)), "product_64:sm89"]
    for binary in binaries:
        assert binary.compiled.cubin[:4] == b"\x7fELF"
        assert struct.unpack_from("<H", binary.compiled.cubin, 18) == (_EM_CUDA,)
        assert binary.compiled.entry.encode() in binary.compiled.cubin
        assert re.search(rf"^\.target sm_{binary.sm}a?$", binary.compiled.ptx, re.MULTILINE)


def test_registers_and_spills_are_what_ptxas_says(binaries: list[KernelBinary], tmp_path: Path) -> None:
    for binary in binaries:
        said, used = assembled_again(binary, tmp_path), binary.compiled.resources
        assert int(re.findall(r"Used (\d+) registers", said)[0]) == used.registers
        assert int(re.findall(r"(\d+) bytes stack frame", said)[0]) == used.spilled_bytes


def test_shared_memory_holds_the_two_operands(binaries: list[KernelBinary]) -> None:
    """Two FP16 matrices of 64 x 64; an addition needs none."""
    assert binaries[-1].compiled.shared_bytes == 2 * 64 * 64 * 2
    assert binaries[0].compiled.shared_bytes == 0


def test_a_launch_passes_what_the_signature_says(binaries: list[KernelBinary]) -> None:
    """Triton itself would have two pointers more."""
    for binary in binaries:
        parameters = re.findall(r"^\s*\.param \.(\w+)", binary.compiled.ptx, re.MULTILINE)
        kinds = binary.configuration.signature.values()
        assert parameters == ["u64" if kind.startswith("*") else "u32" for kind in kinds]


def test_old_drivers_take_the_ptx(binaries: list[KernelBinary]) -> None:
    found = {b.sm: re.findall(r"^\.version (.*)$", b.compiled.ptx, re.MULTILINE)[0] for b in binaries}
    assert found == {75: "8.4", 89: "8.4", 90: "8.4", 120: "8.7", 121: "8.8"}


def test_no_path_of_this_machine_is_in_a_binary(binaries: list[KernelBinary]) -> None:
    here = Path(toy_kernels.__file__).parent.as_posix()
    for binary in binaries:
        assert here not in binary.compiled.ptx
        assert here.encode() not in binary.compiled.cubin


def test_equal_inputs_give_equal_bytes(binaries: list[KernelBinary]) -> None:
    """The cache is another one here, so this compiles anew, and by another number of children."""
    again = compile_kernels([addition()], (89, 120), workers=2)
    before = {binary.key: binary.compiled for binary in binaries}
    assert [one.compiled for one in again] == [before[one.key] for one in again]


def test_alignment_shortens_an_addition() -> None:
    plain, aligned = (compile_kernels([addition(1024, aligned=flag)], (89,), workers=1)[0] for flag in (False, True))
    assert "ld.global.v4.b32" in aligned.compiled.ptx
    assert "ld.global.v4.b32" not in plain.compiled.ptx


def test_a_kept_binary_is_not_compiled_again_and_a_damaged_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    first = compile_kernels([addition()], (89,), workers=1)
    (file,) = cache_path("kernels").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(subject, "_COMMAND", ("false",))
        assert compile_kernels([addition()], (89,)) == first
    damaged = bytearray(file.read_bytes())
    damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
    file.write_bytes(damaged)
    assert compile_kernels([addition()], (89,), workers=1)[0].compiled == first[0].compiled
    assert file.read_bytes() != damaged


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    big = product(128, "*fp32")
    with pytest.raises(PluginError) as caught:
        compile_kernels([big], (89,), workers=1)
    assert "product_128" in caught.value.what
    assert "SM89" in caught.value.what
    assert caught.value.seen == f"{2 * 128 * 128 * 4} bytes of shared memory"
    assert "101376" in caught.value.needed
    assert not list(cache_path("kernels").glob("*"))


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "fault"),
    [
        (32, 0, 33, "1056 threads"),
        (256, 0, 4, "256 registers per thread"),
        (129, 0, 16, "69632 registers per block"),  # 129 go out as 136, in units of 256 per warp
        (32, 99 * 1024, 4, "101377 bytes of shared memory"),
    ],
)
def test_each_limit_is_held(registers: int, shared: int, warps: int, fault: str) -> None:
    used = Compiled(
        entry="k", shared_bytes=shared, resources=Resources(registers, 0, 1), cubin=b"", ptx="", compiler=""
    )
    with pytest.raises(PluginError, match=fault):
        check_fit(used, "k", 86, warps)


def test_at_its_limits_a_kernel_fits() -> None:
    """255 registers in 8 warps are the whole file of 65536; 128 in 16 as well."""
    for registers, warps in ((255, 8), (128, 16)):
        resources = Resources(registers, 4096, 0)
        shared = 99 * 1024
        check_fit(
            Compiled(entry="k", shared_bytes=shared, resources=resources, cubin=b"", ptx="", compiler=""),
            "k",
            86,
            warps,
            may_spill=True,
        )


def test_a_spill_is_refused_unless_it_is_known() -> None:
    spilling = Compiled(entry="k", shared_bytes=0, resources=Resources(128, 8, 0), cubin=b"", ptx="", compiler="")
    with pytest.raises(PluginError, match="8 spilled bytes per thread, need at most 0"):
        check_fit(spilling, "k", 120, 8)
    check_fit(spilling, "k", 120, 8, may_spill=True)


def test_a_configuration_says_that_it_may_spill() -> None:
    """128 x 128 FP32 sums in one warp are 512 values for each thread, and it has 255 registers."""
    wide = replace(product(128), warps=1, sms=(80,))
    with pytest.raises(PluginError, match="spilled bytes"):
        compile_kernels([wide], (80,), workers=1)
    (binary,) = compile_kernels([replace(wide, may_spill=True)], (80,), workers=1)
    assert binary.compiled.resources.spilled_bytes > 0


def test_triton_does_not_assemble_a_second_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own assembler from SM90 on is another ptxas than ours: here one that can tell its version and no more."""
    from triton import knobs

    tool = tmp_path / "ptxas"
    tool.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec "{knobs.nvidia.ptxas_blackwell.path}" --version\nexit 1\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("TRITON_PTXAS_BLACKWELL_PATH", str(tool))
    assert compile_kernels([addition()], (120,), workers=1)


def test_a_compiler_that_aborts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_KERNELS_ABORT", "1")
    with pytest.raises(PluginError) as caught:
        compile_kernels([addition(), product(64)], (80, 89))
    text = str(caught.value)
    assert "SIGABRT" in text
    assert re.search(r"'(add_256|product_64)' cannot be compiled for SM(80|89)", text)
    assert "\n" not in text


def test_a_compiler_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_COMMAND", ("sleep", "60"))
    monkeypatch.setattr(subject, "_TIMEOUT_S", 0.1)
    with pytest.raises(PluginError, match=r"no end after 0\.1 s"):
        compile_kernels([addition()], (89,))


def test_a_faulty_kernel_says_what_triton_says() -> None:
    faulty = Configuration("faulty", "faulty", toy_kernels.faulty, {"x": "*fp16"}, {}, ("1", "1", "1"))
    with pytest.raises(PluginError, match="no_such_name"):
        compile_kernels([faulty], (89,), workers=1)


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match="SM70"):
        compile_kernels([addition()], (89, 70))


def test_without_triton_the_remedy_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependency, match=r"zoomrt\[kernels\]"):
        compile_kernels([addition()], (89,))


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZOOMRT_CACHE", str(tmp_path / "file"))
    with pytest.warns(CacheWarning):
        assert len(compile_kernels([addition()], (89,), workers=1)) == 1


PTX = (
    ".visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u32 k_param_1,\n\t.param .u64 k_param_2\n)\n{{\n{body}}}\n"
)


def test_parameters_after_the_last_argument_go() -> None:
    assert "k_param_2" not in without_hidden_parameters(PTX.format(body="ld.param.u64 %r, [k_param_1];\n"), 2)


@pytest.mark.parametrize(("body", "arguments"), [("ld.param.u64 %r, [k_param_2];\n", 2), ("ret;\n", 4)])
def test_a_hidden_parameter_in_use_or_one_too_few_is_refused(body: str, arguments: int) -> None:
    with pytest.raises(ValueError, match="3 parameters"):
        without_hidden_parameters(PTX.format(body=body), arguments)
