"""Names that went out of use still work, say what to write instead, and go when their version comes."""

from __future__ import annotations

import re

import click
import numpy as np
import pytest
from runtime_helpers import facts, write_bundle

import zoomrt
from zoomrt import CameraFrame
from zoomrt._deprecated import REMOVED_IN, deprecated, renamed_arguments
from zoomrt.cli._common import renamed_option
from zoomrt.cli.upscale import cli as upscale
from zoomrt.cli.zoom import cli as zoom


def version(text: str) -> tuple[int, int]:
    major, minor = re.match(r"(\d+)\.(\d+)", text).groups()
    return int(major), int(minor)


@pytest.mark.parametrize("old", sorted(REMOVED_IN))
def test_none_outlives_its_version(old: str) -> None:
    """Fails with the change of the version: delete the old name then, and its row."""
    assert version(zoomrt.__version__) < version(REMOVED_IN[old]), f"delete {old}"


def test_an_argument_by_its_old_name() -> None:
    @renamed_arguments("load", smaller="fallback")
    def load(bundle: str, *, fallback: str = "") -> str:
        return bundle + fallback

    with pytest.warns(DeprecationWarning, match=r"load\(smaller=\) will be removed in zoomrt 0\.3: use fallback="):
        assert load("a", smaller="b") == "ab"
    assert load("a", fallback="b") == "ab"
    with pytest.raises(TypeError, match="both 'fallback' and 'smaller'"):
        load("a", smaller="b", fallback="c")
    with pytest.raises(TypeError, match="unexpected"):
        load("a", other="b")


def test_load_and_zoom(tmp_path) -> None:
    bundle = write_bundle(tmp_path / "b", facts(), 1)
    with pytest.warns(DeprecationWarning, match="fallback="), pytest.raises(zoomrt.ZoomrtError, match="stand in"):
        zoomrt.load(bundle, smaller=bundle)
    frame = np.zeros((40, 40, 3), np.uint8)
    with zoomrt.ZoomSession(bundle, (20, 20), threads=1) as session:
        for call in (session.process, session.bicubic, session.submit):
            with pytest.warns(DeprecationWarning, match=r"center=.*use centre="):
                call(frame, 2.0, center=(0.25, 0.25))
    with pytest.warns(DeprecationWarning, match=r"CameraFrame\.shape"):
        assert CameraFrame((np.zeros((4, 6, 3), np.uint8),)).size == (4, 6)


def test_an_option_by_its_old_name(capfd: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.option("--centre", default="0.5,0.5")
    @renamed_option("trt-zoom", "--center", "--centre")
    def cli(centre: str) -> None:
        click.echo(centre)

    for words, centre in (
        ([], "0.5,0.5"),
        (["--center", "0.1,0.2"], "0.1,0.2"),
        (["--center", "0.1,0.2", "--centre", "1,1"], "1,1"),
    ):
        assert cli.main(words, standalone_mode=False) is None
        out, err = capfd.readouterr()
        assert out.strip() == centre
        assert (f"warning: {deprecated('trt-zoom --center', '--centre')}" in err) == bool(words)
    for command, option in ((upscale, "--smaller"), (zoom, "--center")):
        (found,) = [one for one in command.params if option in one.opts]
        assert found.hidden
