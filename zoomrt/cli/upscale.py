"""trt-upscale: pictures through a bundle. Parses, calls the runtime, prints one line per picture.

What exists is whole (writes are atomic), so a run that was stopped goes on where it was: existing results are skipped.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoomrt.cli._common import (
    ANY_PATH,
    Advance,
    progress_bar,
    renamed_option,
    report,
    say,
    shared_options,
    start,
    tell_notes,
)
from zoomrt.cli._pictures import Job, plan_jobs
from zoomrt.cli.options.numbers import THREADS
from zoomrt.cli.options.sizes import longest_option, result_size, scale_option, size_option
from zoomrt.errors import InputError, OutOfMemory, RuntimeFault, StorageError, ZoomrtError
from zoomrt.files import check_writable, exists, made_folder, shown
from zoomrt.runtime.pictures.formats import NEW_ENDINGS
from zoomrt.runtime.resources import is_refusal, out_of_memory
from zoomrt.runtime.sizes import ResultSize, result_of_each_pass

if TYPE_CHECKING:
    from zoomrt.runtime.pictures.source import PictureFacts
    from zoomrt.runtime.upscaler import Upscaler


@click.command("trt-upscale")
@click.argument("bundle", type=ANY_PATH)
@click.argument("pictures", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=ANY_PATH, help="File for one picture, or folder.")
@click.option("--overwrite", is_flag=True, help="Replace results that exist instead of skipping them.")
@click.option("--recursive", is_flag=True, help="Also take pictures in folders below those named.")
@click.option("--format", "format_name", help=f"{', '.join(NEW_ENDINGS)}; if left out, that of each picture.")
@click.option("--suffix", default="", help="Added to each result's name, such as _x4.")
@scale_option
@size_option
@longest_option
@click.option("--colour", help="Colour step: none, adain or wavelet; the model's own if left out.")
@click.option("--threads", type=THREADS, help="CPU threads; one per core if left out.")
@click.option("--backend", help="onnxruntime or openvino: run an fp32 bundle in the other one than it was built for.")
@click.option("--fallback", type=ANY_PATH, help="The same build with a smaller --tile, should memory run out.")
@renamed_option("trt-upscale", "--smaller", "--fallback")
@shared_options
@click.pass_context
def cli(
    context: click.Context,
    /,
    *,
    bundle: Path,
    pictures: tuple[str, ...],
    output: Path,
    overwrite: bool,
    recursive: bool,
    format_name: str | None,
    suffix: str,
    scale: Fraction | None,
    size: tuple[int, int] | None,
    longest: int | None,
    quiet: bool,
    **loading: Any,
) -> None:
    """Upscale PICTURES (files, folders or patterns) with BUNDLE."""
    wanted = result_size(scale, size, longest)
    jobs = plan_jobs(pictures, output, format_name=format_name, suffix=suffix, recursive=recursive)
    todo = [job for job in jobs if overwrite or not exists(job.output, StorageError)]
    skipped = len(jobs) - len(todo)
    failures: list[ZoomrtError] = []
    if todo:
        with _output_folders(todo):
            failures = upscale_all(bundle, todo, wanted, quiet=quiet, **loading)
    if not quiet and (len(jobs) > 1 or skipped):
        done = len(todo) - len(failures)
        existing = f", {skipped} skipped because the result exists (--overwrite replaces)" if skipped else ""
        failed = f", {len(failures)} failed" if failures else ""
        say(f"{done} upscaled{existing}{failed}")
    if failures:
        context.exit(failures[0].exit_code)


def upscale_all(
    bundle: Path, jobs: Sequence[Job], size: ResultSize | None, *, quiet: bool, **loading: Any
) -> list[ZoomrtError]:
    """Upscale every job; report the pictures that fail, go on, and return their errors: those known before the work
    first. loading : as for `load`."""
    from zoomrt.runtime.one_pass import working_bytes
    from zoomrt.runtime.upscaler import load

    failures: list[ZoomrtError] = []
    told: set[str] = set()
    with load(bundle, **loading) as upscaler, progress_bar(quiet=quiet) as advance:
        facts = upscaler.manifest.tile

        def result_of(picture: PictureFacts, name: str) -> tuple[tuple[int, int], int]:
            wanted = None if size is None else size.of(picture.width, picture.height, name)
            results = result_of_each_pass((picture.height, picture.width), facts.scale, wanted, name)
            return results[-1], working_bytes(facts, results, picture.channels, deep=picture.deep)

        ready = check_jobs(jobs, result_of, failures)
        for number, job in enumerate(ready, 1):
            try:
                line = _upscale_one(upscaler, job, f"{number}/{len(ready)} {job.source.name}", advance, size)
            except (InputError, OutOfMemory, RuntimeFault, StorageError) as problem:
                if is_of_the_place(problem):
                    raise
                failures.append(problem)
                report(problem)
            except Exception as problem:
                if not is_refusal(problem):
                    raise
                failures.append(out_of_memory())
                report(f"{job.source}: {failures[-1]}")
            else:
                if not quiet:
                    say(line)
            tell_notes(upscaler.stats.notes, told)
    return failures


def check_jobs(
    jobs: Sequence[Job],
    result_of: Callable[[PictureFacts, str], tuple[tuple[int, int], int]],
    failures: list[ZoomrtError],
) -> list[Job]:
    """The jobs that nothing is known to stand against, in their order: each header is read, no pixel decoded.

    result_of : for a picture and its name, (height, width) of its result and the bytes that upscaling takes beside
        both. Raises any error.
    failures : gets the errors of all others, which are reported: a picture that cannot be read, a result that cannot be
    made, that its format cannot hold or that memory has no room for.
    """
    from zoomrt.runtime.pictures.images import check_fits, inspect_picture
    from zoomrt.runtime.pictures.room import check_room

    ready: list[Job] = []
    for job in jobs:
        try:
            facts = inspect_picture(job.source)
            size, working = result_of(facts, f"picture {shown(job.source)}")
            check_fits(replace(facts, height=size[0], width=size[1]), job.output)
            check_room(facts, size, job.output, f"cannot upscale {shown(job.source)}", working)
        except ZoomrtError as problem:
            failures.append(problem)
            report(problem)
        else:
            ready.append(job)
    return ready


def is_of_the_place(problem: ZoomrtError) -> bool:
    """Whether the system refused to write, so that the next picture would fare no better.

    A StorageError without an OSError behind it is about one picture: its format cannot hold alpha or 16 bits.
    """
    return isinstance(problem, StorageError) and isinstance(problem.__cause__, OSError)


def _upscale_one(upscaler: Upscaler, job: Job, label: str, advance: Advance, size: ResultSize | None) -> str:
    """Read, upscale and write one picture; returns the line that says so."""
    from zoomrt.runtime.pictures.images import read_picture, upscale_picture, write_picture

    started = time.monotonic()
    advance(label, 0.0)
    with _picture_warnings():
        picture = read_picture(job.source)
    height, width = picture.pixels.shape[:2]
    wanted = None if size is None else size.of(width, height)
    result = upscale_picture(upscaler, picture, lambda done, total: advance(label, done / total), size=wanted)
    with _picture_warnings():
        write_picture(result, job.output)
    new_height, new_width = result.pixels.shape[:2]
    seconds = time.monotonic() - started
    line = f"{job.output}: {width} x {height} -> {new_width} x {new_height} px in {seconds:.1f} s"
    return line if upscaler.manifest.sampling is None else f"{line}, {_evaluations(upscaler.evaluations)}"


@contextlib.contextmanager
def _picture_warnings() -> Iterator[None]:
    """Report what of a picture is not kept; all other warnings are hidden."""
    from zoomrt.runtime.pictures.images import PictureWarning

    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", PictureWarning)
        yield
    for note in notes:
        report(str(note.message), kind="warning")


def _evaluations(counts: Sequence[int]) -> str:
    """How often the network of a multi-step model ran: a policy may skip steps, in each tile others."""
    least, most = min(counts), max(counts)
    each = f"{least}" if least == most else f"{least} to {most}"
    return f"{sum(counts)} network evaluations, {each} per tile"


@contextlib.contextmanager
def _output_folders(jobs: Sequence[Job]) -> Iterator[None]:
    """Make the folders of the results before any work; remove those that were made and stayed empty.

    Raises StorageError, also for results that could not be written there.
    """
    with contextlib.ExitStack() as stack:
        folders: set[Path] = set()
        for job in jobs:
            new = job.output.parent not in folders
            if new:
                folders.add(job.output.parent)
                stack.enter_context(made_folder(job.output.parent))
            if new or exists(job.output, StorageError):
                check_writable(job.output)
        yield


def main() -> None:
    """Entry point."""
    start(cli)


if __name__ == "__main__":
    main()
