"""Every command of the package, found rather than listed, with the least words under which each is harmless."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import click

import zoomrt.cli

HARMLESS = {
    "trt-build": ["--weights", "nothing.safetensors"],
    "trt-upscale": ["nothing", "nothing.png", "-o", "out.png"],
    "trt-zoom": ["nothing", "nothing.mp4", "-o", "out.mp4"],
    "trt-bench": ["nothing"],
    "trt-bench compare": ["nothing.json", "nothing.json"],
    "trt-doctor": ["nothing"],
    "python -m zoomrt.cli.kernels compile": ["--kernel", "nothing"],
    "python -m zoomrt.cli.kernels list": [],
    "demo": ["--photograph", "nothing"],
    "demo-zoom": [],
}
"""Command -> words with which it fails, or does nothing, whatever option is added that cannot be used."""


def _found() -> Iterator[click.Command]:
    names = [f"zoomrt.cli.{module.name}" for module in pkgutil.iter_modules(zoomrt.cli.__path__)]
    modules = [importlib.import_module(name) for name in names if not name.rpartition(".")[2].startswith("_")]
    for module in [*modules, importlib.import_module("zoomrt.cli.kernels")]:
        for value in vars(module).values():
            if isinstance(value, click.Group):
                for name, command in value.commands.items():
                    command.name = f"{value.name} {name}"
            elif isinstance(value, click.Command):
                yield value


COMMANDS: dict[str, click.Command] = {str(command.name): command for command in _found()}
