"""A memory limit for processes of the host.

`RLIMIT_AS` limits addresses, not memory, and engines reserve far more addresses than they use; control groups
are not ours to make on every machine. So the memory of the tree is read several times a second, and the
tree is killed once it is above the limit. Between two readings it may overshoot.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from runners.process_tree import ProcessTree
from tuner.units import format_bytes

_INTERVAL_S = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOG_BYTES = 64 * 2**20
"""A server that logs without end must not fill the disk; what it said before that is dropped."""


class MemoryWatchdog:
    """Kills a process tree above its memory limit.

    Attributes:
        evidence: what it saw, once it has killed; `None` before.
    """

    def __init__(self, tree: ProcessTree, limit_bytes: int | None, log: Path, kill: Callable[[], object]) -> None:
        self.evidence: str | None = None
        self._tree = tree
        self._limit_bytes = limit_bytes
        self._log = log
        self._kill = kill
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            if self._log.stat().st_size > _LOG_BYTES:
                self._log.write_bytes(b"")
            if self._limit_bytes is None:
                continue
            members = self._tree.descendants()
            # Resident sizes count shared pages once per process and are cheap; the proportional ones settle it.
            if sum(map(_resident_bytes, members)) <= self._limit_bytes:
                continue
            used = sum(map(_proportional_bytes, members))
            if used > self._limit_bytes:
                self.evidence = (
                    f"it used {format_bytes(used)} of memory, above its limit of {format_bytes(self._limit_bytes)}, "
                    "and was killed for it"
                )
                self._kill()
                return


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes(pid)
