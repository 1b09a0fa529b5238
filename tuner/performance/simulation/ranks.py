"""Ranks that wait for each other in every step: data-parallel attention with expert parallelism.

Every rank schedules requests of its own. In each layer all ranks exchange tokens with the experts, so that a step lasts
as long as the slowest rank's own part, and then as long as what they do together; a rank with nothing to do takes part
with one token of no use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

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

_COUNTED_EVERY_S: Final = 0.1
"""How often the client hears of the ranks' requests at most (vLLM 0.19, `DPCoordinatorProc`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all ranks do together in every step: the experts' layers, and the exchange of tokens with them.

    Attributes:
        tokens: of all ranks in a step, ascending.
        experts_s: for all layers, by tokens.
        exchange_s: for all layers, by tokens where every rank has as many. Where one has more it lasts as if all had:
            each rank sends its own to all others (vLLM, `PyNcclCommunicator.all_gatherv`, `reduce_scatterv`).
        captured: tokens of one rank for which a step was captured as a CUDA graph, ascending. A rank runs the next of
            them, and all ranks that of the one that has most (vLLM, `coordinate_batch_across_dp`); where a rank has
            more than the last of them, each its own.
    """

    tokens: Array
    experts_s: Array
    exchange_s: Array
    captured: Counts = field(default_factory=lambda: np.zeros(0, np.int64))


def simulate_ranks(
    requests: Requests, ranks: int, scheduler: Scheduler, tables: StepTables, together: Together
) -> Served:
    """Runs all requests through ranks in step; each goes to the rank that seems to have the least to do.

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
        ranks,
        settings_of(scheduler, requests),
        costs_of(tables),
        (together.tokens, together.experts_s, together.exchange_s, together.captured),
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
    count = arrival.shape[0]
    nothing = np.full(count, np.inf)  # a place whose request never arrives, until one is sent there
    replicas = [new_replica(nothing, inputs, outputs, 0, settings) for _ in range(ranks)]
    owner, sent = np.empty(count, np.int64), np.zeros(ranks, np.int64)
    # Requests of each rank, waiting and running: as the client believes, and as they were when the last step began.
    believed, counted = np.zeros((ranks, 2), np.int64), np.zeros((ranks, 2), np.int64)
    now, begun, heard, following, steps = arrival[0], np.inf, -np.inf, 0, 0
    own = np.zeros(ranks, np.int64)
    while True:
        while following < count and arrival[following] <= now:
            rank = _choose_rank(believed)
            owner[following] = rank
            one = replicas[rank].sequences[sent[rank]]
            one.arrival, one.inputs, one.outputs = arrival[following], inputs[following], outputs[following]
            sent[rank] += 1
            following += 1
        if now - heard >= _COUNTED_EVERY_S:
            believed[:], heard = counted, now
        slowest, largest = 0.0, 0
        for rank in range(ranks):
            replica = replicas[rank]
            state = replica.state[0]
            receive(replica, settings, planned_by(state.active, now, begun, costs.overlapped))
            plan_step(replica, settings, now)
            own[rank], gpu = step_cost(replica, costs)
            slowest = max(slowest, gpu)
            largest = max(largest, state.active)
            counted[rank, 0], counted[rank, 1] = state.tail - state.head, state.active
        if own.sum() == 0:
            soonest = arrival[following] if following < count else np.inf
            soonest = min(soonest, _next_arrival(replicas, settings))
            if soonest == np.inf:
                break
            now, begun = max(now, soonest), np.inf
            believed[:], heard = counted, now
            continue
        gpu = slowest + _together_s(own, together)
        begun = now
        now += with_host(gpu, float(largest), costs.host, costs.each, costs.overlapped)
        steps += 1
        for replica in replicas:
            close_step(replica, settings, now)
    return _collected(replicas, owner, steps)


def _choose_rank_python(believed: Any) -> Any:
    """The rank for the next request, and one more that waits there (vLLM, `DPLBAsyncMPClient`): a request that waits
    counts as four that run, and of equals the first is taken."""
    least, chosen = 2**62, 0
    for rank in range(believed.shape[0]):
        score = 4 * believed[rank, 0] + believed[rank, 1]
        if score < least:
            least, chosen = score, rank
    believed[chosen, 0] += 1
    return chosen


def _together_s_python(own: Any, together: Any) -> Any:
    """Experts' layers and exchange of a step, by each rank's own tokens."""
    tokens, experts_s, exchange_s, captured = together
    ranks = own.shape[0]
    total, largest = 0, 0
    for rank in range(ranks):
        padded = max(own[rank], 1)
        place = np.searchsorted(captured, padded)
        if place < captured.size:
            padded = captured[place]
        total += padded
        largest = max(largest, padded)
    if captured.size and largest <= captured[-1]:
        total = ranks * largest
    return line(tokens, experts_s, float(total)) + line(tokens, exchange_s, float(ranks * largest))


def _next_arrival_python(replicas: Any, settings: Any) -> Any:
    """When ranks that can do nothing now may go on: at once where a prefix was given up, else at the next arrival."""
    following = np.inf
    for replica in replicas:
        state = replica.state[0]
        if state.head < state.tail and state.active == 0 and state.prefix_known:
            forget_prefix(replica, settings)
            return -np.inf
        if state.arrived < state.due:
            following = min(following, replica.sequences[state.arrived].arrival)
    return following


def _collected_python(replicas: Any, owner: Any, steps: Any) -> Any:
    """What became of all requests, in their order: times, shape (3, n), preemptions, steps, refused."""
    count, ranks = owner.shape[0], len(replicas)
    times, preemptions, refused = np.empty((3, count)), np.empty(count, np.int64), 0
    for rank in range(ranks):
        refused += replicas[rank].state[0].refused
    found = np.zeros(ranks, np.int64)
    for r in range(count):
        one = replicas[owner[r]].sequences[found[owner[r]]]
        found[owner[r]] += 1
        times[0, r], times[1, r], times[2, r] = one.scheduled, one.first, one.finished
        preemptions[r] = one.preemptions
    return times, preemptions, steps, refused


_next_arrival = compiled(_next_arrival_python)
_choose_rank = compiled(_choose_rank_python)
_together_s = compiled(_together_s_python)
_collected = compiled(_collected_python)
_run_ranks = compiled(_run_ranks_python)
