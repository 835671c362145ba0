"""A program: each command with --help and --version, in a process of its own under the streams of this one.

forked_commands.py REPORT : one line `CODE COMMAND OPTION` for each into that file. Forks, so that each costs no start.
"""

from __future__ import annotations

import os
import sys

from commands import COMMANDS

from zoomrt.cli._common import start


def code_of(name: str, option: str) -> int:
    """Exit code; the traceback of anything but SystemExit goes where Python sends it."""
    child = os.fork()
    if child == 0:
        sys.argv = [name, option]
        start(COMMANDS[name])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    codes = [f"{code_of(name, option)} {name} {option}\n" for name in COMMANDS for option in ("--help", "--version")]
    with open(sys.argv[1], "w", encoding="utf-8") as report:
        report.writelines(codes)
