"""Ranks that wait for each other in every step: data-parallel attention with expert parallelism.

Every rank schedules requests of its own. In each layer all ranks exchange tokens with the experts, so that a step lasts
as long as the slowest rank's own part, and then as long as what they do together; a rank with nothing to do takes part
with one token of no use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.continuous import Counts, Requests, Scheduler, Served, costs_of, settings_of
from tuner.performance.simulation.lookup import line, with_host
from tuner.performance.simulation.replica import forget_prefix, new_replica, planned_by, receive
from tuner.performance.simulation.step_course import close_step, step_cost
from tuner.performance.simulation.step_plan import plan_step
from tuner.performance.simulation.step_tables import StepTables


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all ranks do together in every step: the experts' layers, and the exchange of tokens with them.

    Attributes:
        tokens: of all ranks in a step, ascending.
        seconds: for all layers, by tokens.
        captured: tokens of one rank for which a step was captured as a CUDA graph, ascending. Up to the last of them
            all ranks run the one that holds the largest rank's tokens (vLLM, `coordinate_batch_across_dp`).
    """

    tokens: Array
    seconds: Array
    captured: Counts = field(default_factory=lambda: np.zeros(0, np.int64))


def simulate_ranks(
    requests: Requests, ranks: int, scheduler: Scheduler, tables: StepTables, together: Together
) -> Served:
    """Runs all requests through ranks in step; requests go round them in turn.

    Args:
        requests: of an open loop.
        ranks: how many.
        scheduler: of each.
        tables: of what each does by itself, without the experts' layers.
        together: the rest of a step.

    Raises:
        UsageError: a closed loop, or no ranks.
    """
    if requests.clients:
        raise UsageError("Ranks in step serve no closed loop. Give arrivals, and 0 clients.")
    if ranks < 1:
        raise UsageError(f"{ranks} ranks serve nothing. Write 1 or more.")
    times, preemptions, steps, refused = _run_ranks(
        requests.arrival_s.astype(np.float64),
        requests.input_tokens.astype(np.int64),
        requests.output_tokens.astype(np.int64),
        min(ranks, requests.arrival_s.size),
        settings_of(scheduler, requests),
        costs_of(tables),
        (together.tokens, together.seconds, together.captured),
    )
    return Served(
        arrival_s=requests.arrival_s,
        scheduled_s=times[0],
        first_token_s=times[1],
        finished_s=times[2],
        preemptions=preemptions,
        steps=int(steps),
        refused=int(refused),
    )


def _run_ranks_python(
    arrival: Any, inputs: Any, outputs: Any, ranks: Any, settings: Any, costs: Any, together: Any
) -> Any:
    replicas = [
        new_replica(arrival[rank::ranks].copy(), inputs[rank::ranks].copy(), outputs[rank::ranks].copy(), 0, settings)
        for rank in range(ranks)
    ]
    now, begun, steps = arrival[0], np.inf, 0
    while True:
        for replica in replicas:
            receive(replica, settings, planned_by(replica.state[0].active, now, begun, costs.overlapped))
        tokens, most, slowest, largest, idle = 0, 0, 0.0, 0, 0
        for replica in replicas:
            plan_step(replica, settings, now)
            own, gpu = step_cost(replica, costs)
            tokens += own
            most = max(most, own)
            idle += own == 0
            slowest = max(slowest, gpu)
            largest = max(largest, replica.state[0].active)
        if tokens == 0:
            following = _following(replicas, settings)
            if following == np.inf:
                break
            now, begun = max(now, following), np.inf
            continue
        exchanged = tokens + idle
        place = np.searchsorted(together[2], most)
        if place < together[2].size:
            exchanged = ranks * together[2][place]
        gpu = slowest + line(together[0], together[1], float(exchanged))
        begun = now
        now += with_host(gpu, float(largest), costs.host, costs.each, costs.overlapped)
        steps += 1
        for replica in replicas:
            close_step(replica, settings, now)
    return _collected(replicas, arrival.shape[0], steps)


def _following_python(replicas: Any, settings: Any) -> Any:
    """When ranks that can do nothing now may go on: at once where a prefix was given up, else at the next arrival."""
    following = np.inf
    for replica in replicas:
        state = replica.state[0]
        if state.head < state.tail and state.active == 0 and state.prefix_known:
            forget_prefix(replica, settings)
            return -np.inf
        if state.tail < state.due:
            following = min(following, replica.sequences[state.tail].arrival)
    return following


def _collected_python(replicas: Any, count: Any, steps: Any) -> Any:
    """What became of all requests, in their order: times, shape (3, n), preemptions, steps, refused."""
    times, preemptions, refused = np.empty((3, count)), np.empty(count, np.int64), 0
    ranks = len(replicas)
    for rank in range(ranks):
        refused += replicas[rank].state[0].refused
        sequences = replicas[rank].sequences
        for r in range(sequences.shape[0]):
            one, place = sequences[r], rank + r * ranks
            times[0, place], times[1, place], times[2, place] = one.scheduled, one.first, one.finished
            preemptions[place] = one.preemptions
    return times, preemptions, steps, refused


_following = compiled(_following_python)
_collected = compiled(_collected_python)
_run_ranks = compiled(_run_ranks_python)
