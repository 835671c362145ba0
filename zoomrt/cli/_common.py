"""What every command shares: the error funnel, the options --debug, --quiet and --version, and progress.

A failure is one line on stderr and the exit code of its class; results go to stdout; bars only to a terminal.
Knows nothing of models, bundles or pictures.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import click

from zoomrt import __version__
from zoomrt._deprecated import deprecated
from zoomrt.cli.process.signals import Ended, raised_signals
from zoomrt.cli.process.streams import open_streams, printable, stderr
from zoomrt.errors import MissingDependency, OutOfMemory, StorageError, ZoomrtError
from zoomrt.files import CacheWarning
from zoomrt.runtime.backends import Backend, is_installed
from zoomrt.runtime.quiet import quiet_process
from zoomrt.runtime.resources import check_process, is_refusal, out_of_memory

ANY_PATH = click.Path(readable=False, path_type=Path)
"""A path as it was typed: `zoomrt.files` finds out what is there, and its errors have the right exit codes."""

Advance = Callable[[str, float], None]
_F = TypeVar("_F", bound=Callable[..., Any])

Extra = Literal["export", "cuda", "bench", "kernels", "debug", "video", "deep", "heic", "fetch"]
EXTRAS: dict[Extra, tuple[str, ...]] = {
    "export": ("torch", "onnx", "onnxscript", "safetensors"),
    "cuda": ("cuda.core", "cuda.bindings"),
    "bench": ("matplotlib", "onnx", "psutil", "skimage"),
    "kernels": ("triton",),
    "debug": ("polygraphy",),
    "video": ("av",),
    "deep": ("pyvips",),
    "heic": ("pillow_heif",),
    "fetch": ("huggingface_hub", "pooch"),
}
"""Extra of the package -> the modules that it brings; those of backends are in their records."""

INTERRUPTED = 130
_REPORT = "This is a bug in zoomrt: please report it with the traceback that --debug prints."
_CLEAN = "nothing half-written left behind"


_write_line: list[Callable[[str], object]] = [lambda line: stderr().write(f"{line}\n")]
"""How lines get to stderr; the last one counts."""


class _ReaderLeft(Exception):
    """Nobody reads standard output any more, as in `trt-doctor | head -1`: no error, but nobody to work for."""


def shared_options(function: _F) -> _F:
    """--quiet, --debug and --version. The command receives `quiet`; `debug` is for the funnel alone."""
    function = click.version_option(__version__, "--version", message="%(prog)s %(version)s")(function)
    function = click.option("--debug", is_flag=True, expose_value=False, help="Print the traceback of an error.")(
        function
    )
    return click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(function)


def start(command: click.Command) -> NoReturn:
    """Run a command as a process: words from the shell, exit code to the shell."""
    code = INTERRUPTED
    try:
        with raised_signals():
            open_streams(keep_native=_debug(sys.argv))
            quiet_process()
            code = run(command, sys.argv[1:])
    except (KeyboardInterrupt, Ended) as signal:  # between two lines of ours
        code, _ = _verdict(signal, command)
    sys.exit(code)


def run(command: click.Command, words: Sequence[str]) -> int:
    """Run a command and turn every outcome into an exit code, with at most one `error:` line for a failure."""
    try:
        with warnings.catch_warnings():
            if not _debug(words):
                warnings.simplefilter("ignore")  # other people's deprecations; our own are in the manifest
                warnings.simplefilter("always", CacheWarning)
                warnings.showwarning = lambda message, *_, **__: report(str(message), kind="warning")
            with _printing():  # --help and --version
                context = command.make_context(command.name, list(words))
            with context:
                check_process()
                command.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except _ReaderLeft:
        return 1
    except (Exception, KeyboardInterrupt, Ended) as problem:
        if _debug(words):
            import traceback

            for line in "".join(traceback.format_exception(problem)).rstrip().split("\n"):
                stderr().write(f"{printable(line)}\n")
        code, text = _verdict(problem, command)
        report(text)
        return code
    return 0


def _debug(words: Sequence[str]) -> bool:
    return "--debug" in words


def say(*lines: str) -> None:
    """Results, on stdout. Raises StorageError where they cannot be written, such as to a file on a full disk."""
    with _printing():
        click.echo("\n".join(map(printable, lines)))


def lined_up(head: Iterable[str], rows: Iterable[Sequence[str]], left: Container[int] = (0,)) -> list[str]:
    """A table as lines. left : columns that are set flush left, the others right."""
    table = [tuple(head), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def cell(index: int, text: str) -> str:
        return text.ljust(widths[index]) if index in left else text.rjust(widths[index])

    return ["  ".join(cell(*one) for one in enumerate(row)).rstrip() for row in table]


@contextlib.contextmanager
def _printing() -> Iterator[None]:
    """Something is written to standard output in this block, and nothing else is."""
    try:
        yield
    except OSError as cause:
        # what is still buffered goes nowhere, so that Python does not try again, and complain, at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(cause, BrokenPipeError):
            raise _ReaderLeft from cause
        raise StorageError(
            "cannot print the results",
            seen=cause.strerror,
            needed="a standard output that takes them",
            remedy="Make room, or redirect it elsewhere.",
        ) from cause


def tell_notes(notes: Iterable[str], told: set[str]) -> None:
    """Say once what an engine does otherwise than its bundle has it; Python's warnings are off in a command.

    notes : `Upscaler.stats.notes`. told : those that were said, to which these are added.
    """
    for note in notes:
        if note not in told:
            report(note, kind="warning")
            told.add(note)


def renamed_option(command: str, old: str, new: str) -> Callable[[_F], _F]:
    """Decorate a command to take an option by its old name too, with a warning; the new one counts where both are."""

    def move(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            report(deprecated(f"{command} {old}", new), kind="warning")
            context.default_map = {**(context.default_map or {}), new.lstrip("-"): value}

    return click.option(old, hidden=True, expose_value=False, is_eager=True, callback=move)


def report(problem: ZoomrtError | str, *, kind: str = "error") -> None:
    """One line on stderr, whatever the text holds; above the bar where there is one."""
    _write_line[-1](f"{kind}: {printable(' '.join(str(problem).split()))}")


def install_line(extra: str) -> str:
    """The shell command that installs an extra into this very Python."""
    return pip_line(f"zoomrt[{extra}]")


def pip_line(requirement: str) -> str:
    """The shell command that installs it into this very Python."""
    return f"{sys.executable} -m pip install '{requirement}'"


def require(extra: Extra, why: str) -> None:
    """Raise MissingDependency with the install line unless every module of the extra is there."""
    missing = [module for module in EXTRAS[extra] if not is_installed(module)]
    if missing:
        raise MissingDependency(
            f"{why} needs packages that are not installed",
            seen="no " + ", ".join(missing),
            needed=f"the extra {extra!r}",
            remedy=f"Run: {install_line(extra)}",
        )


def require_backend(backend: Backend) -> None:
    """Raise MissingDependency with the install line unless the backend's module is there."""
    if not backend.installed:
        raise MissingDependency(
            f"building with {backend.name} needs packages that are not installed",
            seen=f"no {backend.module}",
            needed=backend.requirement,
            remedy=f"Run: {pip_line(backend.requirement)}",
        )


@contextlib.contextmanager
def progress_bar(*, quiet: bool, lines: bool = False) -> Iterator[Advance]:
    """A bar on stderr that is gone when done.

    lines : where stderr is no terminal, say each label once as a plain line on stdout instead.
    Yields advance(label, fraction), fraction in 0..1; a new label starts the bar anew. A label of several lines is a
    table: with `lines` it is said as it is, with or without a terminal, and never becomes a bar.
    """
    if quiet or not stderr().isatty():
        shown: set[str] = set()

        def mention(label: str, _fraction: float) -> None:
            if lines and not quiet and label not in shown:
                say(*label.split("\n") if "\n" in label else [f"{label} ..."])
            shown.add(label)

        yield mention
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(file=stderr()),  # type: ignore[arg-type]  # it asks for less than a whole IO[str]
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else results meant for a pipe would end on the terminal
    ) as bars:
        task = bars.add_task("", total=1.0)

        def advance(label: str, fraction: float) -> None:
            if "\n" in label:
                if lines:
                    say(*label.split("\n"))
                return
            shown_label = printable(label).replace("[", r"\[")
            bars.update(task, description=shown_label, completed=min(max(fraction, 0.0), 1.0))

        _write_line.append(lambda line: bars.console.print(line, markup=False, highlight=False, soft_wrap=True))
        try:
            yield advance
        finally:
            _write_line.pop()


def _verdict(problem: BaseException, command: click.Command) -> tuple[int, str]:
    """(exit code, text) of whatever ended the command."""
    if isinstance(problem, ZoomrtError):
        return problem.exit_code, str(problem)
    if isinstance(problem, click.ClickException):
        return problem.exit_code, f"{problem.format_message()} See {command.name} --help."
    if isinstance(problem, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED, f"interrupted, {_CLEAN}"
    if isinstance(problem, Ended):
        return 128 + problem.number, f"{problem}, {_CLEAN}"
    if is_refusal(problem):
        return OutOfMemory.exit_code, str(out_of_memory())
    return 1, f"unexpected {type(problem).__name__}: {problem}. {_REPORT}"
