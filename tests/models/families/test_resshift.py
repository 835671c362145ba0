"""ResShift: the schedule against the sheet, every state of the trajectory against the slow one, bundles, refusals."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import slow_sampling
import slow_sinsr as slow
import torch
from family_checks import assert_close, assert_multi_step_at_true_size, bundle_of
from published_files import parameters_of
from published_resshift import SHALLOW, TRUE, Files, unet_layout, vae_layout
from slow_reference import Weights, bicubic_x4
from torch.utils.flop_counter import FlopCounterMode

import zoomrt
from zoomrt.bundle import NoiseFacts, open_bundle
from zoomrt.bundle.sampling import split_draws, timestep_embedding, trajectory
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.resshift import FAMILY
from zoomrt.models.networks.blocks.swin_unet import SwinUNet, SwinUNetConfig
from zoomrt.models.networks.blocks.vq_autoencoder import VqAutoencoder, VqConfig
from zoomrt.models.networks.resshift import Decode, Encode, Step, sampling_of
from zoomrt.models.options import given
from zoomrt.runtime.sessions.common.multi_step import MultiStepSession
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph
from zoomrt.runtime.tiles.noise import noise_at
from zoomrt.runtime.upscaler import engine_of

# zsyOAOA/ResShift: t -> c1, std, input scale
TABLE = {
    15: {
        0: (0, 0, 0.99920096),
        1: (0.02913826, 0.03941293, 0.97362601),
        7: (0.75091483, 0.41160098, 0.72437863),
        13: (0.83435905, 0.67556343, 0.48211602),
        14: (0.84232789, 0.72157789, 0.45081649),
    },
    4: {
        0: (0, 0, 0.98058068),
        1: (0.03696854, 0.19626833, 0.69304197),
        2: (0.46661903, 0.75968330, 0.54891967),
        3: (0.59147285, 0.97329179, 0.45081649),
    },
}


def files_of(root: Path, steps: int) -> Files:
    files = Files(root, SHALLOW)
    files.options = {"autoencoder": files.autoencoder, "steps": steps}
    return files


@pytest.mark.parametrize("steps", [15, 4])
def test_schedule_is_the_sheets(steps: int) -> None:
    facts, levels = sampling_of(steps)
    assert [one.timestep for one in facts.evaluations] == [*reversed(range(steps))]
    assert facts.draws == steps
    assert facts.noise == pytest.approx(1.98)
    for one, level in zip(facts.evaluations, levels, strict=True):
        assert level.noise == pytest.approx(2 * slow_sampling.resshift_schedule(steps)[int(one.timestep)])
        if int(one.timestep) in TABLE[steps]:
            kept, spread, gain = TABLE[steps][int(one.timestep)]
            assert one.prev_sample == pytest.approx((kept, 0, 1 - kept, spread), abs=6e-9)
            assert one.gain == pytest.approx(gain, abs=6e-9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Path]:
    root = tmp_path_factory.mktemp("resshift")
    files = files_of(root, 4)
    bundle_of(root / "b", files.weights, files.options, model="resshift", tile=64, overlap=16)
    return files, root / "b"


@pytest.mark.parametrize("steps", [15, 4])
def test_every_state_of_the_trajectory(bundle: tuple[Files, Path], steps: int, rng: np.random.Generator) -> None:
    """The bundle's graphs, which are the same for any number of steps, against a chain and networks that share no code
    with them."""
    files, folder = bundle
    manifest = open_bundle(folder).manifest
    facts, _ = sampling_of(steps)
    assert (manifest.steps, manifest.tile.channels, manifest.sampling) == (4, 3 + 3 * 4, sampling_of(4)[0])
    lr = rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    noise = rng.standard_normal((1, 3 * steps, 64, 64)).astype(np.float32)
    draws = split_draws(facts, noise)
    np.testing.assert_array_equal(draws[1], noise[:, 3:6])
    unet, vae = Weights(files.unet), Weights(files.vae)
    graphs = {part: OnnxRuntimeGraph(folder / name) for part, name in manifest.graphs.items()}
    base = graphs["encode"]({"image": lr})["image_latents"]
    wanted_base = slow.encode(vae, bicubic_x4(lr[0].astype(np.float64), -0.75))
    assert_close(base[0].astype(np.float64), wanted_base, 3e-5)

    def predict(state, one):
        values = {"sample": state, "image": lr, "timestep_embedding": timestep_embedding(one.timestep, 32)}
        return graphs["step"](values)["model_output"]

    def denoise(x, t):
        return slow.unet(unet, np.concatenate([x, lr[0].astype(np.float64)]), files.scale.heads, t)

    wanted = slow_sampling.resshift(wanted_base, [draw[0].astype(np.float64) for draw in draws], steps, denoise)
    got = list(trajectory(facts, base, draws, predict))
    assert [moment.calls for moment in got] == [*range(1, steps + 1)]
    for moment, state in zip(got, wanted, strict=True):
        assert_close(moment.sample[0].astype(np.float64), state, 1e-4)
    quantised = slow.nearest_codes(vae.array("quantize.embedding.weight"), got[-1].sample[0].astype(np.float64))
    picture = graphs["decode"]({"sample": got[-1].sample})["upscaled_image"][0].astype(np.float64)
    assert_close(picture, slow.decode(vae, quantised), 5e-4)

    tile = msgspec.structs.replace(manifest.tile, noise=NoiseFacts(channels=3 * steps, seed=1))
    session = MultiStepSession(tile, facts, graphs)
    np.testing.assert_array_equal(session.run(np.concatenate([lr, noise], axis=1))[0], picture.astype(np.float32))
    assert session.evaluations == steps


def test_frames_through_the_bundle(bundle: tuple[Files, Path], rng: np.random.Generator) -> None:
    """Equal frames become equal pixels; noise comes from the frame's place; counts are per tile."""
    _files, folder = bundle
    frame = rng.integers(0, 256, (64, 70, 3), np.uint8)
    with zoomrt.load(folder) as upscaler:
        got = upscaler(frame)
        np.testing.assert_array_equal(got, upscaler(frame))
        assert got.shape == (256, 280, 3)
        assert upscaler.evaluations == (4, 4)
        tile = upscaler.manifest.tile
        assert tile.noise is not None
        lr = frame[:, :64].transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        batch = np.concatenate([lr, noise_at(tile.noise, 0, 0, 64, 64)])[None]
        alone = (engine_of(upscaler).session.run(batch)[0] + 1) * 127.5
        inner = slice(0, 4 * 12)  # the second tile begins at pixel 6, and the seam lies in the middle of the overlap
        np.testing.assert_allclose(got[:, inner], alone.clip(0, 255).transpose(1, 2, 0)[:, inner], atol=0.51)


def test_figures_at_true_size() -> None:
    """Parameters and multiply-adds of the three graphs are the sheet's."""
    unet_shapes, vae_shapes = unet_layout(TRUE), vae_layout(TRUE)
    with torch.device("meta"):
        autoencoder = VqAutoencoder(VqConfig())
        encode, step, decode = Encode(autoencoder), Step(SwinUNet(SwinUNetConfig())), Decode(autoencoder)
    kept = {k: shape for k, shape in unet_shapes.items() if not k.endswith(("attn_mask", "position_index"))}
    assert sum(p.numel() for p in step.parameters()) == parameters_of(kept) == 118_593_583
    both = sum(p.numel() for part in (encode, decode) for p in part.parameters())
    assert both == parameters_of(vae_shapes) == 55_322_782
    for side, wanted in ((64, (172.6, 50.66, 335.3)), (128, (896.6, 202.6, 1547.3))):
        lr, told = torch.empty(1, 3, side, side, device="meta"), torch.empty(1, 160, device="meta")
        for part, arguments, gmacs in zip((encode, step, decode), ((lr,), (lr, told, lr), (lr,)), wanted, strict=True):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                part(*arguments)
            assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, rel=0.02)


@pytest.mark.parametrize("steps", [None, 5])
def test_steps_must_be_said(tmp_path: Path, steps: int | None) -> None:
    files = Files(tmp_path, SHALLOW)
    with pytest.raises(UsageError, match=r"no --steps|--steps 5.*Pass --steps 15 or --steps 4"):
        FAMILY.network(load_checkpoint(files.weights), given(autoencoder=files.autoencoder, steps=steps))
    with pytest.raises(CheckpointError, match=r"--model resshift or --model sinsr"):
        family_of(load_checkpoint(files.weights))


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"precision": "int8"}, "--precision int8"),
        ({"precision": "bf16", "backend": "openvino"}, "--precision bf16"),
        ({"backend": "openvino"}, "--backend openvino"),
        ({"bisect": True}, "--bisect"),
        ({"batches": (1, 2)}, "--batch 1,2"),
    ],
)
def test_what_multi_step_models_cannot_do(tmp_path: Path, change: dict[str, object], option: str) -> None:
    files = files_of(tmp_path, 4)
    request = BuildRequest(model="resshift", weights=files.weights, options=files.options, **change)
    with pytest.raises(UsageError, match=f"several steps.*{option}"):
        build(request, tmp_path / "b", use_cache=False)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [15, 4])
def test_engines_at_true_size(tmp_path: Path, steps: int) -> None:
    """The VAE's attentions have heads of 512 and are never fused."""
    files = Files(tmp_path, TRUE)
    options = {"autoencoder": files.autoencoder, "steps": steps}
    assert_multi_step_at_true_size(
        tmp_path,
        files.weights,
        118_593_583 + 55_322_782,
        {"encode": (1, 0), "step": (18, 18), "decode": (1, 0)},
        options,
        model="resshift",
        tile=64,
    )
