"""SkipDiff: network and policy against slow ones, both orders of decision and call, bundles, step counts."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slow_sampling
import slow_skipdiff as slow
import torch
from family_checks import assert_close, assert_multi_step_at_true_size, bundle_of
from PIL import Image
from published_files import State
from slow_reference import Weights, bicubic_x4
from torch.utils.flop_counter import FlopCounterMode

import zoomrt
from zoomrt.bundle.sampling import split_draws
from zoomrt.cli import upscale
from zoomrt.cli._common import run
from zoomrt.errors import CheckpointError, PrecisionError, UsageError
from zoomrt.export.precisions import PRECISIONS
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.skipdiff import FAMILY
from zoomrt.models.networks.blocks.sr3_unet import Sr3Config, Sr3UNet, sr3_config_of
from zoomrt.models.networks.skipdiff import Policy, sampling_of
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph
from zoomrt.runtime.tiles.noise import noise_at

SMALL = Sr3Config((32, 32), 1)
MEMORY = 6


def write(path: Path, decide: str | None, lean: float = 0.0, config: Sr3Config = SMALL) -> tuple[State, State]:
    """lean : added to what the policy says; far above 0 it accepts everything."""
    unet = Sr3UNet(config)
    denoiser = {k: torch.randn_like(t) / max(1, t[0].numel()) ** 0.5 for k, t in unet.state_dict().items()}
    policy: State = {}
    if decide is not None:
        module = Policy(5, MEMORY, config.widths[0], after=decide == "after")
        policy = {k: torch.randn_like(t) / max(1, t[0].numel()) ** 0.5 for k, t in module.state_dict().items()}
        policy["accept.weight"] *= 6
        policy["accept.bias"] += lean
    torch.save({"denoiser": denoiser, **({"policy": policy} if policy else {})}, path)
    return denoiser, policy


def test_figures_at_true_size() -> None:
    """doi 10.1609/aaai.v38i5.28195: 17,799 G for SR3's 100 steps; 256 x 256 is a tile of 64."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = Sr3UNet(Sr3Config())
        picture = torch.empty(1, 3, 256, 256)
        network(picture, picture, torch.empty(1, 64))
    assert counter.get_total_flops() / 2e9 == pytest.approx(177.99, rel=0.02)
    assert sr3_config_of(network.state_dict()) == Sr3Config()
    assert sum(p.numel() for p in network.parameters()) == 94_217_539


def test_network_and_policy_against_the_slow_ones(tmp_path: Path) -> None:
    for decide in ("before", "after"):
        denoiser, policy = write(tmp_path / "w.pth", decide)
        network = FAMILY.network(load_checkpoint(tmp_path / "w.pth"))
        x, following, lr = torch.randn(1, 3, 64, 80), torch.randn(1, 3, 64, 80), torch.rand(1, 3, 16, 20) * 2 - 1
        memory, index = torch.randn(1, MEMORY), 7
        level = network.sampling.evaluations[index].timestep
        values = {
            "image": lr,
            "sample": x,
            "timestep_embedding": network.timestep_embedding(index),
            "hidden_state": memory,
            "prev_sample": following,
        }
        with torch.no_grad():
            values |= network.encode.named({"image": lr})
            answer = network.step.named(values)["model_output"][0].double().numpy()
            decided = network.policy.named(values)
        enlarged = bicubic_x4(lr[0].double().numpy(), -0.75)
        state = x[0].double().numpy()
        assert_close(answer, slow.noise_in(Weights(denoiser), state, enlarged, level), 3e-5)
        seen = [state, enlarged, *([following[0].double().numpy()] if decide == "after" else [])]
        accept, remembered = slow.decision(Weights(policy), seen, level, 32, memory[0].double().numpy())
        assert float(decided["accept_score"]) == pytest.approx(accept, abs=1e-4)
        np.testing.assert_allclose(decided["next_hidden_state"][0].numpy(), remembered, atol=1e-5)


@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_schedule(steps: int) -> None:
    facts, _ = sampling_of(steps, "before")
    share = slow_sampling.signal_shares()
    wanted = slow_sampling.two_stages(steps)
    assert [one.skippable for one in facts.evaluations] == [fine for _, _, fine in wanted]
    assert [one.timestep for one in facts.evaluations] == pytest.approx([share[t] ** 0.5 for t, _, _ in wanted])
    assert all(t > following for t, following, _ in wanted)
    assert not any(one.skippable for one in sampling_of(steps, None)[0].evaluations)


@pytest.mark.parametrize(("decide", "lean"), [("before", 0), ("before", 1e4), ("after", 0), ("after", -1e4), (None, 0)])
def test_bundle(tmp_path: Path, decide: str | None, lean: float, capfd, rng: np.random.Generator) -> None:
    """Pixels and call counts of a tile are those of the slow chain with the slow policy."""
    steps = 7
    denoiser, policy = write(tmp_path / "w.pth", decide, lean)
    assert family_of(load_checkpoint(tmp_path / "w.pth")) is FAMILY
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", {"steps": steps}, tile=16)
    assert set(manifest.graphs) == {"encode", "step"} | ({"policy"} if decide else set())
    assert manifest.sampling is not None
    assert manifest.sampling.decide == decide
    assert manifest.tile.noise is not None
    frame = rng.uniform(0, 1, (16, 16, 3)).astype(np.float32)
    enlarged = bicubic_x4(frame.transpose(2, 0, 1).astype(np.float64) * 2 - 1, -0.75)
    (noise,) = split_draws(manifest.sampling, noise_at(manifest.tile.noise, 0, 0, 16, 16)[None])
    memory, asked, taken = np.zeros(MEMORY), 0, 0
    share = slow_sampling.signal_shares()

    def accepts(t, x, y):
        nonlocal memory, asked, taken
        if decide is None:
            return True
        seen = [x, enlarged, *([y] if decide == "after" else [])]
        accept, memory = slow.decision(Weights(policy), seen, share[t] ** 0.5, 32, memory)
        asked, taken = asked + 1, taken + (accept > 0)
        return accept > 0

    *_, wanted = slow_sampling.skipdiff(
        noise[0].astype(np.float64),
        steps,
        lambda x, level: slow.noise_in(Weights(denoiser), x, enlarged, level),
        accepts,
    )
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = upscaler(frame)
        calls = steps - (asked - taken) if decide == "before" else steps
        assert upscaler.evaluations == (calls,)
        np.testing.assert_allclose(got, (wanted.transpose(1, 2, 0) / 2 + 0.5).clip(0, 1), atol=2e-3)
        upscaler(frame.repeat(2, axis=1))
        assert len(upscaler.evaluations) > 1  # one count per tile
    Image.new("RGB", (30, 16)).save(tmp_path / "p.png")
    assert run(upscale.cli, [str(tmp_path / "b"), str(tmp_path / "p.png"), "-o", str(tmp_path / "q.png")]) == 0
    said = re.search(r" s, (\d+) network evaluations, (.*) per tile\n", capfd.readouterr().out)
    assert said is not None
    if lean or decide != "before":
        assert said[2] == str(calls)
        assert int(said[1]) in range(2 * calls, 9 * calls, calls)
    if lean:
        assert taken == (asked if lean > 0 else 0)


def test_the_policy_stays_fp32(tmp_path: Path) -> None:
    write(tmp_path / "w.pth", "before")
    manifest = bundle_of(tmp_path / "b", tmp_path / "w.pth", {"steps": 4}, tile=16, precision="fp16")
    graphs = {part: OnnxRuntimeGraph(tmp_path / "b" / name) for part, name in manifest.graphs.items()}
    narrow = {part for part, graph in graphs.items() if np.float16 in graph._dtypes.values()}
    assert narrow == {"encode", "step"}


def test_emulation_is_held_to_the_precisions_own_bar(tmp_path: Path) -> None:
    write(tmp_path / "w.pth", "before")
    strict = replace(PRECISIONS.named("fp16"), name="strict", minimum_psnr_db=150.0)
    with PRECISIONS.added(strict), pytest.raises(PrecisionError, match=r"need 150 dB under FP16 storage emulation"):
        bundle_of(tmp_path / "b", tmp_path / "w.pth", {"steps": 4}, tile=16, precision="strict")


def test_wrong_requests(tmp_path: Path) -> None:
    denoiser, policy = write(tmp_path / "w.pth", "before")
    for steps, said in ((1, r"two stages.*--steps 1,.*2 to 1000"), (1001, r"--steps: got 1001.*1 to 1000")):
        with pytest.raises(UsageError, match=said):
            FAMILY.network(load_checkpoint(tmp_path / "w.pth"), {"steps": steps})
    policy["look.0.weight"] = torch.zeros(5, 7, 4, 4)
    torch.save({"denoiser": denoiser, "policy": policy}, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match="of skipdiff in a variant that is not supported"):
        FAMILY.network(load_checkpoint(tmp_path / "v.pth"))


@pytest.mark.slow
def test_engines_at_true_size(tmp_path: Path) -> None:
    _, policy = write(tmp_path / "w.pth", "before", 1e4, Sr3Config())
    parameters = 94_217_539 + sum(tensor.numel() for tensor in policy.values())
    options = {"steps": 4}
    assert_multi_step_at_true_size(tmp_path, tmp_path / "w.pth", parameters, {"step": (1, 1)}, options, tile=64)
