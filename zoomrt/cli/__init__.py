"""The commands: parse, call, print.

In a process that is one of them Ctrl-C ends it without words while its modules are imported; from `_common.start` on
it unwinds.
"""

import itertools
import os
import signal
import sys


def _is_command() -> bool:
    """Whether this process is `trt-...` or `python -m zoomrt...`, and not a program that imports a command."""
    as_module = any(option == "-m" and name.startswith("zoomrt.") for option, name in itertools.pairwise(sys.orig_argv))
    return as_module or os.path.basename(sys.argv[0]).startswith("trt-")


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
