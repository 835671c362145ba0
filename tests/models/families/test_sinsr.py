"""SinSR: two files, the whole inference against the slow reference, start noise in the bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slow_sinsr as slow
import torch
from family_checks import assert_close, assert_engine_at_true_size, bundle_of, run
from published_files import Shapes, parameters_of
from published_resshift import SHALLOW, SMALL, TRUE, Files, unet_layout, vae_layout
from slow_reference import Weights
from torch.utils.flop_counter import FlopCounterMode

import zoomrt
from zoomrt.errors import CheckpointError, UsageError
from zoomrt.export.fp16.prepare import make_fp16_safe
from zoomrt.export.verify.sample_tiles import extreme_tiles, with_noise
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families import family_of
from zoomrt.models.families.sinsr import FAMILY
from zoomrt.models.networks.blocks.swin_unet import ResidualBlock, SwinUNet, SwinUNetConfig, swin_unet_config_of
from zoomrt.models.networks.blocks.vq_autoencoder import Codebook, VqAutoencoder, VqConfig, vq_config_of
from zoomrt.runtime.tiles.noise import noise_at

OUTPUT_TABLE = [(0, 640, 1280), (1, 640, 1280), (2, 640, 960), (3, 320, 960), (4, 320, 640), (5, 320, 640)]
OUTPUT_TABLE += [(6, 320, 640), (7, 320, 640), (8, 320, 480), (9, 160, 480), (10, 160, 320), (11, 160, 320)]


def network_of(files: Files) -> torch.nn.Module:
    return FAMILY.network(load_checkpoint(files.weights), files.options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("sinsr"), SMALL)


def shapes_of(network: torch.nn.Module) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def gmacs(function, *shape: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        function(torch.empty(shape))
    return counter.get_total_flops() / 2e9


def test_unet_at_true_size_is_the_sheets() -> None:
    layout = unet_layout(TRUE)
    kept = {k: shape for k, shape in layout.items() if not k.endswith(("attn_mask", "position_index"))}
    with torch.device("meta"):
        network = SwinUNet(swin_unet_config_of({key: torch.empty(shape) for key, shape in kept.items()}))
    assert network.config == SwinUNetConfig()
    assert shapes_of(network) == kept
    assert parameters_of(kept) == 118_593_583
    table = {f"output_blocks.{i}.0.in_layers.2.weight": (out, wide, 3, 3) for i, out, wide in OUTPUT_TABLE}
    table |= {
        "input_blocks.10.0.in_layers.2.weight": (640, 320, 3, 3),
        "output_blocks.2.1.conv.weight": (640, 640, 3, 3),
    }
    table |= {
        "input_blocks.9.0.op.weight": (320, 320, 3, 3),
        "output_blocks.9.1.patch_embed.proj.weight": (192, 160, 1, 1),
    }
    assert {key: kept[key] for key in table} == table
    network.time_embed = None
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            module.emb_layers = None
    assert gmacs(network, 1, 6, 64, 64) == pytest.approx(50.66, rel=0.02)
    assert gmacs(network, 1, 6, 128, 128) == pytest.approx(202.6, rel=0.02)


def test_autoencoder_at_true_size_is_the_sheets() -> None:
    layout = vae_layout(TRUE)
    with torch.device("meta"):
        network = VqAutoencoder(vq_config_of({key: torch.empty(shape) for key, shape in layout.items()}))
    assert shapes_of(network) == layout
    assert parameters_of(layout) == 55_322_782
    sizes = [parameters_of({k: t for k, t in layout.items() if k.startswith(p)}) for p in ("enc", "dec", "quantize")]
    assert sizes == [22_337_411, 32_960_771, 24_576]
    for side, encode, decode in ((256, 172.6, 335.3), (512, 896.6, 1547.3)):
        assert gmacs(network.encode, 1, 3, side, side) == pytest.approx(encode, rel=0.02)
        assert gmacs(network.decode, 1, 3, side // 4, side // 4) == pytest.approx(decode, rel=0.02)


def test_unet_against_the_slow_reference(files: Files) -> None:
    """Wider than in training: two windows side by side in the coarsest level, which are not shifted even so."""
    x = torch.randn(6, 64, 128)
    wanted = slow.unet(Weights(files.unet), x.double().numpy(), files.scale.heads)
    assert_close(run(network_of(files).unet, x), wanted, 3e-5)


def test_whole_network_against_the_slow_reference(tmp_path: Path) -> None:
    """In two parts, cut at the quantised latent: where two codes are nearly as near, rounding may choose either.

    Norms of random weights make FP32's rounding large, 1.8e-4 of the largest value in one of six networks. So the
    decoder is held to the reference in float64, where rounding hides nothing, and FP32 to what rounding may do.
    """
    files = Files(tmp_path, SMALL)
    network, vae = network_of(files), Weights(files.vae)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    network.autoencoder.quantize.register_forward_hook(
        lambda _module, args, result: seen.append((args[0][0].double().numpy(), result[0].double().numpy()))
    )
    lr, noise = torch.rand(3, 64, 64) * 2 - 1, torch.randn(3, 64, 64)
    got = run(network, torch.cat([lr, noise]))
    ((latent, quantised),) = seen
    pictures = (lr.double().numpy(), noise.double().numpy())
    assert_close(latent, slow.latent_of(Weights(files.unet), vae, *pictures, files.scale.heads), 5e-5)
    nearest = slow.nearest_codes(vae.array("quantize.embedding.weight"), latent)
    distances = [np.linalg.norm(codes - latent, axis=0) for codes in (quantised, nearest)]
    assert (distances[0] - distances[1]).max() <= 1e-5
    assert (quantised == nearest).all(axis=0).mean() > 0.99
    wanted, exact = slow.decode(vae, quantised), network.autoencoder.double()
    with torch.no_grad():
        picture = exact.decoder(exact.post_quant_conv(torch.from_numpy(quantised)[None]))[0]
    assert_close(picture.numpy(), wanted, 1e-10)
    assert_close(got, wanted, 1e-3)


@pytest.mark.parametrize("codes", [1, 512, 513, 1500])
def test_nearest_code_is_exact(codes: int) -> None:
    """Also for FP16 latents, and where a code lies in the last part of the book."""
    book = Codebook(VqConfig(codes=codes))
    table = book.embedding.weight.detach().double().numpy()
    latent = torch.randn(2, 3, 9, 7).half()
    with torch.no_grad():
        got = book(latent)
    assert got.dtype is torch.float16
    wanted = [slow.nearest_codes(table, item) for item in latent.double().numpy()]
    np.testing.assert_array_equal(got.numpy(), np.stack(wanted).astype(np.float32).astype(np.float16))
    with torch.no_grad():  # a code is its own nearest
        torch.testing.assert_close(book(book.embedding.weight.T[None, :, :, None])[0, :, :, 0].T, book.embedding.weight)


def test_bundle_with_start_noise(tmp_path: Path, rng: np.random.Generator) -> None:
    """Two levels only: exporting four takes a minute. Weights are the same in every run: of random ones, one in many
    has two codes so near each other that torch and ONNX Runtime choose differently, and the build is refused."""
    torch.manual_seed(1)
    files = Files(tmp_path, SHALLOW)
    manifest = bundle_of(tmp_path / "b", files.weights, files.options, model="sinsr", tile=64, overlap=16)
    assert (manifest.family, manifest.tile.scale, manifest.tile.channels) == ("sinsr", 4, 6)
    assert manifest.tile.noise is not None
    assert manifest.tile.noise.seed == 12345
    operators = manifest.parity["1"].operators
    assert operators["Attention"] == 5 * 2 + 2
    assert not {"Sin", "Cos"} & operators.keys()  # the timestep is folded
    network = network_of(files)
    frame = rng.uniform(0, 1, (64, 64, 3)).astype(np.float32)
    with zoomrt.load(tmp_path / "b") as upscaler:
        got = upscaler(frame)
        np.testing.assert_array_equal(got, upscaler(frame))
        assert upscaler(frame[:5, :40]).shape == (20, 160, 3)
    noise = noise_at(manifest.tile.noise, 0, 0, 64, 64)
    lr = torch.from_numpy(np.concatenate([frame.transpose(2, 0, 1) * 2 - 1, noise]))
    wanted = (run(network, lr).transpose(1, 2, 0) + 1) / 2
    agree = np.abs(got - wanted.clip(0, 1)).max(axis=2) < 1e-3
    assert agree.mean() > 0.97  # the rest lies around pixels where two codes were nearly as near


def test_fp16_is_proved_with_the_codes_of_fp32(tmp_path: Path) -> None:
    """Before the codebook and, with the same codes, after it; no allowance."""
    network = network_of(Files(tmp_path, SHALLOW))
    pictures = extreme_tiles(64, (-1.0, 1.0), 7)
    tiles = {name: with_noise(pictures[name], FAMILY.noise) for name in ("photograph", "black")}
    results = make_fp16_safe(network, tiles, (-1.0, 1.0)).results
    assert [result.probe for result in results] == ["photograph, black, before a choice", "photograph", "black"]
    assert all(result.psnr_db >= 45 for result in results)


def test_not_told_from_resshift_by_keys(files: Files) -> None:
    checkpoint = load_checkpoint(files.weights)
    assert FAMILY.recognises(checkpoint)
    assert not FAMILY.recognises(load_checkpoint(files.autoencoder))
    with pytest.raises(CheckpointError, match=r"several models.*resshift and sinsr.*--model resshift or --model sinsr"):
        family_of(checkpoint)


def test_without_the_autoencoder_or_with_a_wrong_one(tmp_path: Path, files: Files) -> None:
    checkpoint = load_checkpoint(files.weights)
    with pytest.raises(UsageError, match=r"sinsr needs --autoencoder.*autoencoder_vq_f4\.pth"):
        FAMILY.network(checkpoint)
    with pytest.raises(CheckpointError, match=r"not a checkpoint of the VQ autoencoder.*ResShift/releases"):
        FAMILY.network(checkpoint, {"autoencoder": files.weights})
    with pytest.raises(CheckpointError, match=r"not a checkpoint of sinsr.*SinSR_v2"):
        FAMILY.network(load_checkpoint(files.autoencoder), files.options)
    torch.save({k: t for k, t in files.vae.items() if k != "quant_conv.bias"}, tmp_path / "v.pth")
    with pytest.raises(CheckpointError, match=r"1 missing: quant_conv\.bias"):
        FAMILY.network(checkpoint, {"autoencoder": tmp_path / "v.pth"})


@pytest.mark.slow
def test_engine_at_true_size(tmp_path: Path) -> None:
    """The VAE's attentions have heads of 512 and are never fused."""
    files = Files(tmp_path, TRUE)
    time = parameters_of({k: s for k, s in unet_layout(TRUE).items() if "time_embed" in k or "emb_layers" in k})
    parameters = 118_593_583 - time + 55_322_782
    assert_engine_at_true_size(
        tmp_path, files.weights, parameters, tile=64, options=files.options, attentions=20, fused=18, model="sinsr"
    )
