"""Weights from strangers: nothing runs, every fault is named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zoomrt.errors import CheckpointError
from zoomrt.export.checkpoint import load_checkpoint, load_weights


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
    read = checkpoint.content["state"] if form == "torch nested" else checkpoint.tensors()
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
    assert "not run" in str(caught.value)
    assert ("protocol 4" if form == "plain pickle" else "posix.system") in str(caught.value)
    assert "safetensors" in str(caught.value)
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
        (b"\x80\x02garbage", "damaged"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.pth")
    with pytest.raises(CheckpointError, match="a folder"):
        load_checkpoint(tmp_path)


def test_a_list_is_not_a_checkpoint(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "l.pth")
    with pytest.raises(CheckpointError, match="a list at the top"):
        load_checkpoint(tmp_path / "l.pth")


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
