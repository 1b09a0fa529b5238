"""Which cores a server gets, so that the load generator does not compete with it.

A device type with whole `cpus` is pinned to that many cores, the last of the machine, and the generator
to the others, as long as there are others. Pinning is preferred to a quota because a quota hands out time in
slices of 100 ms and so adds stalls of its own to the tail of the latencies, and because engines size their
thread pools by the cores that they see. A fraction of a core can only be had by a quota, on top of pinning.
A `cpuset` is taken as it is written. Of cores that trials beside this one have claimed (`runners.core_claims`),
a server gets some, and its generator any, only where there are no others.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.device import DeviceType
from tuner.errors import UnavailableError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where server and generator run.

    Attributes:
        server: cores of the server; `None` leaves them to the system.
        generator: cores of the load generator; `None` leaves them to the system.
        quota: share of CPU time in cores, beside the pinning; `None` for no quota.
    """

    server: tuple[int, ...] | None = None
    generator: tuple[int, ...] | None = None
    quota: float | None = None


def place(device: DeviceType, available: Collection[int], taken: Collection[int] = ()) -> Placement:
    """Chooses among the `available` cores, and those that other servers have `taken` last.

    Raises:
        UnavailableError: the machine has not what the device type asks for.
    """
    cores = sorted(available, key=lambda core: (core not in taken, _sibling_order(core)))
    if device.cpus is not None and device.cpus > len(cores):
        raise UnavailableError(
            f"Device {device.name!r} has {device.cpus:g} cpus, and this machine offers {len(cores)}. "
            f"Lower cpus to {len(cores)} or less, or run the study on a larger machine."
        )
    if device.cpuset is not None:
        pinned = parse_cpuset(device.cpuset)
        missing = sorted(set(pinned) - set(cores))
        if missing:
            raise UnavailableError(
                f"Device {device.name!r} is pinned to the cores {device.cpuset}, and this machine does not offer "
                f"{cpuset(missing)}. Choose among {cpuset(cores)}."
            )
        quota = device.cpus if device.cpus is not None and device.cpus < len(pinned) else None
        return _beside(pinned, cores, taken, quota)
    if device.cpus is None:
        return Placement()
    whole = math.ceil(device.cpus)
    return _beside(cores[-whole:], cores, taken, device.cpus if device.cpus != whole else None)


def _beside(server: Collection[int], cores: Collection[int], taken: Collection[int], quota: float | None) -> Placement:
    others = set(cores) - set(server)
    rest = others - set(taken) or others
    return Placement(server=tuple(sorted(server)), generator=tuple(sorted(rest)) or None, quota=quota)


def parse_cpuset(text: str) -> tuple[int, ...]:
    """The cores that `text` lists as Linux does: `0-1,4`.

    Raises:
        UsageError: it is no such list.
    """
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            span = range(int(first), int(last if dash else first) + 1)
            if not span or span[0] < 0:
                raise ValueError(part)
            cores.update(span)
    except ValueError as error:
        raise UsageError(f"{text!r} lists no cores. Write for example 0-1,4.") from error
    return tuple(sorted(cores))


def cpuset(cores: Collection[int]) -> str:
    """The cores as Linux writes them, without ranges: `0,1,4`."""
    return ",".join(str(core) for core in sorted(cores))


def generator_cores(placement: Placement, chosen: Collection[int] | None) -> tuple[int, ...] | None:
    """Cores of the load generator: those that were chosen, else the placement's, as far as this process has them.

    Raises:
        UnavailableError: a chosen core is not there.
    """
    allowed = os.sched_getaffinity(0)
    if chosen is None:
        return tuple(sorted(set(placement.generator or ()) & allowed)) or None
    missing = set(chosen) - allowed
    if missing:
        raise UnavailableError(
            f"generator_cpuset names the cores {cpuset(missing)}, which this process may not use. "
            f"Choose among {cpuset(allowed)}."
        )
    return tuple(sorted(chosen))


@contextlib.contextmanager
def confined(cores: Collection[int] | None) -> Iterator[None]:
    """Pins the calling thread, and whatever it starts inside the context, to `cores`; `None` changes nothing."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _sibling_order(core: int) -> tuple[int, int]:
    """Puts the hardware threads of one physical core side by side, so that server and generator share none."""
    path = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
    try:
        return min(parse_cpuset(path.read_text().strip())), core
    except (OSError, UsageError):
        return core, core
