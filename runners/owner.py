"""Who started a server: a process, told apart from any later one that is given its number."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """One process of one boot of one machine.

    Attributes:
        boot_id: of the kernel, new with every boot.
        pid_namespace: in which `pid` counts; a container has its own.
        pid: process number.
        started_ticks: when that process started, in clock ticks since boot.
    """

    boot_id: str
    pid_namespace: str
    pid: int
    started_ticks: int

    @classmethod
    def current(cls) -> Owner:
        """The calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Owner:
        """The process that has the number `pid` now; a dead one has `started_ticks` 0."""
        return cls(
            boot_id=_BOOT_ID.read_text().strip(),
            pid_namespace=os.readlink("/proc/self/ns/pid"),
            pid=pid,
            started_ticks=started_ticks(pid) or 0,
        )

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """The owner that `str` wrote; `None` where it wrote no such thing."""
        fields = text.split("/")
        if len(fields) != 4 or not (fields[2].isdecimal() and fields[3].isdecimal()):
            return None
        return cls(boot_id=fields[0], pid_namespace=fields[1], pid=int(fields[2]), started_ticks=int(fields[3]))

    def __str__(self) -> str:
        return f"{self.boot_id}/{self.pid_namespace}/{self.pid}/{self.started_ticks}"

    def is_dead(self) -> bool:
        """Whether it certainly no longer runs; `False` where that cannot be seen from here."""
        if self.boot_id != _BOOT_ID.read_text().strip():
            return True
        if self.pid_namespace != os.readlink("/proc/self/ns/pid"):
            return False
        return started_ticks(self.pid) != self.started_ticks


def started_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; `None` if there is none, or only its zombie."""
    fields = stat_fields(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def stat_fields(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on, see proc(5); `None` if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()
