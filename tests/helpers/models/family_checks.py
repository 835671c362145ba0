"""What the tests of every family ask: parameters and multiply-adds without memory, parity, bundles, tiles."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from seeds import rng_for
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import zoomrt
from zoomrt.bundle import Manifest, open_bundle
from zoomrt.export.build import build
from zoomrt.export.request import BuildRequest
from zoomrt.models.options import Values


def parameters_and_gmacs(network: nn.Module, channels: int, side: int) -> tuple[int, float]:
    """Of a network on the meta device, for one input of `side` x `side`."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, channels, side, side, device="meta"))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() / 2e9


def assert_close(got: NDArray[np.float64], wanted: NDArray[np.float64], tolerance: float) -> None:
    """tolerance : worst difference as a share of the largest value."""
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def run(network: nn.Module, lr: torch.Tensor) -> NDArray[np.float64]:
    """One picture (C, h, w) through the network, as float64."""
    with torch.no_grad():
        return network(lr[None])[0].double().numpy()


def bundle_of(folder: Path, weights: Path, options: Values | None = None, **request: object) -> Manifest:
    """Build an FP32 bundle for the CPU and open it. Its graphs pad as every engine does it right."""
    build(BuildRequest(weights=weights, options=options or {}, **request), folder, use_cache=False)  # type: ignore[arg-type]
    manifest = open_bundle(folder).manifest
    assert not any(edge_pads(folder / name) for name in manifest.graphs.values())
    return manifest


def edge_pads(graph: Path) -> list[str]:
    """Names of the nodes that pad by repeating the edge, which Qualcomm's NPU takes for zeros."""
    model = onnx.load(str(graph), load_external_data=False)
    edge = onnx.helper.make_attribute("mode", "edge")
    return [node.name for node in model.graph.node if node.op_type == "Pad" and edge in node.attribute]


def assert_tiles_equal_one_pass(
    folder: Path, network: nn.Module, height: int, width: int, tolerance: float = 1e-4
) -> None:
    """A float frame of several tiles through the bundle, against the whole frame through the network.

    For networks that see no farther than the bundle's context, and values within [0, 1] after clipping.
    """
    frame = rng_for("assert_tiles_equal_one_pass").uniform(0, 1, (height, width, 3)).astype(np.float32)
    with zoomrt.load(folder) as upscaler:
        got = upscaler(frame)
    wanted = run(network, torch.from_numpy(frame).permute(2, 0, 1)).clip(0, 1).transpose(1, 2, 0)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=tolerance)


def assert_engine_at_true_size(
    folder: Path,
    weights: Path,
    parameters: int,
    tile: int,
    options: Values | None = None,
    attentions: int = 0,
    fused: int | None = None,
    model: str | None = None,
) -> None:
    """Slow: the FP32 bundle for the CPU and the FP16 TensorRT-RTX engine for SM89, both of the whole network.

    attentions : Attention nodes in the graph. fused : how many of them are one kernel; None for all.
    """
    pytest.importorskip("tensorrt_rtx")
    manifest = bundle_of(folder / "cpu", weights, options, tile=tile, model=model)
    say_peak(f"{manifest.family} fp32 cpu")
    assert manifest.weights.parameters == parameters
    request = BuildRequest(
        model=model, weights=weights, options=options or {}, tile=tile, precision="fp16", target="sm89"
    )
    build(request, folder / "sm89", use_cache=False)
    manifest = open_bundle(folder / "sm89").manifest
    say_peak(f"{manifest.family} fp16 sm89")
    report = manifest.engine_report["1"]
    assert report.sms == ("SM89",)
    assert report.attentions_expected == attentions
    assert report.attentions_fused == (attentions if fused is None else fused)
    assert manifest.parity["1"].operators.get("Attention", 0) == attentions


def assert_multi_step_at_true_size(
    folder: Path,
    weights: Path,
    parameters: int,
    attentions: dict[str, tuple[int, int]],
    options: Values | None = None,
    **request: object,
) -> None:
    """Slow: as `assert_engine_at_true_size`, for the parts of a multi-step model, and one tile through the CPU bundle.

    attentions : part -> Attention nodes, and how many of them are one kernel.
    """
    pytest.importorskip("tensorrt_rtx")
    manifest = bundle_of(folder / "cpu", weights, options, **request)
    say_peak(f"{manifest.family} fp32 cpu")
    assert manifest.weights.parameters == parameters
    tile = manifest.tile
    frame = rng_for("assert_multi_step_at_true_size").integers(0, 256, (tile.height, tile.width, 3), np.uint8)
    with zoomrt.load(folder / "cpu") as upscaler:
        assert np.ptp(upscaler(frame)) > 0
        assert upscaler.evaluations == (manifest.steps,)
    build(
        BuildRequest(weights=weights, options=options or {}, precision="fp16", target="sm89", **request),  # type: ignore[arg-type]
        folder / "sm89",
        use_cache=False,
    )
    manifest = open_bundle(folder / "sm89").manifest
    say_peak(f"{manifest.family} fp16 sm89")
    assert set(manifest.engines) == set(manifest.graphs) - {"policy"}
    for part, report in manifest.engine_report.items():
        assert report.sms == ("SM89",)
        assert (report.attentions_expected, report.attentions_fused) == attentions.get(part, (0, 0))


def say_peak(what: str) -> None:
    """Print what this process and its largest child took at most so far; `pytest -s` shows it."""
    own, child = (resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"\n{what}: peak {own:.2f} GB, compiler {child:.2f} GB")
