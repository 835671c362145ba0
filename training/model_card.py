"""Writes the model card beside the shipped weights from what the training run recorded.

python -m training.model_card --work /tmp/edge
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from training.data import HELD_OUT_PAIRS, HELD_OUT_PHOTOGRAPHS, PHOTOGRAPHS
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY

CARD = """\
# edge: model card

A one-step x4 super-resolution student: GroupNorm + SiLU residual blocks at three resolutions, self-attention at the
coarsest, one fixed timestep, a residual on the bicubic picture. {parameters:,} parameters, stored as FP16.
Written by `training/model_card.py` from the training run's own record; no figure is typed by hand.

## Data

* Camera zoom pairs: DRealSR test crops (`lr/` 128x128, `hr/` 512x512), {pairs} for training. Held out: {held_pairs}.
* Photographs that ship inside scikit-image: {photographs}. Held out: {held_photographs}.
* The camera HR pictures and the photographs are shrunk by a random real-world degradation (blur, resize, noise, JPEG)
  or by plain bicubic; `training/data.py` holds every number.

## Licence

{licence}.
DRealSR is distributed for research; weights derived from it are shipped here for research and evaluation. Train your
own on your own pictures for anything else: the recipe needs no other data format than two folders of PNGs.

## Command

    python -m training.train_edge --pairs ../shared/data/drealsr --work WORK

Time: {minutes} minutes on {threads} CPU threads beside other work (BF16 autocast), {steps} steps, torch {torch}.
Seed: {seed}. The run was stopped and resumed, and its recipe grew on the way (structure term from step 1250,
settling from 5000); the recipe below is what was carried out from step 0, but it was not run again in one go. The time
leaves out about a hundred steps that were tried and thrown away. Batches depend on seed and step alone.
Recipe: {recipe}

## Figures

PSNR / SSIM (scikit-image's default 7x7 window) / SSIM (11-tap Gaussian window) on Y, 4-pixel border cropped, against
PIL bicubic, whole picture in one pass, from the FP16 weights. The held-out camera pairs were looked at while choosing
how to end the training (learning on, settling, averaging), so their figures are a little optimistic; they were never
trained on. Training and those choices watched the Gaussian window; the 7x7 window was added when the weights stood.
`python -m benchmarks.edge_quality --pairs ../shared/data/drealsr` prints them again.

| held-out set | pictures | bicubic | edge | gain |
|---|---|---|---|---|
{rows}

## Limits

Trained for fidelity (L1 and SSIM), not for invented texture: it sharpens and cleans, and leaves unknown detail smooth.
Scale 4 only. Small text and heavy compression stay hard. Colours are the input's.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="the finished training folder")
    work = parser.parse_args().work
    report = json.loads((work / "edge.json").read_text())
    rows = []
    for name, f in report["figures"].items():
        cells = [
            f"{f[f'{who}_psnr_db']:{sign}.2f} dB / {f[f'{who}_ssim']:{sign}.4f} / {f[f'{who}_ssim_gaussian']:{sign}.4f}"
            for who, sign in (("bicubic", ""), ("edge", ""), ("gain", "+"))
        ]
        rows.append(f"| {name.replace('_', ' ')} | {f['count']:.0f} | {' | '.join(cells)} |")
    weights = FAMILY.embedded_weights
    assert weights is not None
    shutil.copyfile(work / "edge.safetensors", weights)
    weights.chmod(0o644)
    network = FAMILY.network(load_checkpoint(weights))
    card = CARD.format(
        parameters=sum(p.numel() for p in network.parameters()),
        pairs=93 - len(HELD_OUT_PAIRS),
        held_pairs=", ".join(HELD_OUT_PAIRS),
        photographs=", ".join(PHOTOGRAPHS),
        held_photographs=", ".join(HELD_OUT_PHOTOGRAPHS),
        licence=FAMILY.weights_licence[0].upper() + FAMILY.weights_licence[1:],
        minutes=report["minutes"],
        threads=report["threads"],
        steps=report["recipe"]["steps"],
        torch=report["torch"],
        seed=report["recipe"]["seed"],
        recipe=", ".join(f"{key} {value}" for key, value in report["recipe"].items()),
        rows="\n".join(rows),
    )
    weights.with_suffix(".md").write_text(card)


if __name__ == "__main__":
    main()
