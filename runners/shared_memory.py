"""Shared memory that killed processes leave behind.

Segments in /dev/shm outlive their processes, and a process that is killed unlinks nothing: a study of many failed
trials would fill the memory. What an attempt's processes have mapped is noted before they are killed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_FOLDER = "/dev/shm/"  # noqa: S108 - where Linux keeps it
_CLOCK_S = 0.05
"""The file system's clock may lag behind the one that `since` was read from."""


def segments(pids: Iterable[int], since: float) -> frozenset[Path]:
    """Segments that the processes have mapped and that were made after `since` (seconds of the wall clock).

    Older ones are somebody's else: many keep their models in /dev/shm.
    """
    return frozenset(path for path in map(Path, _mapped(pids)) if _is_made_since(path, since))


def unlink_unused(found: Iterable[Path]) -> None:
    """Removes those segments that no living process has mapped."""
    left = set(found)
    if left:
        left -= set(map(Path, _mapped(int(name) for name in os.listdir("/proc") if name.isdecimal())))
    for path in left:
        with contextlib.suppress(OSError):
            path.unlink()


def _mapped(pids: Iterable[int]) -> set[str]:
    names = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="surrogateescape") as maps:
                names |= {line.rstrip("\n").partition(_FOLDER)[2] for line in maps if _FOLDER in line}
        except OSError:
            continue
    # A name with a slash lies in somebody's folder; one that ends so is unlinked already.
    return {_FOLDER + name for name in names if "/" not in name and not name.endswith(" (deleted)")}


def _is_made_since(path: Path, since: float) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and status.st_ctime >= since - _CLOCK_S
