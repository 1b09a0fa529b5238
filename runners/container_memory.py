"""Whether the kernel killed anything for memory in a container: both versions of control groups."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_OOM_KILL = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def oom_counter(pid: int, proc: Path = Path("/proc"), root: Path = _ROOT) -> Path | None:
    """The file that counts memory kills in the control group of process `pid`.

    Version 2 counts in `memory.events`, version 1 in `memory.oom_control`. The file goes with the
    container, so it must be found while that runs.

    Returns:
        `None` where there is no such process or file to be seen (another process namespace, another host).
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            candidate = root / path.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            candidate = root / "memory" / path.lstrip("/") / "memory.oom_control"
        else:
            continue
        if candidate.is_file():
            return candidate
    return None


def oom_kills(counter: Path | None) -> int:
    """How many processes the kernel has killed for memory; 0 where that cannot be read (any more)."""
    if counter is None:
        return 0
    try:
        match = _OOM_KILL.search(counter.read_text())
    except OSError:
        return 0
    return 0 if match is None else int(match.group(1))
