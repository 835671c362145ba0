"""Put first on PYTHONPATH, it watches a whole process tree: no internet socket, no file written but in allowed folders.

GUARD_ALLOWED : the folders, joined by os.pathsep. GUARD_REPORT : a file to which one line is added for each breach.

Python's audit events tell what Python code opens. Native code is held by the kernel where it can be (Linux): a seccomp
filter kills the process that asks for a socket of the internet families. What native code writes shows in the home
folder, which the tests keep empty.
"""

import ctypes
import os
import platform
import struct
import sys

_ALLOWED = [os.path.realpath(folder) + os.sep for folder in os.environ["GUARD_ALLOWED"].split(os.pathsep)]
_REPORT = os.environ["GUARD_REPORT"]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1, "os.truncate": 0}
"""Event -> which of its arguments is the file that comes into being."""


def _tell(line):
    with open(_REPORT, "a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(line + "\n")


def _check(event, path):
    if isinstance(path, (str, bytes, os.PathLike)):
        real = os.path.realpath(os.fsdecode(path))
        if not (real + os.sep).startswith((*_ALLOWED, "/dev/")) and real != os.path.realpath(_REPORT):
            _tell(f"{event} {real}")


def _audit(event, arguments):
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
        _check(event, arguments[0])
    elif event in _PATHS:
        _check(event, arguments[_PATHS[event]])
    elif event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        _tell(f"{event} {arguments[-1]!r}")


def _forbid_internet_sockets():
    """A filter in the kernel: socket(AF_INET or AF_INET6, ...) ends the process by SIGSYS (seccomp(2))."""
    number = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return
    load, jump_if_equal, leave = 0x20, 0x15, 0x06
    program = (
        (load, 0, 0, 0),  # the number of the system call
        (jump_if_equal, 0, 3, number),
        (load, 0, 0, 16),  # its first argument
        (jump_if_equal, 2, 0, 2),  # AF_INET
        (jump_if_equal, 1, 0, 10),  # AF_INET6
        (leave, 0, 0, 0x7FFF0000),  # allow
        (leave, 0, 0, 0x80000000),  # kill
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = ctypes.create_string_buffer(struct.pack("HL", len(program), ctypes.addressof(code)))
    call = ctypes.CDLL(None).prctl
    no_new_privileges, seccomp, mode_filter = 38, 22, 2
    if call(no_new_privileges, 1, 0, 0, 0) or call(seccomp, mode_filter, head, 0, 0):
        _tell("seccomp cannot be had")


sys.addaudithook(_audit)
_forbid_internet_sockets()
