"""Cores that trials of this machine have claimed, so that two at once are not pinned to the same.

A claim is a lock on a file per core, in the user's folder of attempts: the kernel drops it when its holder
dies, however that happens. Trials of other users, or with another TMPDIR, are not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from collections.abc import Collection, Iterator
from typing import IO

from runners.attempt_folder import cannot_write, user_folder
from runners.placement import Placement, cpuset, place
from tuner.device import DeviceType

_LOG = logging.getLogger(__name__)
_TURN_S = 5.0
_POLL_S = 0.01


@contextlib.contextmanager
def claimed(device: DeviceType, available: Collection[int]) -> Iterator[Placement]:
    """Places a server on cores that no other trial has, as far as there are any, and claims them meanwhile.

    Where cores must be shared, that is logged, as both trials are then measured too slow.

    Args:
        device: what the server is given.
        available: cores of the machine.

    Raises:
        TrialFault: the file system refuses.
        UnavailableError: the machine has not what the device type asks for.
    """
    with contextlib.ExitStack() as held:
        locks: dict[int, IO[bytes]] = {}
        with _turn():
            for core in available:
                if (lock := _lock(str(core))) is not None:
                    locks[core] = held.enter_context(lock)
            placement = place(device, available, taken=set(available) - locks.keys())
            for core in locks.keys() - set(placement.server or ()):
                locks[core].close()
        shared = {*(placement.server or ()), *(placement.generator or ())} - locks.keys()
        if shared:
            _LOG.warning(
                "Device %r and its load generator share the cores %s with another trial, so that both are measured too "
                "slow. Run fewer trials of this machine at once, or give the device fewer cpus.",
                device.name,
                cpuset(shared),
            )
        yield placement


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """One trial chooses at a time: cores that another is only looking at would seem taken.

    Choosing takes no time, so whoever takes long has been stopped, and is not waited for.
    """
    deadline = time.monotonic() + _TURN_S
    while (lock := _lock("turn")) is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    with contextlib.nullcontext() if lock is None else lock:
        yield


def _lock(name: str) -> IO[bytes] | None:
    """A lock that lasts until it is closed; `None` where another has it."""
    path = user_folder() / "cores" / name
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
