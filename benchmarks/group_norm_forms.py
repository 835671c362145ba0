"""`edge` on one 128x128 tile with GroupNorm in each of its forms, in each engine for the CPU that computes in floating
point: in turns, with PSNR to torch. Why the CPU target writes `moments` (`zoomrt/export/graph/group_norm.py`).

python -m benchmarks.group_norm_forms [--rounds 15]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import get_args

import torch

from benchmarks._record import record, summary
from benchmarks.cpu_engines import ENGINES, SIDE, Run, network_of, tile_facts, timed, torch_run
from zoomrt.export.engines.cpu import Graphs
from zoomrt.export.graph.group_norm import GroupNormForm
from zoomrt.export.graph.to_onnx import export_graph
from zoomrt.export.verify.parity import compare
from zoomrt.export.verify.sample_tiles import photograph_tile
from zoomrt.runtime.resources import core_count

FORMS: tuple[GroupNormForm, ...] = get_args(GroupNormForm)
FLOATING = ("onnxruntime fp32", "openvino fp32", "openvino bf16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(core_count())
    tile = tile_facts("edge")
    lr, peak = photograph_tile(SIDE, SIDE, tile.value_range), tile.value_range[1] - tile.value_range[0]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        network = network_of("edge", Path(name))
        wanted = torch_run(network, lr)()
        runs: dict[tuple[str, str], Run] = {}
        for form in FORMS:
            folder = Path(name) / form
            folder.mkdir()
            export_graph(network, folder / "graph.onnx", shape=lr.shape, half=False, opset=23, group_norm=form)
            graphs = Graphs(folder, {1: "graph.onnx"}, "fp32", tile)
            for engine in FLOATING:
                session = stack.enter_context(graphs.load(ENGINES[engine][1], 1))
                runs[engine, form] = lambda session=session: session.run(lr)
        psnr = {
            key: compare(wanted, run().copy(), "photograph", key[0], peak, 0.0).psnr_db for key, run in runs.items()
        }
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for _ in range(rounds):
            for key, run in runs.items():
                seconds[key].append(timed(run))
    rows = []
    for (engine, form), taken in seconds.items():
        pairs = zip(taken, seconds[engine, "moments"], strict=True)
        ratio = round(statistics.median(one / other for one, other in pairs), 3)
        rows.append({"engine": engine, "form": form, **summary(taken), "time_over_moments": ratio,
                     "psnr_db": round(psnr[engine, form], 1)})  # fmt: skip
        print(rows[-1], flush=True)
    figures = {"tile": f"{SIDE}x{SIDE}", "threads": core_count(), "rows": rows}
    print("recorded in", record("group_norm_forms", figures, "torch", "onnxruntime", "openvino", "onnx"))


if __name__ == "__main__":
    main()
