"""Kernels in a bundle: found by GPU, held against their manifest, and missed with the fallback's name."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from small_bundles import manifest

from zoomrt.bundle import KernelFile, open_bundle, writing_bundle
from zoomrt.bundle.kernel_file import SCALARS, coverage, find_kernel, kernel_key
from zoomrt.errors import BundleError, EngineMismatch
from zoomrt.runtime.gpu import cuda_kernel


def cubin(sm: int, *, newer: bool, machine: int = 190) -> bytes:
    """The ELF header that ptxas 12.9 writes: up to SM90 in the older layout, for SM120 in the newer one."""
    header = bytearray(80)
    header[:4], header[7] = b"\x7fELF", 0x41 if newer else 0x33
    struct.pack_into("<H", header, 18, machine)
    struct.pack_into("<I", header, 48, 0x0600000A | sm << 8 if newer else sm << 16 | 0x0500 | sm)
    return bytes(header)


def kernel(file: str) -> KernelFile:
    return KernelFile(
        kernel="tile_gather",
        file=file,
        entry="gather",
        arguments=(("frame", "*u8"), ("count", "i32")),
        constants={"BLOCK": 256, "bias": None, "gain": 0.5},
        grid=("cdiv(count, BLOCK)", "1", "1"),
        warps=4,
        shared_bytes=0,
        registers=32,
        spilled_bytes=0,
    )


def write(path: Path, binaries: dict[str, bytes], kernels: dict[str, KernelFile]) -> None:
    with writing_bundle(path) as (scratch, manifests):
        (scratch / "graph.onnx").write_bytes(b"")
        (scratch / "kernels").mkdir()
        for name, content in binaries.items():
            (scratch / name).write_bytes(content)
        manifests.append(manifest(kernels=kernels))


def test_kernels_come_back_as_they_were(tmp_path: Path) -> None:
    files = {f"kernels/gather.sm{sm}.cubin": cubin(sm, newer=sm > 100) for sm in (75, 89, 90, 120, 121)}
    kernels = {kernel_key("gather", sm): kernel(f"kernels/gather.sm{sm}.cubin") for sm in (75, 89, 90, 120, 121)}
    write(tmp_path / "b", files, kernels)
    read = open_bundle(tmp_path / "b").manifest
    assert read.kernels == kernels
    assert read.files.keys() == files.keys() | {"graph.onnx"}
    assert coverage(read.kernels) == {"gather": [75, 89, 90, 120, 121]}
    assert find_kernel(read.kernels, "gather", 90, fallback="").file == "kernels/gather.sm90.cubin"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (cubin(86, newer=False), "code for SM86"),
        (cubin(120, newer=True), "code for SM120"),
        (cubin(89, newer=False, machine=62), "code for no GPU"),
        (b"PTX", "code for no GPU"),
        (b"", "code for no GPU"),
    ],
)
def test_a_binary_for_another_gpu_is_noticed(content: bytes, said: str, tmp_path: Path) -> None:
    write(tmp_path / "b", {"kernels/k.cubin": content}, {"gather:sm89": kernel("kernels/k.cubin")})
    with pytest.raises(BundleError, match=f"gather:sm89.*{said}.*need SM89"):
        open_bundle(tmp_path / "b")


def test_a_changed_binary_is_noticed(tmp_path: Path) -> None:
    write(
        tmp_path / "b",
        {"kernels/k.cubin": cubin(89, newer=False)},
        {"gather:sm89": kernel("kernels/k.cubin")},
    )
    (tmp_path / "b" / "kernels" / "k.cubin").write_bytes(cubin(89, newer=False)[:-1] + b"x")
    with pytest.raises(BundleError, match=r"kernels/k\.cubin.*sha256"):
        open_bundle(tmp_path / "b")


def test_a_kernel_must_be_a_file_of_the_bundle(tmp_path: Path) -> None:
    outside = tmp_path / "k.cubin"
    outside.write_bytes(cubin(89, newer=False))
    with pytest.raises(BundleError, match=r"kernels\.gather:sm89.*one of files"):
        write(tmp_path / "b", {}, {"gather:sm89": kernel("../k.cubin")})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": (("frame", "u7"),)}, "argument frame of type u7"),
        ({"aligned": ("nothing",)}, "alignment of nothing"),
        ({"warps": 33}, r"warps"),
        ({"shared_bytes": 1 << 40}, r"shared_bytes"),
        ({"grid": ("1" * 201, "1", "1")}, r"grid"),
    ],
)
def test_records_that_could_not_be_launched(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    wrong = msgspec.structs.replace(kernel("kernels/k.cubin"), **changes)
    with pytest.raises(BundleError, match=said):
        write(tmp_path / "b", {"kernels/k.cubin": cubin(89, newer=False)}, {"gather:sm89": wrong})


def test_every_number_that_is_let_through_can_be_passed() -> None:
    assert cuda_kernel._SCALARS.keys() == SCALARS


def test_a_missing_kernel_names_the_fallback() -> None:
    kernels = {kernel_key("gather", sm): kernel("k") for sm in (120, 86)}
    with pytest.raises(EngineMismatch) as caught:
        find_kernel(kernels, "gather", 90, fallback="Frames are cut on the CPU.")
    text = str(caught.value)
    assert "got SM86, SM120, need SM90" in text
    assert "Frames are cut on the CPU." in text
    with pytest.raises(EngineMismatch, match="got none, need SM90"):
        find_kernel({}, "gather", 90, fallback="")
