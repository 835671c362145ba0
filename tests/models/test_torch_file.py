"""torch's two kinds of file against what torch itself reads from them; sizes that lie, and files of something else."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoomrt.models import torch_file
from zoomrt.models.torch_file import FAULTS, FLOATING, ForeignFile, StoredTensor, TorchFile, tensor_like


def opened(path: Path) -> TorchFile:
    with path.open("rb") as stream:
        return TorchFile.open(stream)


def read(path: Path, *names: str) -> dict[str, Tensor]:
    """The tensors of a mapping; of all names that are dense and of floating-point numbers if none is given."""
    file = opened(path)
    found = {name: tensor_like(value) for name, value in file.content.items() if not names or name in names}
    stored = {name: one for name, one in found.items() if isinstance(one, StoredTensor) and one.dtype in FLOATING}
    with path.open("rb") as stream:
        loaded = file.load(stream, set(stored.values()))
    return {name: loaded[one] for name, one in stored.items()}


def state() -> dict[str, Tensor]:
    base = torch.randn(6, 5)
    return {
        "plain": torch.randn(3, 4),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(2).bfloat16(),
        "double": torch.randn(2).double(),
        "float8": torch.randn(4).to(torch.float8_e4m3fn),
        "turned": base.t(),
        "part": base[2:4, 1:3],
        "same": base,
        "parameter": nn.Parameter(torch.randn(2, 2)),
        "none": torch.zeros(0, 3),
        "number": torch.tensor(1.5),
    }


def unusual() -> dict[str, Tensor]:
    return {
        "int64": torch.arange(3),
        "int32": torch.arange(3, dtype=torch.int32),
        "int16": torch.arange(3, dtype=torch.int16),
        "int8": torch.arange(3, dtype=torch.int8),
        "uint8": torch.arange(3, dtype=torch.uint8),
        "uint16": torch.zeros(3, dtype=torch.uint16),
        "bool": torch.tensor([True]),
        "complex64": torch.zeros(2, dtype=torch.complex64),
        "complex128": torch.zeros(2, dtype=torch.complex128),
        "sparse": torch.eye(3).to_sparse(),
        "meta (no values)": torch.empty(3, device="meta"),
        "quantised": torch.quantize_per_tensor(torch.randn(4), 0.1, 0, torch.qint8),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("zipped", "protocol"), [(True, 2), (True, 4), (True, 5), (False, 2), (False, 4)])
def test_what_torch_reads(tmp_path: Path, zipped: bool, protocol: int) -> None:
    saved = state()
    content = {**saved, **unusual()}
    torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    got = read(tmp_path / "w")
    assert got.keys() == saved.keys()
    for name, tensor in saved.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(got[name].float(), tensor.detach().float())
    file = opened(tmp_path / "w")
    for name in unusual():
        one = tensor_like(file.content[name])
        assert (one.dtype if isinstance(one, StoredTensor) else one) == name
    assert tensor_like(3) is tensor_like({"a": 1}) is None


def damaged(path: Path, tensor: Tensor) -> None:
    """Flip one bit of the tensor's numbers."""
    raw = bytearray(path.read_bytes())
    place = raw.find(tensor.numpy().tobytes())
    assert place > 0
    raw[place + 5] ^= 4
    path.write_bytes(raw)


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """torch.load does not look at the checksum that it has written."""
    saved = {"a": torch.randn(100), "b": torch.randn(100)}
    torch.save(saved, tmp_path / "w")
    damaged(tmp_path / "w", saved["b"])
    assert not torch.equal(torch.load(tmp_path / "w")["b"], saved["b"])
    with pytest.raises(zipfile.BadZipFile, match="CRC"):
        read(tmp_path / "w")
    assert torch.equal(read(tmp_path / "w", "a")["a"], saved["a"])  # and only what is asked for is read


def described(path: Path, *, numel: int = 100, shape: tuple[int, ...] = (100,), strides=(1,), offset: int = 0) -> Path:
    """A file of 100 numbers that says something else about them."""
    tensor = torch.randn(100)
    torch.save({"a": tensor}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("data.pkl"))

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def group(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    told = entries[name]
    old = b"KdtQK\x00Kd\x85K\x01\x85"
    plain = b"".join(op for op in _without_memo(told))
    assert plain.count(old) == 1
    new = number(numel) + b"tQ" + number(offset) + group(shape) + group(strides)
    entries[name] = plain.replace(old, new)
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return path


def _without_memo(content: bytes) -> list[bytes]:
    """The instructions of a pickle without those that remember values, which this one does not use again."""
    import pickletools

    steps = [(code, place) for code, _, place in pickletools.genops(content)]
    ends = [*(place for _, place in steps[1:]), len(content)]
    return [content[place:end] for (code, place), end in zip(steps, ends, strict=True) if code.name != "BINPUT"]


def test_a_description_that_is_true(tmp_path: Path) -> None:
    assert read(described(tmp_path / "w", shape=(4, 5), strides=(20, 2), offset=3))["a"].shape == (4, 5)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (101,)},
        {"shape": (1 << 40,), "strides": (0,)},  # one number, told to be a terabyte of them
        {"numel": 1 << 40, "shape": (1 << 40,)},
        {"numel": 200, "shape": (200,)},
        {"offset": 1},
        {"offset": -1, "shape": (50,)},
        {"shape": (-5,)},
        {"shape": (50,), "strides": (-1,)},
        {"shape": (10, 10), "strides": (1,)},
        {"shape": (2, 2), "strides": (1 << 62, 1 << 62)},
    ],
)
def test_descriptions_that_lie(tmp_path: Path, lie: dict[str, object]) -> None:
    with pytest.raises(FAULTS):
        read(described(tmp_path / "w", **lie))  # type: ignore[arg-type]


def zipped(**options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[arg-type]
            archive.writestr("w/data.pkl", b"}." + b" " * 10_000)

    return write


def overlapping(path: Path) -> None:
    """Two names for the same bytes, over and over: the zip bomb that needs no compression."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"}.")
        archive.writestr("w/data/0", bytes(1 << 20))
        entry = archive.getinfo("w/data/0")
        for i in range(1, 100):
            copy = zipfile.ZipInfo(f"w/data/{i}")
            for slot in ("header_offset", "CRC", "file_size", "compress_size", "compress_type"):
                setattr(copy, slot, getattr(entry, slot))
            archive.filelist.append(copy)
            archive._didModify = True


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), str(path))


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (zipped(compression=zipfile.ZIP_DEFLATED), "compressed"),
        (overlapping, "overlap"),
        (script, "TorchScript"),
        (plain_zip, r"did not write: readme\.txt"),
        (lambda path: path.write_bytes(b"\x80\x04}q\x00."), "plain pickle"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "not a zip file"),
    ],
)
def test_files_of_something_else(tmp_path: Path, write: Callable[[Path], None], said: str) -> None:
    write(tmp_path / "w")
    with pytest.raises((ForeignFile, *FAULTS), match=said):
        opened(tmp_path / "w")


def test_a_description_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": [1.0] * 1000}, tmp_path / "w")
    monkeypatch.setattr(torch_file, "MOST_PICKLE_BYTES", 1000)
    with pytest.raises(ValueError, match="bytes of description"):
        opened(tmp_path / "w")


def test_any_damage(tmp_path: Path, rng: np.random.Generator) -> None:
    """Whatever bytes change or are cut off: right numbers, or one of the faults."""
    saved = {"a": torch.randn(7, 5), "b": torch.randn(3).half(), "epoch": 3}
    for form in (True, False):
        whole = io.BytesIO()
        torch.save(saved, whole, _use_new_zipfile_serialization=form)
        for _ in range(150):
            raw = bytearray(whole.getvalue())
            for place in rng.integers(0, len(raw), 4):
                raw[place] = rng.integers(0, 256)
            (tmp_path / "w").write_bytes(raw[: rng.integers(len(raw) // 2, 2 * len(raw))])
            try:
                read(tmp_path / "w")
            except (ForeignFile, *FAULTS):
                continue
