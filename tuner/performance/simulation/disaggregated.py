"""Prefill/decode disaggregation: prompts computed on some replicas, tokens decoded on others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.continuous import Requests, Scheduler, Served, simulate
from tuner.performance.simulation.step_tables import StepTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Replicas of one kind; requests go round them in turn.

    Attributes:
        replicas: how many.
        scheduler, tables: of each.
    """

    replicas: int
    scheduler: Scheduler
    tables: StepTables

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"A pool of {self.replicas} replicas serves nothing. Write 1 or more.")


def simulate_disaggregated(requests: Requests, prefill: Pool, decode: Pool, transfer_s: Array) -> Served:
    """Prompts through `prefill`, their cache over the link, tokens through `decode`.

    What `decode` refuses has no times, though its prompt was computed.

    Args:
        requests: what arrives.
        prefill, decode: the two pools.
        transfer_s: time to move each prompt's cache, shape (n,); transfers do not slow each other.
    """
    prompts = Requests(
        arrival_s=requests.arrival_s,
        input_tokens=requests.input_tokens,
        output_tokens=np.ones_like(requests.output_tokens),
    )
    computed = _through(prompts, prefill)
    ready = computed.first_token_s + transfer_s
    order = np.argsort(ready, kind="stable")
    kept = order[np.isfinite(ready[order])]
    if not kept.size:
        return computed
    served = _through(
        Requests(
            arrival_s=ready[kept],
            input_tokens=requests.input_tokens[kept],
            output_tokens=requests.output_tokens[kept],
            prefilled=True,
        ),
        decode,
    )
    finished = np.full(ready.size, np.nan)
    finished[kept] = served.finished_s
    preemptions = np.zeros(ready.size, dtype=np.int64)
    preemptions[kept] = served.preemptions
    answered = np.isfinite(finished)
    return Served(
        arrival_s=requests.arrival_s,
        scheduled_s=np.where(answered, computed.scheduled_s, np.nan),
        first_token_s=np.where(answered, computed.first_token_s, np.nan),
        finished_s=finished,
        preemptions=preemptions,
        steps=computed.steps + served.steps,
        refused=computed.refused + served.refused,
    )


def _through(requests: Requests, pool: Pool) -> Served:
    """All replicas of a pool, requests in turn."""
    size = requests.arrival_s.size
    scheduled, first, finished = (np.full(size, np.nan) for _ in range(3))
    preemptions = np.zeros(size, dtype=np.int64)
    steps = refused = 0
    for replica in range(min(pool.replicas, size)):
        places = np.arange(replica, size, pool.replicas)
        served = simulate(part(requests, places), pool.scheduler, pool.tables)
        scheduled[places], first[places], finished[places] = served.scheduled_s, served.first_token_s, served.finished_s
        preemptions[places] = served.preemptions
        steps, refused = steps + served.steps, refused + served.refused
    return Served(
        arrival_s=requests.arrival_s,
        scheduled_s=scheduled,
        first_token_s=first,
        finished_s=finished,
        preemptions=preemptions,
        steps=steps,
        refused=refused,
    )


def part(requests: Requests, places: Array | np.ndarray[tuple[int], np.dtype[np.int64]]) -> Requests:
    """Some of the requests."""
    chosen = np.asarray(places, dtype=np.int64)
    return Requests(
        arrival_s=requests.arrival_s[chosen],
        input_tokens=requests.input_tokens[chosen],
        output_tokens=requests.output_tokens[chosen],
        prefilled=requests.prefilled,
    )
