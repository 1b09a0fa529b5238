"""Leases: which process is at work on a running trial, and whether it still lives.

Optuna's heartbeats exist only under `study.optimize`; ask and tell keep their own.
"""

from __future__ import annotations

import json
import os
import socket
import time
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

GRACE_S: Final = 120.0
"""A lease of another machine that was not renewed for this long has lapsed."""
RENEW_EVERY_S: Final = 30.0


class LeaseHolder:
    """Who holds leases in this process; when it is gone, or has let a token go, that lease is dead.

    Attributes:
        tokens: of the attempts it is at work on.
    """

    def __init__(self) -> None:
        self.tokens: set[str] = set()
        _HOLDERS.add(self)


_HOLDERS: Final[weakref.WeakSet[LeaseHolder]] = weakref.WeakSet()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A claim on a running trial.

    Attributes:
        host, boot: machine and its boot id: a process id means nothing without them.
        pid, pid_started: the process, safe from recycled ids.
        token: of the attempt.
        renewed: wall clock of the last sign of life, s since the epoch.
    """

    host: str
    boot: str
    pid: int
    pid_started: float
    token: str
    renewed: float

    @classmethod
    def of_this_process(cls, token: str) -> Lease:
        """A fresh lease held by this process."""
        return cls(
            host=socket.gethostname(),
            boot=_boot_id(),
            pid=os.getpid(),
            pid_started=psutil.Process().create_time(),
            token=token,
            renewed=time.time(),
        )

    def alive(self) -> bool:
        """Whether its holder still works: looked up on this machine, inferred from renewals on another."""
        if self.host != socket.gethostname():
            return time.time() - self.renewed < GRACE_S
        if self.boot != _boot_id():
            return False
        if self.pid == os.getpid():
            return any(self.token in holder.tokens for holder in _HOLDERS)
        try:
            return abs(psutil.Process(self.pid).create_time() - self.pid_started) < 1.0
        except psutil.NoSuchProcess:
            return False

    def machine_went_down(self) -> bool:
        """Whether this machine was restarted since; unknown, and so false, of another machine."""
        return self.host == socket.gethostname() and self.boot != _boot_id()

    def to_json(self) -> str:
        """As stored."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Lease:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(psutil.boot_time())
