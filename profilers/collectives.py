"""Collectives timed by torch.distributed: processes on this machine (gloo) or its GPUs (nccl)."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import torch

from profilers.probe import Probe, ProbeKind
from profilers.timing import Timing, summary
from tuner.errors import UnavailableError, UsageError

KINDS: Final = frozenset({ProbeKind.ALL_REDUCE.value, ProbeKind.ALL_GATHER.value})


def time_collectives(probes: Sequence[Probe], device: str, limit_s: float) -> Iterator[tuple[Probe, Timing]]:
    """Times what all of one group do together, each as soon as it is there, until `limit_s` is spent.

    The slowest process's time counts. Processes talk over 127.0.0.1; all are gone when the iterator is.

    Args:
        probes: of KINDS and of one number of ranks (`rows`).
        device: `cpu` or `cuda`.

    Raises:
        UsageError: the ranks differ, or are more than this machine has cores.
        UnavailableError: there are fewer GPUs than ranks, or the processes failed.
    """
    if not probes:
        return
    ranks = {probe.rows for probe in probes}
    world = ranks.pop()
    if ranks or world < 2:
        raise UsageError(f"A group times collectives of one number of ranks, 2 or more, not {sorted({world, *ranks})}.")
    _check(device, world)
    with tempfile.TemporaryDirectory() as folder:
        workers = _start(probes, "nccl" if device.startswith("cuda") else "gloo", world, Path(folder))
        try:
            yield from _read(workers, probes, limit_s, Path(folder))
        finally:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.communicate()


def _check(device: str, world: int) -> None:
    if device.startswith("cuda"):
        there = torch.cuda.device_count()
        if there < world:
            raise UnavailableError(f"A collective of {world} GPUs needs as many; {there} are here. Lower the shard.")
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < world:
        raise UsageError(
            f"A collective of {world} processes needs as many cores; this machine offers {cores}. Lower the shard."
        )


def _start(probes: Sequence[Probe], backend: str, world: int, folder: Path) -> list[subprocess.Popen[bytes]]:
    asked = json.dumps([[probe.kind, probe.inner] for probe in probes])
    environment = {
        **os.environ, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }  # fmt: skip
    workers: list[subprocess.Popen[bytes]] = []
    for rank in range(world):
        command = [sys.executable, "-m", "profilers.collective_worker", str(rank), str(world), backend]
        with _log(folder, rank).open("w") as log:
            worker = subprocess.Popen(
                [*command, str(folder / "meet")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                env=environment,
            )  # fmt: skip
        workers.append(worker)
        assert worker.stdin is not None
        worker.stdin.write(asked.encode())
        worker.stdin.close()
        worker.stdin = None
    return workers


def _log(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.log"


def _read(
    workers: Sequence[subprocess.Popen[bytes]], probes: Sequence[Probe], limit_s: float, folder: Path
) -> Iterator[tuple[Probe, Timing]]:
    first = workers[0].stdout
    assert first is not None
    lines = _Lines(first.fileno())
    end = time.monotonic() + limit_s
    for probe in probes:
        try:
            line = lines.next(end)
        except TimeoutError:
            return  # the limit is spent: what is missing is timed when the profile goes on
        if not line:
            said = _log(folder, 0).read_text(errors="replace").strip().splitlines()[-1:]
            raise UnavailableError(
                f"Processes that time collectives ended at {probe.kind} of {probe.inner} values: "
                f"{said[0] if said else 'they said nothing'}. See whether torch.distributed works on this machine."
            )
        yield probe, summary(json.loads(line)["samples"])


class _Lines:
    """Lines of a pipe, waited for no longer than asked."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._held = pipe, b""

    def next(self, end: float) -> bytes:
        """The next line, empty once the pipe is closed; raises TimeoutError after `end` (monotonic, s)."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while b"\n" not in self._held:
                if not selector.select(max(end - time.monotonic(), 0.0)):
                    raise TimeoutError
                read = os.read(self._pipe, 65536)
                if not read:
                    return b""
                self._held += read
        line, _, self._held = self._held.partition(b"\n")
        return line
