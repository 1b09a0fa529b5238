"""Copies of an engine that share requests out among themselves and nothing else: data parallelism of a dense model.

vLLM's coordinator only counts the requests of such copies (`VllmConfig.needs_dp_coordinator`); nothing aligns their
steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.performance.simulation.balancer import (
    COUNTED_EVERY_S,
    check_shared_out,
    choose,
    collected,
    hear,
    idle_copies,
    send,
    served_by,
)
from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.continuous import Requests, Scheduler, Served, arrays_of, costs_of, settings_of
from tuner.performance.simulation.lookup import with_host
from tuner.performance.simulation.replica import forget_prefix, planned_by, receive
from tuner.performance.simulation.step_course import close_step, step_cost
from tuner.performance.simulation.step_plan import plan_step
from tuner.performance.simulation.step_tables import StepTables


def simulate_replicas(requests: Requests, replicas: int, scheduler: Scheduler, tables: StepTables) -> Served:
    """Runs all requests through replicas that do not wait for each other; each goes to the one that seems to have the
    least to do.

    Args:
        requests: of an open loop.
        replicas: how many.
        scheduler, tables: of each.

    Raises:
        UsageError: a closed loop, or no replicas.
    """
    check_shared_out(requests, replicas, "Replicas")
    outcome = _run_replicas(
        *arrays_of(requests),
        replicas,
        settings_of(scheduler, requests),
        costs_of(tables),
    )
    return served_by(requests, outcome)


def _run_replicas_python(arrival: Any, inputs: Any, outputs: Any, copies: Any, settings: Any, costs: Any) -> Any:
    total = arrival.shape[0]
    replicas = idle_copies(arrival, inputs, outputs, copies, settings)
    owner, sent = np.empty(total, np.int64), np.zeros(copies, np.int64)
    # Requests of each, waiting and running: as the front end believes, and as they were when its last step began.
    believed, counted = np.zeros((copies, 2), np.int64), np.zeros((copies, 2), np.int64)
    # When each begins its next step, infinity where it has nothing to do; and when it began its last.
    ready, begun = np.full(copies, np.inf), np.full(copies, np.inf)
    heard, news, following, steps = -np.inf, False, 0, 0
    while True:
        chosen = np.argmin(ready)
        now = ready[chosen]
        if following < total and arrival[following] <= now:
            if news and arrival[following] - heard >= COUNTED_EVERY_S:
                believed[:], heard, news = counted, heard + COUNTED_EVERY_S, False
            chosen = choose(believed)
            owner[following] = chosen
            send(replicas[chosen], sent[chosen], arrival[following], inputs[following], outputs[following])
            sent[chosen] += 1
            if ready[chosen] == np.inf:
                ready[chosen] = arrival[following]
            following += 1
            continue
        if now == np.inf:
            break
        replica = replicas[chosen]
        state = replica.state[0]
        receive(replica, settings, planned_by(state.active, now, begun[chosen], costs.overlapped))
        plan_step(replica, settings, now)
        tokens, gpu = step_cost(replica, costs)
        counted[chosen, 0], counted[chosen, 1] = state.tail - state.head, state.active
        heard = hear(believed, counted, heard, now)
        news = heard < now
        if tokens > 0:
            begun[chosen] = now
            ready[chosen] = now + with_host(gpu, float(state.active), costs.host, costs.each, costs.overlapped)
            close_step(replica, settings, ready[chosen])
            steps += 1
            continue
        begun[chosen] = ready[chosen] = np.inf
        if state.active == 0 and state.head < state.tail and state.prefix_known:
            forget_prefix(replica, settings)
            ready[chosen] = now
    return collected(replicas, owner, steps)


_run_replicas = compiled(_run_replicas_python)
