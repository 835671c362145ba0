"""A model family from outside of the package: listed, built, run, benched and doctored with no line of zoomrt changed.

It comes as an installed package would, from `tests/helpers/toys`: modules, and an entry point that names its record.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import zoomrt
from zoomrt import registry
from zoomrt.bench import roofline
from zoomrt.bench.record import read_record
from zoomrt.bundle import open_bundle
from zoomrt.cli import bench, build, doctor
from zoomrt.cli._common import run
from zoomrt.errors import MissingDependency
from zoomrt.export import cache
from zoomrt.export.build import build as zoomrt_build
from zoomrt.export.request import BuildRequest
from zoomrt.models.families import FAMILIES, outside_code


@pytest.fixture
def weights(toys: Path, tmp_path: Path) -> Path:  # noqa: ARG001
    """The toy is installed, and this is a file of it."""
    save_file({"toy.weight": 0.1 * torch.randn(12, 3, 3, 3)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package that brings a family `another` from a module `another`, which is to be written."""
    facts = tmp_path / "site" / "another-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[zoomrt.families]\nanother = another:FAMILY\n")
    monkeypatch.syspath_prepend(facts.parent)
    registry.entry_points_of.cache_clear()
    yield facts.parent
    registry.entry_points_of.cache_clear()
    sys.modules.pop("another", None)


def test_it_is_listed_and_has_its_own_help(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "toy" in FAMILIES.names()
    assert run(build.cli, ["--list"]) == 0
    assert "toy tiny x2 0.0 M 0.1 1 CC0 made in a test" in " ".join(capfd.readouterr().out.split())
    assert run(build.cli, ["--model", "toy", "--help"]) == 0
    assert "--gain" in (told := capfd.readouterr().out)
    assert "What the residual is multiplied with; 1 if left out" in " ".join(told.split())
    for words, said in (
        (["--model", "edge", "--gain", "1"], "--gain is of --model toy"),
        (["--model", "toy", "--gain", "5"], "need a number from 0 to 4"),
    ):
        assert run(build.cli, [*words, "--weights", str(weights)]) == 2
        assert said in capfd.readouterr().err


def test_it_is_built_and_run_and_benched_and_doctored(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], rng: np.random.Generator, monkeypatch
) -> None:
    bundle = tmp_path / "b"
    # the keys tell the model
    assert (
        run(build.cli, ["--weights", str(weights), "--gain", "0.5", "--backend", "onnxruntime", "-o", str(bundle)]) == 0
    )
    manifest = open_bundle(bundle).manifest
    assert (manifest.family, manifest.tile.scale, manifest.weights.options) == ("toy", 2, {"gain": "0.5"})

    frame = rng.integers(0, 256, (40, 31, 3), np.uint8)
    with zoomrt.load(bundle) as upscaler:
        got = upscaler(frame).astype(np.float64)
    lr = torch.from_numpy(frame).permute(2, 0, 1)[None].double() / 255
    kernel = load_file(weights)["toy.weight"].double()
    wanted = F.interpolate(lr, scale_factor=2.0, mode="nearest")
    wanted += 0.5 * F.pixel_shuffle(F.conv2d(lr, kernel, padding=1), 2)
    inside = (slice(4, -4), slice(4, -4))  # the frame's border is repeated, the network's is zero
    difference = np.abs(got - 255 * wanted[0].permute(1, 2, 0).clamp(0, 1).numpy())[inside]
    assert difference.max() <= 0.51

    monkeypatch.setattr(roofline, "_SIDE", 64)
    monkeypatch.setattr(roofline, "_COPY_BYTES", 1 << 20)
    words = ["--peers", "torch", "--weights", str(weights), "--gain", "0.5", "--repeats", "1", "--seconds", "0"]
    assert run(bench.cli, [str(bundle), *words, "--json", str(tmp_path / "r.json"), "-q"]) == 0
    engine, peer = read_record(tmp_path / "r.json").rows
    assert (engine.name, peer.name, peer.failed) == ("zoomrt", "torch", None)
    assert min(engine.psnr_db or 0, peer.psnr_db or 0) > 80

    capfd.readouterr()
    assert run(doctor.cli, [str(bundle)]) == 0
    assert "toy fp32" in capfd.readouterr().out


def test_its_code_counts_for_the_cache(site: Path, tiny_edge_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As zoomrt's own does; where the keys are to tell the model, any family's may be what is built."""
    keys = []

    def record(key: str) -> None:
        keys.append(key)
        raise KeyboardInterrupt  # far enough

    monkeypatch.setattr(cache, "fetch", record)
    written = "from dataclasses import replace; from zoomrt.models.families import FAMILIES\n"
    written += "FAMILY = replace(FAMILIES.named('edge'), name='another', module='another')\n"
    for model, addition in (("another", ""), (None, ""), ("edge", ""), ("another", "#"), (None, "##"), ("edge", "###")):
        (site / "another.py").write_text(written + addition)
        with pytest.raises(KeyboardInterrupt):
            zoomrt_build(BuildRequest(model=model, weights=tiny_edge_weights), site.parent / "b")
    assert keys[0] != keys[3]
    assert keys[1] != keys[4]
    assert keys[2] == keys[5]


def test_its_own_weights_count_for_the_cache(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    with FAMILIES.added(replace(FAMILIES.named("edge"), name="other", embedded_weights=weights)):
        codes = []
        for content in (b"one", b"two"):
            weights.write_bytes(content)
            codes.append(outside_code(FAMILIES.named("other")))
    assert codes[0] != codes[1]


def test_by_hand() -> None:
    before = FAMILIES.outside()
    other = replace(FAMILIES.named("edge"), name="other")
    with FAMILIES.added(other):
        assert FAMILIES.named("other") is other
        assert FAMILIES.outside() == (*before, other)
    assert "other" not in FAMILIES.names()
    assert FAMILIES.outside() == before


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("", "no attribute 'FAMILY'"),
        ("FAMILY = 1", "no attribute 'name'"),
        ("FAMILY = dict(**{1: 2})", "TypeError"),
        ("FAMILY = (", "SyntaxError"),
        ("import types; FAMILY = types.SimpleNamespace(name='other')", "its name is 'other'"),
    ],
    ids=["import", "no record", "number", "type", "syntax", "name"],
)
def test_a_package_that_is_broken(site: Path, record: str, said: str) -> None:
    """It is named, so that it can be mended; what else is there is not quietly used without it."""
    (site / "another.py").write_text(record)
    with pytest.raises(MissingDependency, match=rf"the model another of an installed.*{said}.*another:FAMILY. Upd"):
        FAMILIES.records()
