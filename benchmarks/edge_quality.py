"""The shipped `edge` weights against PIL bicubic on the held-out camera pairs and photographs.

python -m benchmarks.edge_quality --pairs ../shared/data/drealsr [--sheet OUT.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks._record import record
from training.evaluate_edge import contact_sheet, evaluate, held_out
from zoomrt.models.checkpoint import load_checkpoint
from zoomrt.models.families.edge import FAMILY


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True, help="folder with lr/ and hr/ (DRealSR test crops)")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of bicubic | edge | truth here")
    arguments = parser.parse_args()
    assert FAMILY.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.embedded_weights))
    sets = held_out(arguments.pairs)
    figures: dict[str, object] = dict(evaluate(network, sets))
    print(json.dumps(figures, indent=2))
    print("recorded in", record("edge_quality", figures, "torch", "scikit-image", "pillow"))
    if arguments.sheet:
        contact_sheet(network, sets["photographs_bicubic_x4_down"] + sets["camera_pairs"][:5]).save(arguments.sheet)


if __name__ == "__main__":
    main()
