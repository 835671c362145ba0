"""Peak memory of the search for the nearest of 8192 codes, for a 512 x 512 picture: as it is built, and with all
distances at once.

python -m benchmarks.code_search     writes benchmarks/results/code_search.json

Each graph runs in ONNX Runtime in a process of its own, on one thread; the peak is over what that process took before
the run. Both have to find the same codes.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._record import record
from zoomrt.export.graph.to_onnx import export_named
from zoomrt.export.targets import TARGETS
from zoomrt.models.networks.blocks.vq_autoencoder import CODES_AT_ONCE, Codebook, VqConfig
from zoomrt.runtime.sessions.common.onnxruntime_graph import OnnxRuntimeGraph

SIDE = 128  # latent pixels of a 512 x 512 picture


class AllAtOnce(nn.Module):
    def __init__(self, book: Codebook) -> None:
        super().__init__()
        self.embedding = book.embedding

    def forward(self, z: Tensor) -> Tensor:
        codes = self.embedding.weight
        nearest = F.linear(z.permute(0, 2, 3, 1), codes, codes.square().sum(1) / -2).argmax(dim=-1)
        return F.embedding(nearest, codes).permute(0, 3, 1, 2)


def kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))
    return found


def child(path: Path, latent: NDArray[np.float32], answers: Connection) -> None:
    graph = OnnxRuntimeGraph(path, 1)
    before = kilobytes("VmRSS")
    codes = graph({"z": latent})["codes"]
    answers.send((round((kilobytes("VmHWM") - before) / 1000), codes))


def main() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    book = Codebook(VqConfig())
    latent = torch.randn(1, 3, SIDE, SIDE).numpy()
    found: dict[str, object] = {"latent": SIDE, "codes": len(book.embedding.weight), "codes_at_once": CODES_AT_ONCE}
    results = []
    with tempfile.TemporaryDirectory() as name:
        for what, network in (("as_built", book), ("all_at_once", AllAtOnce(book))):
            path = Path(name) / f"{what}.onnx"
            export_named(
                network.eval(),
                path,
                {"z": latent.shape},
                ("codes",),
                half=False,
                opset=TARGETS["cpu"].opset,
                group_norm="instance",
            )
            context = multiprocessing.get_context("spawn")
            answers, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=child, args=(path, latent, theirs))
            worker.start()
            peak, codes = answers.recv()
            worker.join()
            found[f"{what}_peak_mb"] = peak
            results.append(codes)
    found["pixels_with_another_code"] = int((results[0] != results[1]).any(axis=1).sum())
    print(json.dumps(found))
    print("recorded in", record("code_search", found, "torch", "onnxruntime"))


if __name__ == "__main__":
    main()
