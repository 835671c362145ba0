"""Weights from strangers: nothing runs, every fault is named."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoomrt.errors import CheckpointError
from zoomrt.models.checkpoint import load_checkpoint, load_tensors, load_weights, loaded
from zoomrt.models.torch_file import TorchFile


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch legacy", "torch nested"])
def test_reads_every_safe_form(tmp_path: Path, form: str) -> None:
    state = network().state_dict()
    path = tmp_path / "weights.bin"
    if form == "safetensors":
        save_file(state, path)
    else:
        content = {"rank": 4, "names": ["a", "b"], "state": state} if form == "torch nested" else state
        torch.save(content, path, _use_new_zipfile_serialization=form != "torch legacy")
    checkpoint = load_checkpoint(path)
    found = checkpoint.find("0.weight", "1.bias")
    assert found is not None
    read = checkpoint.tensors(found)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("form", ["torch", "torch legacy", "plain pickle"])
def test_malicious_pickle_runs_nothing(tmp_path: Path, form: str) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "pwned"
    payload = {"weight": Malicious(marker)}
    if form == "plain pickle":
        path.write_bytes(pickle.dumps(payload, protocol=4))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=form != "torch legacy")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert not marker.exists()
    assert f"{os.system.__module__}.system" in str(caught.value)
    assert "safetensors" in str(caught.value)
    assert form == "plain pickle" or "not run" in str(caught.value)
    # the payload is live: an unrestricted load does run it
    pickle.loads(pickle.dumps(payload))
    assert marker.exists()


@pytest.mark.parametrize("form", ["safetensors", "torch", "torch legacy"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated_at_any_place(tmp_path: Path, form: str, share: float) -> None:
    path = tmp_path / "weights.pth"
    state = nn.Linear(64, 64).state_dict()
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "torch legacy")
    whole = path.read_bytes()
    path.write_bytes(whole[: max(1, int(len(whole) * share))])
    with pytest.raises(CheckpointError, match=r"damaged") as caught:
        load_checkpoint(path)
    assert "ownload" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"PK\x03\x04 not really a zip", "damaged"),
        (b"\x80", "damaged"),
        (b"\x80\x02garbage", "damaged"),
        (b"\x80\x02" + b"]" * 300_000 + b".", "plain pickle"),
        (b"}\x00\x00\x00\x00\x00\x00\x00{", "damaged"),
        (b"\x00" * 7 + b"\x10{}", "damaged"),  # a header of 2 ** 60 bytes
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("none", "nothing there"), ("", "a folder"), ("pipe", "not a file"), ("x" * 300, "too long")):
        with pytest.raises(CheckpointError, match=rf"cannot (read|look up) .*{said}"):
            load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="not a file"):
        load_checkpoint(Path("/dev/zero"))


def test_a_disk_that_fails_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_stream: object) -> TorchFile:
        raise OSError(errno.EIO, "Input/output error")

    torch.save({"a": torch.ones(3)}, tmp_path / "w.pt")
    monkeypatch.setattr(TorchFile, "open", broken)
    with pytest.raises(CheckpointError, match="Input/output error") as refusal:
        load_checkpoint(tmp_path / "w.pt")
    assert "damaged" not in str(refusal.value)


def test_a_list_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    with pytest.raises(CheckpointError, match="a list at the top"):
        load_checkpoint(tmp_path / "l.pth")


class Config(dict):
    """A mapping of a class of its own, which is not looked for when it is read."""


def test_a_mapping_of_another_class(tmp_path: Path) -> None:
    torch.save(Config(network().state_dict()), tmp_path / "c.pth")
    assert load_checkpoint(tmp_path / "c.pth").find("0.weight", "1.bias") is not None


def test_a_network_instead_of_its_state(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "n.pth")
    with pytest.raises(CheckpointError, match=r"an object of torch\.nn\.\S*Sequential at the top.*state_dict\(\)"):
        load_checkpoint(tmp_path / "n.pth")


def headed(header: str, data: bytes = b"") -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header.encode() + data


def entry(name: str, shape: str, offsets: str, dtype: str = "F32") -> str:
    return f'"{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}'


@pytest.mark.parametrize(
    "content",
    [
        headed("{" + entry("a", "[2]", "[0, 8]") + "}"),  # no data
        headed("{" + entry("a", "[2]", "[0, 4]") + "}", bytes(4)),
        headed("{" + entry("a", "[1]", "[0, 4]") + ", " + entry("b", "[1]", "[2, 6]") + "}", bytes(6)),  # overlapping
        headed("{" + entry("a", "[4611686018427387904, 4]", "[0, 0]") + "}"),
        headed("{" + entry("a", "[1]", "[18446744073709551615, 3]") + "}", bytes(4)),
        headed("{" + entry("a", "[1]", "[0, 4]", "F99") + "}", bytes(4)),
        headed('{"a": ' * 100_000),
        headed("{"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "w.safetensors")


def test_any_damage_to_safetensors(tmp_path: Path, rng: np.random.Generator) -> None:
    """Whatever bytes change or are cut off: tensors, or a CheckpointError."""
    path = tmp_path / "w.safetensors"
    save_file(network().state_dict(), path)
    whole = path.read_bytes()
    for _ in range(300):
        raw = bytearray(whole)
        for place in rng.integers(0, 300, 3):
            raw[place] = rng.integers(0, 256)
        path.write_bytes(raw[: rng.integers(len(raw) // 2, 2 * len(raw))])
        try:
            load_tensors(path)
        except CheckpointError:
            continue


def test_mappings_that_hold_each_other(tmp_path: Path) -> None:
    """Each holds the next one twice: as many ways through as atoms in the world."""
    inner: dict[str, object] = {"a": torch.zeros(1)}
    for _ in range(300):
        inner = {"x": inner, "y": inner}
    torch.save(inner, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").find("a") is None


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """The state of an optimiser, as large as the network, stays where it is."""
    torch.save({"model": network().state_dict(), "optimizer": {"state": {"exp": torch.rand(1000)}}}, tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    state = checkpoint.find("0.weight")
    assert state is not None
    checkpoint.tensors(state)
    assert len(checkpoint._read) == 4


def test_load_weights_copies_fp16_into_fp32(tmp_path: Path) -> None:
    state = {key: torch.randn_like(value).half() for key, value in network().state_dict().items()}
    target = network()
    load_weights(target, state, tmp_path)
    assert all(value.dtype is torch.float32 for value in target.state_dict().values())
    assert all(torch.equal(value, state[key].float()) for key, value in target.state_dict().items())


def test_load_weights_lists_every_fault(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    state["extra.weight"] = state.pop("1.bias")
    state["0.weight"] = torch.zeros(4, 5)
    with pytest.raises(CheckpointError) as caught:
        load_weights(network(), state, tmp_path / "w")
    for said in ("1 missing: 1.bias", "1 unexpected: extra.weight", "0.weight (4, 5) instead of (4, 3)"):
        assert said in str(caught.value)


def test_load_weights_refuses_non_finite(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    state["1.weight"] = torch.full((2, 4), float("nan"))
    with pytest.raises(CheckpointError, match=r"non-finite values in 1\.weight"):
        load_weights(network(), state, tmp_path / "w")


def test_a_network_that_does_not_fit_takes_no_memory(tmp_path: Path) -> None:
    """Read off a file whose one tensor is wide: terabytes, were it made before it is compared."""
    with pytest.raises(CheckpointError, match="do not fit the network"):
        loaded(lambda: nn.Linear(2_000_000, 2_000_000), {"bias": torch.zeros(2_000_000)}, tmp_path / "w")
