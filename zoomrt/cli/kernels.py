"""`python -m zoomrt.cli.kernels`: compile the kernels for GPUs that need not be here, or list them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt.cli._common import ANY_PATH, lined_up, progress_bar, say, shared_options, start
from zoomrt.cli.options.numbers import Whole
from zoomrt.errors import unknown_name
from zoomrt.files import check_writable, made_folder, write_bytes

if TYPE_CHECKING:
    from zoomrt.kernels.compile import KernelBinary
    from zoomrt.kernels.configuration import Configuration


@click.group("python -m zoomrt.cli.kernels")
def cli() -> None:
    """Fused kernels, compiled ahead of time on a machine that needs no GPU."""


@cli.command("compile")
@click.option("--out", type=ANY_PATH, help="Folder for the binaries; only the table if left out.")
@click.option("--sm", "sms", type=Whole(1, 999), multiple=True, help="GPU, as in --sm 89 --sm 120; all if left out.")
@click.option("--kernel", "names", multiple=True, help="Kernel or configuration by name; all if left out.")
@click.option("--ptx", is_flag=True, help="Write the PTX beside each binary too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@shared_options
def compile_command(
    out: Path | None, sms: tuple[int, ...], names: tuple[str, ...], ptx: bool, as_json: bool, quiet: bool
) -> None:
    """Compile kernels, check them against each GPU's limits, and print what they take of it."""
    from zoomrt.kernels.compile import compile_kernels, require_triton
    from zoomrt.kernels.configuration import SMS

    require_triton()
    chosen = _chosen(names)
    if out is not None:
        check_writable(out / "kernel.cubin")
    with progress_bar(quiet=quiet) as advance:
        binaries = compile_kernels(chosen, sms or SMS, on_progress=advance)
    if out is not None:
        _write(out, binaries, ptx=ptx)
    if as_json:
        say(*json.dumps([facts(binary) for binary in binaries], indent=2).split("\n"))
    elif not quiet:
        say(*table(binaries))


@cli.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@shared_options
def list_command(as_json: bool, quiet: bool) -> None:
    """Print every configuration that `compile` knows: its GPUs, arguments and grid."""
    from zoomrt.kernels.compile import require_triton

    require_triton()
    rows = [described(configuration) for configuration in _chosen(())]
    if as_json:
        say(*json.dumps(rows, indent=2).split("\n"))
    elif not quiet:
        for row in rows:
            arguments = ", ".join(f"{name}: {kind}" for name, kind in row["arguments"])
            say(f"{row['name']}  SM {', '.join(map(str, row['sms']))}  ({arguments})  grid {' x '.join(row['grid'])}")


def described(configuration: Configuration) -> dict[str, Any]:
    """A configuration in JSON types."""
    return {
        "name": configuration.name,
        "kernel": configuration.kernel,
        "sms": list(configuration.sms),
        "arguments": [list(pair) for pair in configuration.signature.items()],
        "aligned": list(configuration.aligned),
        "constants": dict(configuration.constants),
        "grid": list(configuration.grid),
        "warps": configuration.warps,
        "stages": configuration.stages,
    }


def facts(binary: KernelBinary) -> dict[str, Any]:
    """A binary in JSON types: the figures of the table, in bytes."""
    from zoomrt.kernels.binary import LIMITS

    compiled, used = binary.compiled, binary.compiled.resources
    return {
        "name": binary.configuration.name,
        "sm": binary.sm,
        "entry": compiled.entry,
        "registers": used.registers,
        "spilled_bytes": used.spilled_bytes,
        "static_shared_bytes": used.static_shared_bytes,
        "dynamic_shared_bytes": compiled.shared_bytes,
        "shared_bytes_limit": LIMITS[binary.sm].shared_bytes,
        "threads": binary.configuration.warps * 32,
        "cubin_bytes": len(compiled.cubin),
        "compiler": compiled.compiler,
    }


def table(binaries: Sequence[KernelBinary]) -> list[str]:
    """One line per binary: registers and spilled bytes per thread, shared memory per block against the GPU's limit."""
    if not binaries:
        return ["no kernel is for these GPUs"]
    columns = {
        "kernel": "name", "SM": "sm", "threads": "threads", "registers": "registers", "spilled": "spilled_bytes",
        "shared static": "static_shared_bytes", "dynamic": "dynamic_shared_bytes", "limit": "shared_bytes_limit",
        "bytes": "cubin_bytes",
    }  # fmt: skip
    return lined_up(columns, [[str(facts(binary)[name]) for name in columns.values()] for binary in binaries])


def _chosen(names: tuple[str, ...]) -> list[Configuration]:
    """Those of the named kernels and configurations; all without a name."""
    from zoomrt.kernels.configuration import all_configurations

    every = all_configurations()
    known = {one.kernel for one in every} | {one.name for one in every}
    for name in names:
        if name not in known:
            raise unknown_name("kernel", name, known)
    return [one for one in every if not names or one.kernel in names or one.name in names]


def _write(folder: Path, binaries: Sequence[KernelBinary], *, ptx: bool) -> None:
    """Each file whole or not at all."""
    files = {binary.file_name: binary.compiled.cubin for binary in binaries}
    if ptx:
        files |= {Path(b.file_name).with_suffix(".ptx").name: b.compiled.ptx.encode() for b in binaries}
    with made_folder(folder):
        for name, content in files.items():
            write_bytes(folder / name, content)


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
