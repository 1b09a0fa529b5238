"""Dynamic batching as Triton does it, compiled: requests gather until a batch is worth sending.

An idle instance takes the largest preferred size that the queue can fill; where none can be filled, it waits until
the oldest request has been queued for the delay and then takes what there is, at most the largest batch. Busy
instances share what computes them: how fast each goes depends on how many are busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.compiled import compiled
from tuner.serving import DynamicBatching


@dataclass(frozen=True, slots=True, kw_only=True)
class Batched:
    """What became of the requests.

    Attributes:
        arrived_s, started_s, finished_s: per request, on one clock; the order is that of arrival.
        batch_sizes: size of the batch that each was served in.
    """

    arrived_s: Array
    started_s: Array
    finished_s: Array
    batch_sizes: Array


def simulate_dynamic(
    arrival_s: Array, settings: DynamicBatching, service_s: Array, speeds: Array | None = None
) -> Batched:
    """Runs requests of an open loop through one server.

    Args:
        arrival_s: ascending.
        settings: of the server.
        service_s: seconds of a batch of 1, 2, ... max_batch_size at speed 1, shape (max_batch_size,).
        speeds: of each instance while 1, 2, ... of them are busy, shape (instances,); 1 where absent.
    """
    if arrival_s.size == 0 or np.any(np.diff(arrival_s) < 0):
        raise UsageError("Arrivals are missing or do not ascend. Sort the requests by arrival.")
    return _simulated(arrival_s.astype(np.float64), arrival_s.size, 0.0, settings, service_s, speeds)


def simulate_clients(
    clients: int,
    think_time_s: float,
    requests: int,
    settings: DynamicBatching,
    service_s: Array,
    speeds: Array | None = None,
    gap_s: float = 0.0,
) -> Batched:
    """Runs `requests` of a closed loop: each client sends its next one a think time after an answer.

    Args:
        clients: all send their first request at 0 s.
        think_time_s: pause of each.
        requests: how many are served in all; at least as many as clients.
        settings, service_s, speeds: as in `simulate_dynamic`.
        gap_s: between two answers of one batch; without one, its clients would come back all at the same instant.
    """
    if not 1 <= clients <= requests or think_time_s < 0:
        raise UsageError(f"{clients} clients that send {requests} requests are no closed loop. Write 1 or more.")
    arrival = np.zeros(requests)
    return _simulated(arrival, clients, think_time_s, settings, service_s, speeds, gap_s)


def _simulated(
    arrival_s: Array,
    known: int,
    think_time_s: float,
    settings: DynamicBatching,
    service_s: Array,
    speeds: Array | None,
    gap_s: float = 0.0,
) -> Batched:
    if service_s.shape != (settings.max_batch_size,) or np.any(service_s <= 0):
        raise UsageError(f"service_s has the shape {service_s.shape}: give a time above 0 s for every batch size.")
    if speeds is None:
        speeds = np.ones(settings.instances)
    if speeds.shape != (settings.instances,) or np.any(speeds <= 0):
        raise UsageError(f"speeds has the shape {speeds.shape}: give one above 0 for every number of busy instances.")
    preferred = np.array(settings.preferred_batch_sizes or (settings.max_batch_size,), dtype=np.int64)
    arrived, started, finished, sizes = _run(
        arrival_s,
        known,
        think_time_s,
        settings.max_batch_size,
        settings.max_queue_delay_s,
        preferred,
        settings.instances,
        service_s.astype(np.float64),
        speeds.astype(np.float64),
        gap_s,
    )
    return Batched(arrived_s=arrived, started_s=started, finished_s=finished, batch_sizes=sizes)


def _run_python(
    arrival: Any,
    known: Any,
    think: Any,
    largest: Any,
    delay: Any,
    preferred: Any,
    instances: Any,
    service: Any,
    speeds: Any,
    gap: Any,
) -> Any:
    """Event by event; `known` requests have an arrival yet, in a closed loop each answer makes one more."""
    n = arrival.shape[0]
    arrival = arrival.copy()
    started, finished, sizes = np.zeros(n), np.zeros(n), np.zeros(n)
    left, first, count = np.zeros(instances), np.zeros(instances, np.int64), np.zeros(instances, np.int64)
    head, tail, done, busy = 0, 0, 0, 0
    now = arrival[0]
    while done < n:
        while tail < known and arrival[tail] <= now:
            tail += 1
        wake = np.inf
        while busy < instances and head < tail:
            waiting = tail - head
            take = 0
            for size in preferred:
                if size <= waiting:
                    take = size
            if take == 0:
                deadline = arrival[head] + delay
                if now < deadline:
                    wake = deadline
                    break
                take = min(waiting, largest)
            for i in range(instances):
                if count[i] == 0:
                    left[i], first[i], count[i] = service[take - 1], head, take
                    break
            for r in range(head, head + take):
                started[r] = now
                sizes[r] = take
            head += take
            busy += 1
        soonest = np.inf
        for i in range(instances):
            if count[i] > 0:
                soonest = min(soonest, left[i])
        speed = speeds[busy - 1] if busy > 0 else 1.0
        ends = now + soonest / speed
        then = min(ends, wake)
        if tail < known:
            then = min(then, arrival[tail])
        for i in range(instances):
            if count[i] > 0:
                left[i] -= (then - now) * speed
                if left[i] <= 1e-12 or (then == ends and left[i] <= soonest * 1e-9):
                    for r in range(first[i], first[i] + count[i]):
                        finished[r] = then + (r - first[i]) * gap
                        if known < n:
                            at = known  # among those to come, in order of time
                            while at > tail and arrival[at - 1] > finished[r] + think:
                                arrival[at] = arrival[at - 1]
                                at -= 1
                            arrival[at] = finished[r] + think
                            known += 1
                    done += count[i]
                    count[i] = 0
                    busy -= 1
        now = then
    return arrival, started, finished, sizes


_run = compiled(_run_python)
