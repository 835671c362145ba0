"""trt-bench: how fast a bundle is and why, with peers beside it. Parses, calls the benchmark, prints the record."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from zoomrt.bench.peers import PEERS
from zoomrt.cli._common import ANY_PATH, progress_bar, require, say, shared_options, start
from zoomrt.cli.options.families import FamilyCommand
from zoomrt.cli.options.numbers import THREADS, Number, Parsed, Whole, number
from zoomrt.errors import unknown_name
from zoomrt.files import check_writable

WHATS = ("engine", "tile", "frame")
REGRESSION = 20
"""Exit code of `trt-bench compare --fail-if` where the condition holds: no error, but not a success either."""
_FLAGS = {"-q", "--quiet", "--debug"}


class _Bench(FamilyCommand):
    """A command that takes a bundle, and has one other form, whose first word after flags is `compare`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        place = next((i for i, word in enumerate(args) if word not in _FLAGS), None)
        if place is not None and args[place] == "compare":
            rest = [*args[:place], *args[place + 1 :]]
            return compare.make_context(f"{info_name} compare", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)


@click.command("trt-bench", cls=_Bench)
@click.argument("bundle", type=ANY_PATH)
@click.option("--peers", default="", help=f"With commas: {', '.join(PEERS)}.")
@click.option("--time", "what", default="engine", show_default=True, help="What is timed: engine, tile or frame.")
@click.option(
    "--repeats",
    type=Whole(1, 1_000_000),
    default=6,
    show_default=True,
    help="Runs at least; six are the fewest for a 95 % interval.",
)
@click.option(
    "--seconds",
    type=Number(0, 1_000_000),
    default=10.0,
    show_default=True,
    help="No more runs of a row once so many are spent.",
)
@click.option("--threads", type=THREADS, help="CPU threads; one per core if left out.")
@click.option("--input", "picture", type=ANY_PATH, help="Picture; the bundled photograph if left out.")
@click.option("--pairs", nargs=2, type=ANY_PATH, help="Folders LR/ and HR/: quality to ground truth.")
@click.option(
    "--weights",
    type=ANY_PATH,
    help="The network's checkpoint, for torch as peer; with the model's options as for trt-build.",
)
@click.option("--baseline-weights", "baseline", type=ANY_PATH, help="Of Real-ESRGAN; random if left out.")
@click.option("--new-ceilings", is_flag=True, help="Measure the machine's peaks again, and keep the better ones.")
@click.option("--json", "record_file", type=ANY_PATH, help="Write the record here.")
@click.option("--html", "page_file", type=ANY_PATH, help="Write a page with plots here.")
@shared_options
def cli(
    *,
    bundle: Path,
    peers: str,
    what: str,
    repeats: int,
    seconds: float,
    record_file: Path | None,
    page_file: Path | None,
    quiet: bool,
    **asked: Any,
) -> None:
    """Time BUNDLE, alone and in turns with peers: median with its interval, quality, and the distance to the wall.

    `trt-bench compare A.json B.json` says what changed between two records.
    """
    if what not in WHATS:
        raise unknown_name("thing to time", what, WHATS)
    named = tuple(dict.fromkeys(name.strip() for name in peers.split(",") if name.strip()))
    for name in named:
        if name not in PEERS:
            raise unknown_name("peer", name, PEERS)
    require("bench", "trt-bench")

    from zoomrt.bench.record import write_record
    from zoomrt.bench.report.table import render
    from zoomrt.bench.run import BenchRequest, run_bench
    from zoomrt.bench.timing import Rule

    for place in (record_file, page_file):
        if place is not None:
            check_writable(place)
    request = BenchRequest(
        bundle=bundle,
        peers=named,
        what=what,  # type: ignore[arg-type]
        rule=Rule(repeats=repeats, seconds=seconds),
        words=sys.argv[1:],
        **asked,
    )
    with progress_bar(quiet=quiet) as advance:
        record = run_bench(request, advance)
    if not quiet:  # before anything is written: what was measured is not lost with a full disk
        say(*render(record, width=max(160, shutil.get_terminal_size().columns)).split("\n"))
    if record_file is not None:
        write_record(record, record_file)
    if page_file is not None:
        from zoomrt.bench.report.page import write_page

        write_page(record, page_file)


@click.command("trt-bench compare")
@click.argument("before", type=ANY_PATH)
@click.argument("after", type=ANY_PATH)
@click.option(
    "--fail-if",
    "allowed",
    type=Parsed(lambda text: _slower(text), "slower:PERCENT%, such as slower:5%"),
    help=f"Such as slower:5%; exit code {REGRESSION} where it is, or nothing tells.",
)
@shared_options
@click.pass_context
def compare(context: click.Context, before: Path, after: Path, allowed: float | None, quiet: bool) -> None:
    """Say what changed beyond noise from BEFORE to AFTER, two files of trt-bench --json."""
    from zoomrt.bench.compare import changes, check_comparable, is_slower, lines
    from zoomrt.bench.record import read_record

    old, new = read_record(before), read_record(after)
    if allowed is not None:
        check_comparable(old, new)
    found = changes(old, new)
    if not quiet:
        say(*lines(found))
    if allowed is not None and is_slower(found, allowed):
        context.exit(REGRESSION)


def _slower(text: str) -> float:
    """`slower:5%` -> 0.05. Raises ValueError."""
    what, _, percent = text.strip().partition(":")
    if what != "slower" or not percent.endswith("%"):
        raise ValueError(text)
    return number(percent.removesuffix("%"), 0, 1_000_000) / 100


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
