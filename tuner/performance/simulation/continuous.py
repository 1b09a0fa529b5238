"""Continuous batching, iteration by iteration, compiled.

The scheduler is that of vLLM's first version of its V1 engine: every step has a budget of tokens, running
sequences come first (one token each, or the next chunk of their prompt), then waiting ones while budget, places
and blocks last; when blocks run out, the sequence that came last is thrown out and computed again later.
With `prefill_first` it is that of V0: steps compute either whole prompts or decode.

A stretch of steps in which nothing but decoding happens costs a few operations each, whatever the batch:
sequences are counted by their length modulo the block size, which says how many ask for a block in a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError
from tuner.performance.grid import Array
from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.lookup import with_host
from tuner.performance.simulation.replica import (
    Costs,
    Replica,
    Settings,
    forget_prefix,
    new_replica,
    planned_by,
    receive,
)
from tuner.performance.simulation.step_course import close_step, decode_on, step_cost
from tuner.performance.simulation.step_plan import plan_step
from tuner.performance.simulation.step_tables import StepTables

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """What arrives, in order of arrival.

    Attributes:
        arrival_s: ascending; of a closed loop, only those of the clients' first requests mean anything.
        input_tokens, output_tokens: of each.
        prefilled: whether prompts were computed elsewhere, and one token with them.
        clients: of a closed loop; each sends its next request `think_time_s` after an answer. 0 for an open loop.
        think_time_s: pause of each client.
    """

    arrival_s: Array
    input_tokens: Counts
    output_tokens: Counts
    prefilled: bool = False
    clients: int = 0
    think_time_s: float = 0.0

    def __post_init__(self) -> None:
        sizes = {self.arrival_s.size, self.input_tokens.size, self.output_tokens.size}
        if len(sizes) != 1 or 0 in sizes:
            raise UsageError(f"Requests need as many arrivals as lengths, and one at least; found {sorted(sizes)}.")
        if np.any(np.diff(self.arrival_s) < 0) or not np.all(np.isfinite(self.arrival_s)):
            raise UsageError("Arrivals do not ascend, or are not finite. Sort the requests by arrival.")
        if self.input_tokens.min() < 1 or self.output_tokens.min() < 1:
            raise UsageError("A request has an input or output of no tokens. Write lengths of 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """What the engine is set to.

    Attributes:
        max_num_seqs, max_num_batched_tokens: places, and tokens of one step.
        blocks, block_size: of the cache; tokens per block.
        max_model_len: most tokens of a prompt and its answer, `None` where the cache alone limits them; what is longer
            than either is refused as it arrives.
        prefix_caching: whether free blocks keep what they hold until they are taken, so that a sequence thrown out
            finds what is left of its own (V1 only).
        shared_prefix_tokens: leading tokens that all prompts share and the cache keeps (V1 only).
        prefill_first: steps compute whole prompts or decode, never both (vLLM V0).
        padded: with `prefill_first`, every prompt of a step counts as the longest (vLLM before 0.3).
        reserve_input: a prompt is admitted only when all of its blocks are free.
        watermark: share of the blocks that admissions leave free.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    blocks: int
    block_size: int = 16
    max_model_len: int | None = None
    prefix_caching: bool = False
    shared_prefix_tokens: int = 0
    prefill_first: bool = False
    padded: bool = False
    reserve_input: bool = True
    watermark: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "blocks", "block_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}. Write 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of the requests; times in s, NaN where a request could never fit.

    Attributes:
        arrival_s: per request; in a closed loop they follow from the answers.
        scheduled_s, first_token_s, finished_s: per request, on the clock of the arrivals.
        preemptions: how often each was thrown out.
        steps: of the engine.
        refused: requests too long for the cache or for `max_model_len`.
    """

    arrival_s: Array
    scheduled_s: Array
    first_token_s: Array
    finished_s: Array
    preemptions: Counts
    steps: int
    refused: int


def simulate(requests: Requests, scheduler: Scheduler, tables: StepTables) -> Served:
    """Runs all requests through one replica."""
    return _served(
        _run(
            *arrays_of(requests),
            min(requests.clients, requests.arrival_s.size),
            settings_of(scheduler, requests),
            costs_of(tables),
        )
    )


def arrays_of(requests: Requests) -> tuple[Array, Counts, Counts]:
    """Arrivals and lengths as compiled code takes them."""
    return (
        requests.arrival_s.astype(np.float64),
        requests.input_tokens.astype(np.int64),
        requests.output_tokens.astype(np.int64),
    )


def settings_of(scheduler: Scheduler, requests: Requests) -> Settings:
    """The scheduler as compiled code takes it."""
    size, watermark = scheduler.block_size, int(scheduler.watermark * scheduler.blocks)
    room = (scheduler.blocks - watermark) * size
    return Settings(
        places=scheduler.max_num_seqs,
        budget=scheduler.max_num_batched_tokens,
        longest=room if scheduler.max_model_len is None else min(scheduler.max_model_len, room),
        blocks=scheduler.blocks,
        size=size,
        watermark=watermark,
        caching=scheduler.prefix_caching and not scheduler.prefill_first,
        prefix=0 if scheduler.prefill_first else scheduler.shared_prefix_tokens // size * size,
        prefill_first=scheduler.prefill_first,
        padded=scheduler.padded,
        reserve=scheduler.reserve_input,
        prefilled=requests.prefilled,
        think=requests.think_time_s,
    )


def costs_of(tables: StepTables) -> Costs:
    """The tables as compiled code takes them."""
    return Costs(
        tokens=(tables.tokens, tables.token_s),
        sequences=(tables.sequences, tables.sequence_s),
        decode=(tables.batches, tables.contexts, tables.decode_s),
        skew=tables.skew,
        mixed=(tables.batches, tables.contexts, tables.mixed_decode_s),
        mixed_skew=tables.mixed_skew,
        prefill=(tables.chunks, tables.cached, tables.prefill_s),
        host=tables.host_s,
        each=tables.host_per_sequence_s,
        overlapped=tables.overlapped,
    )


def _served(replica: Replica) -> Served:
    sequences, state = replica.sequences, replica.state[0]
    return Served(
        arrival_s=sequences["arrival"],
        scheduled_s=sequences["scheduled"],
        first_token_s=sequences["first"],
        finished_s=sequences["finished"],
        preemptions=sequences["preemptions"],
        steps=int(state["steps"]),
        refused=int(state["refused"]),
    )


def _run_python(arrival: Any, inputs: Any, outputs: Any, clients: Any, settings: Any, costs: Any) -> Any:
    replica = new_replica(arrival, inputs, outputs, clients, settings)
    state, sequences = replica.state[0], replica.sequences
    now, begun = arrival[0], np.inf
    while state.done < sequences.shape[0]:
        until = planned_by(state.active, now, begun, costs.overlapped)
        if state.head < state.tail or (state.arrived < state.due and sequences[state.arrived].arrival <= until):
            receive(replica, settings, until)
        if state.active == 0 and state.head == state.tail:
            if state.done < sequences.shape[0]:
                now = max(now, sequences[state.arrived].arrival)
            continue
        plan_step(replica, settings, now)
        total, gpu = step_cost(replica, costs)
        if total == 0:
            if state.active == 0 and state.prefix_known:
                forget_prefix(replica, settings)
            elif state.arrived < state.due:
                now, begun = max(now, sequences[state.arrived].arrival), np.inf
            else:
                break
            continue
        begun = now
        now += with_host(gpu, float(state.active), costs.host, costs.each, costs.overlapped)
        close_step(replica, settings, now)
        now, begun = decode_on(replica, settings, costs, now, begun)
    return replica


_run = compiled(_run_python)
