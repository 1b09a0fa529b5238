"""When requests arrive: seeded, endless streams of arrival times.

The gaps between arrivals come from one stream of the seed, drawn at unit mean and scaled by the rate:
every trial sees the same traffic, and two rates of one search see the same pattern, compressed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from tuner.errors import UsageError
from tuner.workload import ArrivalProcess, OpenLoop, TraceReplay, TraceRequest

_CHUNK: Final = 4096
"""Gaps drawn at once: numpy's cost per call disappears."""

_SIMULTANEOUS_PERIOD_S: Final = 1.0
"""After how long a trace whose rows all arrive at one instant starts over: it has no gap of its own."""


class Arrivals(Protocol):
    """Arrival times in seconds from the start of the load."""

    def times(self) -> Iterator[float]:
        """Ascending and endless; each call starts over with the same times."""
        ...

    def trace_row(self, index: int) -> TraceRequest | None:
        """The row of a trace that request `index` (from 0) replays, `None` without a trace."""
        ...


class DrawnArrivals:
    """Open-loop arrivals whose gaps are drawn from a distribution of mean 1 / rate."""

    def __init__(self, arrival: OpenLoop, rate_rps: float, seed: int) -> None:
        self._arrival = arrival
        self._rate_rps = rate_rps
        self._seed = seed

    def times(self) -> Iterator[float]:
        generator = np.random.default_rng([self._seed, 0x617272])
        start = 0.0
        while True:
            chunk = start + np.cumsum(self._gaps(generator)) / self._rate_rps
            yield from chunk.tolist()
            start = float(chunk[-1])

    def trace_row(self, index: int) -> None:
        return None

    def _gaps(self, generator: np.random.Generator) -> npt.NDArray[np.float64]:
        """Gaps of mean 1."""
        match self._arrival.process:
            case ArrivalProcess.POISSON:
                return generator.exponential(size=_CHUNK)
            case ArrivalProcess.GAMMA:
                # Gamma of shape k has a coefficient of variation of 1 / sqrt(k).
                shape = self._arrival.cv**-2
                return generator.gamma(shape, 1.0 / shape, size=_CHUNK)
            case ArrivalProcess.CONSTANT:
                return np.ones(_CHUNK)


class TraceArrivals:
    """The rows of a trace, at its speed, over and over.

    The last row of one round and the first of the next are one mean gap apart.
    """

    def __init__(self, trace: TraceReplay) -> None:
        rows = trace.requests
        self._rows = rows
        first = rows[0].arrival_s
        self._offsets_s = [(row.arrival_s - first) / trace.speed for row in rows]
        if any(later < earlier for earlier, later in zip(self._offsets_s, self._offsets_s[1:], strict=False)):
            raise UsageError(f"The trace {trace.source} is not sorted by arrival. Sort its rows by time.")
        span = self._offsets_s[-1]
        self._period_s = span + span / (len(rows) - 1) if span > 0 else _SIMULTANEOUS_PERIOD_S / trace.speed

    def times(self) -> Iterator[float]:
        start = 0.0
        while True:
            for offset in self._offsets_s:
                yield start + offset
            start += self._period_s

    def trace_row(self, index: int) -> TraceRequest:
        return self._rows[index % len(self._rows)]


def count_between(arrivals: Arrivals, start_s: float, end_s: float) -> int:
    """How many requests arrive in [start, end)."""
    count = 0
    for time_s in arrivals.times():
        if time_s >= end_s:
            break
        count += time_s >= start_s
    return count
