"""Ranks that wait for each other in every step: data-parallel attention with expert parallelism.

Every rank schedules requests of its own. In each layer all ranks exchange tokens with the experts, so that a step lasts
as long as the slowest rank's own part, and then as long as what they do together; a rank with nothing to do takes part
with one token of no use.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tuner.operators import AllReduce
from tuner.performance.corrections import Corrections, Engine
from tuner.performance.grid import Array
from tuner.performance.simulation.balancer import (
    check_shared_out,
    choose,
    collected,
    hear,
    idle_copies,
    send,
    served_by,
)
from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.continuous import (
    Counts,
    Requests,
    Scheduler,
    Served,
    arrays_of,
    costs_of,
    settings_of,
)
from tuner.performance.simulation.lookup import line, with_host
from tuner.performance.simulation.replica import forget_prefix, planned_by, receive
from tuner.performance.simulation.step_course import close_step, step_cost
from tuner.performance.simulation.step_plan import plan_step
from tuner.performance.simulation.step_tables import StepTables, engine_s, token_grid
from tuner.performance.step_time import StepLoads, StepTime


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What all ranks do together in every step: the experts' layers, and the exchange of tokens with them.

    Attributes:
        tokens: of all ranks in a step, ascending.
        experts_s: for all layers, by tokens.
        exchange_s: for all layers, by tokens where every rank has as many. Else each rank's go round to all others
            (vLLM, `PyNcclCommunicator.all_gatherv` and `reduce_scatterv`: as many broadcasts and reductions as ranks,
            which NCCL runs in a ring), and the link that lacks the fewest of them decides: with two ranks it lasts as
            if both had as many as the larger.
        captured: tokens of one rank for which a step was captured as a CUDA graph, ascending. A rank runs the next of
            them, and all ranks that of the one that has most (vLLM, `coordinate_batch_across_dp`); where a rank has
            more than the last of them, each its own.
    """

    tokens: Array
    experts_s: Array
    exchange_s: Array
    captured: Counts = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(
        cls,
        decoding: StepTime,
        prompts: StepTime,
        factors: Corrections,
        engine: Engine,
        max_tokens: int,
        captured: Counts,
    ) -> Together:
        """From operator tables and correction factors.

        Args:
            decoding, prompts: times steps of the model in one shard, those that decode and those that compute prompts.
            factors, engine: correction factors, and whose.
            max_tokens: of a rank in a step.
            captured: tokens of a rank for which a step was captured.
        """
        ranks = decoding.shard.attention_replicas
        tokens = token_grid(ranks * max_tokens)
        each = StepLoads.decode(tokens / ranks, np.ones_like(tokens))
        exchange = [operator for operator in decoding.joint if isinstance(operator, AllReduce)]
        experts = [operator for operator in decoding.joint if operator not in exchange]
        experts_s, exchange_s = (
            engine_s(each.tokens, decoding.parts(each, some), prompts.parts(each, some), factors, engine)
            for some in (experts, exchange)
        )
        return cls(tokens=tokens, experts_s=experts_s, exchange_s=exchange_s, captured=captured)


def captured_sizes(max_num_seqs: int, max_num_batched_tokens: int) -> Counts:
    """Tokens of a step for which vLLM captures CUDA graphs by default, ascending (`_set_cudagraph_sizes`)."""
    most = min(2 * max_num_seqs, 512, max_num_batched_tokens)
    sizes = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]
    return np.array([size for size in sizes if size <= most], dtype=np.int64)


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
    check_shared_out(requests, ranks, "Ranks in step")
    outcome = _run_ranks(
        *arrays_of(requests),
        ranks,
        settings_of(scheduler, requests),
        costs_of(tables),
        (together.tokens, together.experts_s, together.exchange_s, together.captured),
    )
    return served_by(requests, outcome)


def _run_ranks_python(
    arrival: Any, inputs: Any, outputs: Any, ranks: Any, settings: Any, costs: Any, together: Any
) -> Any:
    total = arrival.shape[0]
    replicas = idle_copies(arrival, inputs, outputs, ranks, settings)
    owner, sent = np.empty(total, np.int64), np.zeros(ranks, np.int64)
    # Requests of each rank, waiting and running: as the client believes, and as they were when the last step began.
    believed, counted = np.zeros((ranks, 2), np.int64), np.zeros((ranks, 2), np.int64)
    now, begun, heard, following, steps = arrival[0], np.inf, -np.inf, 0, 0
    own = np.zeros(ranks, np.int64)
    while True:
        while following < total and arrival[following] <= now:
            rank = choose(believed)
            owner[following] = rank
            send(replicas[rank], sent[rank], arrival[following], inputs[following], outputs[following])
            sent[rank] += 1
            following += 1
        heard = hear(believed, counted, heard, now)
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
            soonest = arrival[following] if following < total else np.inf
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
    return collected(replicas, owner, steps)


def _together_s_python(own: Any, together: Any) -> Any:
    """Experts' layers and exchange of a step, by each rank's own tokens."""
    tokens, experts_s, exchange_s, captured = together
    ranks = own.shape[0]
    total, largest, smallest = 0, 0, 2**62
    for rank in range(ranks):
        padded = max(own[rank], 1)
        place = np.searchsorted(captured, padded)
        if place < captured.size:
            padded = captured[place]
        total += padded
        largest, smallest = max(largest, padded), min(smallest, padded)
    if captured.size and largest <= captured[-1]:
        total, smallest = ranks * largest, largest
    exchanged = ranks * (total - smallest) / (ranks - 1) if ranks > 1 else float(total)
    return line(tokens, experts_s, float(total)) + line(tokens, exchange_s, exchanged)


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


_next_arrival = compiled(_next_arrival_python)
_together_s = compiled(_together_s_python)
_run_ranks = compiled(_run_ranks_python)
