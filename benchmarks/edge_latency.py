"""`edge` on one 128x128 tile: ONNX Runtime against torch eager and torch.compile, interleaved, with parity.

python -m benchmarks.edge_latency [--threads 2] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks._record import record, summary
from zoomrt.export.checkpoint import load_checkpoint
from zoomrt.export.families.edge import FAMILY
from zoomrt.export.graph import export_graph
from zoomrt.export.pipeline import BuildRequest, build
from zoomrt.export.probes import photograph_tile

SETTLE_S = 0.2
"""Pause before each run: worker threads of the library that ran before spin on for a while and would take a core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads

    assert FAMILY.facts.embedded_weights is not None
    network = FAMILY.network(load_checkpoint(FAMILY.facts.embedded_weights))
    lr = photograph_tile(128, 128, FAMILY.facts.value_range)
    tensor = torch.from_numpy(lr)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = build(BuildRequest(tile=128), Path(scratch) / "edge", use_cache=False)
        graph = bundle.path / bundle.manifest.graphs["1"]
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        kept = Path(scratch) / "group_norm.onnx"  # what the cpu target would run if GroupNormalization stayed one node
        export_graph(network, kept, shape=(1, 3, 128, 128), half=False, opset=23)
        with_group_norm = onnxruntime.InferenceSession(str(kept), options, providers=["CPUExecutionProvider"])
    compiled = torch.compile(network)

    def eager(module: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return module(tensor).numpy()

    runners: dict[str, Callable[[], np.ndarray]] = {
        "onnxruntime": lambda: session.run(None, {"lr": lr})[0],
        "onnxruntime_group_norm": lambda: with_group_norm.run(None, {"lr": lr})[0],
        "torch_eager": lambda: eager(network),
        "torch_compile": lambda: eager(compiled),
    }
    outputs = {name: [run() for _ in range(3)][-1] for name, run in runners.items()}  # warm-up and compilation
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(arguments.rounds):
        for name, run in runners.items():
            time.sleep(SETTLE_S)
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    figures: dict[str, object] = {"input": "1x3x128x128 -> 1x3x512x512, float32", "threads": arguments.threads}
    base = np.array(seconds["onnxruntime"])
    for name in runners:
        row: dict[str, object] = dict(summary(seconds[name]))
        row["ratio_to_onnxruntime"] = round(float(np.median(np.array(seconds[name]) / base)), 3)
        row["max_abs_difference_to_eager"] = float(np.abs(outputs[name] - outputs["torch_eager"]).max())
        figures[name] = row
    print(json.dumps(figures, indent=2))
    print("recorded in", record("edge_latency", figures, "torch", "onnxruntime", "onnx"))


if __name__ == "__main__":
    main()
