"""Becomes a server: binds itself to its tuner and to its cores, then executes the program.

    python -I -S confined_exec.py PARENT CORES PROGRAM ARGUMENT...

A program of its own, because what `fork` and `exec` leave between them (`preexec_fn`) is not safe in a
process with threads. Needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_NOT_EXECUTED = 127


def main(parent: int, cores: str, argv: list[str]) -> int:
    """Executes `argv` on `cores` (comma-separated, empty for any); returns only where that fails."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It died before it could be bound to; nobody would ever end this server.
        return _NOT_EXECUTED
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"{argv[0]} cannot be executed: {error.strerror}\n")
    return _NOT_EXECUTED


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
