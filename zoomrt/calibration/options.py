"""What a user may choose for an 8-bit build: pictures, number of tiles, method, the quality to keep.

Pure data, imported by the CLI and the cache key, so it must not need torch.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from zoomrt.errors import UsageError, unknown_name
from zoomrt.files import is_folder, sha256_of, walk

METHODS = ("max", "percentile", "entropy", "mse")
"""Names of `calibration.ranges.METHODS`, which need torch."""
DEFAULT_METHODS = {"int8": "mse", "fp8": "max"}
"""FP8 rounds relative to the value, so a narrower range than the maximum gains nothing there."""


@dataclass(frozen=True)
class Calibration:
    """Choices for a build with 8-bit layers.

    pictures : folder with low-resolution pictures like those that will be upscaled; None for the bundled photograph.
    high_resolution : the pictures are targets instead: four times as large, degraded as a camera would (by a seed).
    tiles : crops that ranges are taken from; a quarter as many others, at least two, judge the quality.
    min_psnr_db : PSNR to the FP32 network's result that each of these others must keep, peak = the value range.
    search_minutes : for measuring blocks one by one, if not all layers can be quantised at that quality.
    method : one of METHODS; None for that of `DEFAULT_METHODS`.
    """

    pictures: Path | None = None
    high_resolution: bool = False
    tiles: int = 16
    min_psnr_db: float = 40.0
    search_minutes: float = 10.0
    method: str | None = None

    def check(self) -> None:
        """Raises UsageError for what can never work."""
        if self.method is not None and self.method not in METHODS:
            raise unknown_name("range method", self.method, METHODS)
        if self.high_resolution and self.pictures is None:
            seen, remedy = "--calibration-hr without --calibration", "Name a folder of high-resolution pictures too."
            raise UsageError("there are no high-resolution pictures", seen=seen, needed="their folder", remedy=remedy)
        for option, value, needed, fine in (
            ("--tiles", self.tiles, "1 or more", self.tiles >= 1),
            ("--min-psnr", self.min_psnr_db, "decibels, above 0", 0 < self.min_psnr_db < math.inf),
            ("--search-minutes", self.search_minutes, "minutes, 0 or more", 0 <= self.search_minutes < math.inf),
        ):
            if not fine:
                raise UsageError(f"cannot use {option}", seen=value, needed=needed, remedy=f"Change {option}.")

    @property
    def fingerprint(self) -> dict[str, str]:
        """Equal for equal choices and equal pictures. Raises InputError for a folder that cannot be read."""
        digest = hashlib.sha256()
        folder = self.pictures
        if folder is not None and is_folder(folder):
            for file in walk(folder):
                digest.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode())
        return {name: repr(value) for name, value in asdict(self).items()} | {"pictures": digest.hexdigest()}
