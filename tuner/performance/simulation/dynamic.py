"""Dynamic batching as Triton does it, compiled: requests gather until a batch is worth sending.

An idle instance takes the largest preferred size that the queue can fill; where none can be filled, it waits until
the oldest request has been queued for the delay and then takes what there is, at most the largest batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.compiled import compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicBatching:
    """What the server is set to.

    Attributes:
        max_batch_size: most requests in one batch.
        max_queue_delay_s: how long the oldest request may wait for company.
        preferred_batch_sizes: ascending; empty prefers the largest batch.
        instances: copies of the model that compute at the same time.
    """

    max_batch_size: int
    max_queue_delay_s: float = 0.0
    preferred_batch_sizes: tuple[int, ...] = ()
    instances: int = 1

    def __post_init__(self) -> None:
        if self.max_batch_size < 1 or self.instances < 1 or self.max_queue_delay_s < 0:
            raise UsageError(
                f"Batches of {self.max_batch_size}, {self.instances} instances, a delay of {self.max_queue_delay_s} s "
                "serve nothing. Write 1 or more, and a delay of 0 or more."
            )
        sizes = self.preferred_batch_sizes
        if any(not 1 <= size <= self.max_batch_size for size in sizes) or list(sizes) != sorted(set(sizes)):
            raise UsageError(f"preferred_batch_sizes {list(sizes)} are not ascending within 1..{self.max_batch_size}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """What became of the requests.

    Attributes:
        started_s, finished_s: per request, on the clock of the arrivals.
        batch_sizes: size of the batch that each was served in.
    """

    started_s: Array
    finished_s: Array
    batch_sizes: Array


def simulate_dynamic(arrival_s: Array, settings: DynamicBatching, service_s: Array) -> Batched:
    """Runs requests through one server.

    Args:
        arrival_s: ascending.
        settings: of the server.
        service_s: seconds of a batch of 1, 2, ... max_batch_size while all instances are busy, shape
            (max_batch_size,).
    """
    if service_s.shape != (settings.max_batch_size,) or np.any(service_s <= 0):
        raise UsageError(f"service_s has the shape {service_s.shape}: give a time above 0 s for every batch size.")
    if arrival_s.size == 0 or np.any(np.diff(arrival_s) < 0):
        raise UsageError("Arrivals are missing or do not ascend. Sort the requests by arrival.")
    preferred = np.array(settings.preferred_batch_sizes or (settings.max_batch_size,), dtype=np.int64)
    started, finished, sizes = _run(
        arrival_s.astype(np.float64),
        settings.max_batch_size,
        settings.max_queue_delay_s,
        preferred,
        settings.instances,
        service_s.astype(np.float64),
    )
    return Batched(started_s=started, finished_s=finished, batch_sizes=sizes)


def _run_python(arrival: Any, largest: Any, delay: Any, preferred: Any, instances: Any, service: Any) -> Any:
    n = arrival.shape[0]
    started, finished, sizes = np.zeros(n), np.zeros(n), np.zeros(n)
    idle_at = np.zeros(instances)
    head = 0
    while head < n:
        instance = int(np.argmin(idle_at))
        now = max(idle_at[instance], arrival[head])
        deadline = arrival[head] + delay
        while True:
            waiting = np.searchsorted(arrival, now, side="right") - head
            take = 0
            for size in preferred:
                if size <= waiting:
                    take = size
            if take > 0 or now >= deadline or head + waiting >= n:
                break
            now = min(deadline, arrival[head + waiting])
        if take == 0:
            take = min(max(waiting, 1), largest)
            if now < deadline:  # nobody else will come
                now = deadline
        end = now + service[take - 1]
        started[head : head + take] = now
        finished[head : head + take] = end
        sizes[head : head + take] = take
        idle_at[instance] = end
        head += take
    return started, finished, sizes


_run = compiled(_run_python)
