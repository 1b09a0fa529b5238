"""Every process that one attempt started, however it was detached, and how to end them all.

A process belongs to an attempt if it descends from the server's first process, is in its session, or
carries the attempt's marker in its environment. The three together also find a daemon that changed its
session and lost its parent, and a worker that wrote its title over its environment.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from runners.owner import stat_fields
from runners.shared_memory import segments, unlink_unused

MARKER = "SERVING_TUNER_ATTEMPT"
"""Environment variable that holds the attempt's token."""

_PAUSE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTree:
    """The processes of an attempt.

    Attributes:
        token: the attempt's token, as its processes carry it.
        leader: number of the first process, which leads a session; `None` if it is not known, or its
            number may have gone to another process since.
        since: when the attempt began, seconds of the wall clock; shared memory that is older is not its own.
    """

    token: str
    leader: int | None = None
    since: float = math.inf

    def members(self) -> frozenset[int]:
        """Numbers of the living processes; zombies do not count."""
        marker = f"{MARKER}={self.token}".encode()
        parents: dict[int, int] = {}
        found: set[int] = set()
        for pid in _pids():
            fields = stat_fields(pid)
            if fields is None or fields[0] in "ZX":
                continue
            parents[pid] = int(fields[1])
            in_session = self.leader is not None and self.leader in (pid, int(fields[3]))
            if in_session or marker in _environment(pid):
                found.add(pid)
        descendants = found
        while descendants:
            descendants = {pid for pid, parent in parents.items() if parent in found} - found
            found |= descendants
        return frozenset(found - {os.getpid()})

    def descendants(self) -> frozenset[int]:
        """The leader and what descends from it: cheaper than `members`, and blind to what has detached."""
        found: set[int] = set()
        front = [] if self.leader is None else [self.leader]
        while front:
            pid = front.pop()
            if pid not in found:
                found.add(pid)
                front += _children(pid)
        return frozenset(found)

    def kill(self, deadline_s: float) -> frozenset[int]:
        """Kills them, and whatever they start meanwhile; their shared memory goes with them.

        Returns:
            Those that are still there at the deadline.
        """
        deadline = time.monotonic() + deadline_s
        shared: frozenset[Path] = frozenset()
        while members := self.members():
            shared |= segments(members, self.since)
            for pid in members:
                _send(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                return members
            time.sleep(_PAUSE_S)
        unlink_unused(shared)
        return frozenset()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _children(pid: int) -> list[int]:
    try:
        texts = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return [int(child) for text in texts for child in text.split()]


def _environment(pid: int) -> frozenset[bytes]:
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
