"""The bundle: a directory with a manifest, graphs and engines. The only thing that ships, and the contract between
export, which writes it, and runtime, which reads it."""

from zoomrt.bundle.folder import MANIFEST, Bundle, check_output, open_bundle, unfinished, writing_bundle
from zoomrt.bundle.kernel_file import KernelFile
from zoomrt.bundle.manifest import (
    NO_COLOUR_STEP,
    SCHEMA,
    ColourFacts,
    ColourMethod,
    Evaluation,
    FileEntry,
    Manifest,
    NoiseFacts,
    SamplingFacts,
    TileFacts,
)

__all__ = [
    "MANIFEST",
    "NO_COLOUR_STEP",
    "SCHEMA",
    "Bundle",
    "ColourFacts",
    "ColourMethod",
    "Evaluation",
    "FileEntry",
    "KernelFile",
    "Manifest",
    "NoiseFacts",
    "SamplingFacts",
    "TileFacts",
    "check_output",
    "open_bundle",
    "unfinished",
    "writing_bundle",
]
