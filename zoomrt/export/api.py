"""`zoomrt.build`: what `trt-build` does, as a function with the same words."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from zoomrt.bundle import Bundle
from zoomrt.calibration.options import Calibration
from zoomrt.errors import ZoomrtError
from zoomrt.export.build import build as build_request
from zoomrt.export.request import BuildRequest, Progress
from zoomrt.models.families import options_of
from zoomrt.models.options import File, given

StrPath = str | os.PathLike[str]


def build(
    output: StrPath | None = None,
    *,
    model: str | None = None,
    weights: StrPath | None = None,
    precision: str = "fp32",
    target: str = "cpu",
    tile: int | None = None,
    overlap: int | None = None,
    batch: int | Sequence[int] = 1,
    backend: str | None = None,
    attention_plugin: bool = False,
    require_faster: bool = False,
    colour: str | None = None,
    calibration: StrPath | None = None,
    calibration_hr: bool = False,
    tiles: int | None = None,
    method: str | None = None,
    min_psnr: float | None = None,
    search_minutes: float | None = None,
    timeout: float = 30.0,
    max_memory: int | None = None,
    bisect: bool = False,
    cache: bool = True,
    on_progress: Progress | None = None,
    **options: object,
) -> Bundle:
    """Build a bundle, which `load` can run, and return it opened. Needs zoomrt[export].

    The parameters are the options of `trt-build`, of the same names; `trt-build --help` says more of each.

    Parameters
    ----------
    output
        Folder of the bundle; (model or name of the weights)-precision-target if None. An older bundle there is replaced
        by a whole new one or not at all.
    model
        A family's name; None tells it by the weights, or takes `edge`, whose weights are inside the package.
    weights
        The checkpoint's file.
    precision
        `fp32`, `fp16`, `bf16`, `int8`, `int8-all` or `fp8`.
    target
        `cpu`, `cuda`, or a GPU such as `sm89`.
    tile
        Tile side in input pixels; None is what the family advises.
    overlap
        Input pixels that neighbouring tiles share; None is what the family advises.
    batch
        Tiles per engine call, ascending from 1.
    backend
        What runs it, where there is a choice; None takes the fastest that passes parity.
    attention_plugin
        Build our attention kernel into the engine, where the backend takes plugins.
    require_faster
        Refuse fewer bits that are not faster than FP32.
    colour
        `none`, `adain` or `wavelet`, in place of the family's own colour step.
    calibration
        For 8-bit layers: a folder of pictures to take ranges from.
    calibration_hr
        They are high-resolution targets: degrade them first.
    tiles
        How many tiles to take ranges from; 16 if None.
    method
        How ranges are chosen: `mse`, `max`, `percentile` or `entropy`.
    min_psnr
        Decibels to FP32 that each tile keeps; 40 if None.
    search_minutes
        To find what can be quantised; 10 if None.
    timeout
        Minutes for one engine.
    max_memory
        Bytes; a build that is expected to take more is refused.
    bisect
        Where a graph differs from the network, find the node at fault.
    cache
        Whether the same request that was built before is copied, and this one kept.
    on_progress
        Called with (stage, fraction of it done).
    **options
        Those of the model family, such as `steps=4`.

    Raises
    ------
    ZoomrtError
        Any but those of running. Messages name these parameters.
    """
    batches = (batch,) if isinstance(batch, int) else tuple(batch)
    eight_bit = given(
        pictures=None if calibration is None else Path(calibration),
        high_resolution=calibration_hr or None,
        tiles=tiles,
        method=method,
        min_psnr_db=min_psnr,
        search_minutes=search_minutes,
    )
    request = BuildRequest(
        model=model,
        weights=None if weights is None else Path(weights),
        precision=precision,
        target=target,
        tile=tile,
        overlap=overlap,
        batches=batches,
        backend=backend,
        timeout_s=timeout * 60,
        max_memory=max_memory,
        options=_with_paths(options),
        colour=colour,
        bisect=bisect,
        calibration=Calibration(**eight_bit) if eight_bit else None,  # type: ignore[arg-type]
        require_faster=require_faster,
        attention_plugin=attention_plugin,
    )
    folder = request.default_output if output is None else Path(output)
    try:
        return build_request(request, folder, use_cache=cache, on_progress=on_progress).bundle
    except ZoomrtError as problem:
        raise _in_keywords(problem) from problem.__cause__


def _with_paths(options: dict[str, object]) -> dict[str, object]:
    """Text is a path where an option names a file."""
    files = {option.key for option in options_of(None) if isinstance(option.kind, File)}
    return {
        key: Path(value) if key in files and isinstance(value, (str, os.PathLike)) else value
        for key, value in options.items()
        if value is not None
    }


def _in_keywords(problem: ZoomrtError) -> ZoomrtError:
    """The same error with the names of keywords where it has those of command-line options."""
    names = {*build.__annotations__, *(option.key for option in options_of(None))}

    def keyword(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return name if name in names else found[0]

    what, seen, needed, remedy = (
        re.sub(r"--([a-z][a-z-]*)", keyword, text).replace(" with -o", " with output")
        for text in (problem.what, problem.seen, problem.needed, problem.remedy)
    )
    return type(problem)(what, seen=seen, needed=needed, remedy=remedy)
