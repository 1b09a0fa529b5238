"""What one replica of a continuous-batching engine is set to, what its steps cost, and where it stands.

All are named tuples of numbers and arrays, as compiled code can take them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.free_list import NOBODY, empty_list, give, new_list

_SEQUENCE: Final = np.dtype(
    [
        ("arrival", np.float64),
        ("scheduled", np.float64),
        ("first", np.float64),
        ("finished", np.float64),
        ("inputs", np.int64),
        ("outputs", np.int64),
        ("computed", np.int64),
        ("produced", np.int64),
        ("held", np.int64),
        ("shared", np.int64),
        ("chunk", np.int64),
        ("preemptions", np.int64),
    ]
)
"""A request on its way: when it arrived, was first scheduled, had its first and its last token (NaN until then); tokens
of prompt and answer; tokens in the cache, and generated; blocks of its own, and of the shared prefix; tokens in the
step at hand; how often it was thrown out."""

_STATE: Final = np.dtype(
    [
        (name, np.int64)
        for name in ("due", "arrived", "head", "tail", "active", "done", "refused", "steps", "free", "prefix_known")
    ]
)
"""Counts of a replica: requests whose arrival is set (in a closed loop each answer sets one more), and those of them
that have arrived; where its queue begins and ends; sequences that run; requests that are done, those refused among
them; steps; free blocks; and 1 where the cache keeps the leading blocks of a first prompt."""


class Settings(NamedTuple):
    """`continuous.Scheduler`, as compiled code takes it, and what the load says of all requests.

    Attributes:
        places, budget: sequences at a time, and tokens of one step.
        longest: tokens of a prompt and its answer that are not refused.
        blocks, size, watermark: of the cache, in blocks, and tokens per block.
        caching, prefix: whether free blocks keep what they hold, and tokens that all prompts share (0 for none).
        prefill_first, padded, reserve: see there.
        prefilled, think: of the requests.
    """

    places: Any
    budget: Any
    longest: Any
    blocks: Any
    size: Any
    watermark: Any
    caching: Any
    prefix: Any
    prefill_first: Any
    padded: Any
    reserve: Any
    prefilled: Any
    think: Any


class Costs(NamedTuple):
    """`step_tables.StepTables`, as compiled code takes it: a table is its axes and its values."""

    tokens: Any
    sequences: Any
    decode: Any
    skew: Any
    mixed: Any
    mixed_skew: Any
    prefill: Any
    host: Any
    each: Any
    overlapped: Any


class Replica(NamedTuple):
    """Where a replica stands; everything in it is changed in place.

    Few arrays, as a call of compiled code costs time for each of them.

    Attributes:
        sequences: of its requests, shape (n,), see `_SEQUENCE`.
        state: shape (1,), see `_STATE`.
        running: who runs, the first `active` count, in the order in which they came.
        queue: who waits, from `head` to `tail`, shape (n,).
        residues: room for a count per place in a block.
        listed: free blocks in the order in which they are taken (`free_list`).
    """

    sequences: Any
    state: Any
    running: Any
    queue: Any
    residues: Any
    listed: Any


def _new_replica_python(arrival: Any, inputs: Any, outputs: Any, clients: Any, settings: Any) -> Any:
    """A replica that has seen nothing yet; `clients` of a closed loop, 0 for an open one."""
    n = arrival.shape[0]
    sequences, state = np.zeros(n, _SEQUENCE), np.zeros(1, _STATE)
    for r in range(n):
        one = sequences[r]
        one.arrival, one.inputs, one.outputs = arrival[r], inputs[r], outputs[r]
        one.scheduled = one.first = one.finished = np.nan
    state[0].due = clients if clients > 0 else n
    state[0].free = settings.blocks
    running, queue, residues = (
        np.zeros(settings.places, np.int64),
        np.zeros(n, np.int64),
        np.zeros(settings.size, np.int64),
    )
    return Replica(sequences, state, running, queue, residues, new_list(n, settings.blocks))


new_replica = compiled(_new_replica_python)


def _end_python(replica: Any, settings: Any, now: Any) -> None:
    """One request less; its client, if it has one, sends the next."""
    state = replica.state[0]
    state.done += 1
    if state.due < replica.sequences.shape[0]:
        replica.sequences[state.due].arrival = now + settings.think
        state.due += 1


def _planned_by_python(active: Any, now: Any, begun: Any, overlapped: Any) -> Any:
    """Until when what has arrived may be in the step that begins now.

    A loop that runs beside the GPU plans a step when the one before it begins, and has not yet heard of what is
    asked at that very moment (`begun`, infinity where no step was), such as the next request of a client that just got
    its answer.
    """
    return min(now, np.nextafter(begun, -np.inf)) if overlapped and active > 0 else now


def _receive_python(replica: Any, settings: Any, now: Any) -> None:
    """Queues what has arrived, and refuses what can never fit."""
    state, sequences = replica.state[0], replica.sequences
    while state.arrived < state.due and sequences[state.arrived].arrival <= now:
        one = sequences[state.arrived]
        if one.inputs + one.outputs > settings.longest:
            state.refused += 1
            _end(replica, settings, one.arrival)
        else:
            replica.queue[state.tail] = state.arrived
            state.tail += 1
        state.arrived += 1


def _finish_python(replica: Any, settings: Any, r: Any, now: Any) -> None:
    """A running sequence has its last token: its blocks are free, and hold nothing that anybody will look for."""
    one = replica.sequences[r]
    one.finished = now
    replica.state[0].free += one.held
    give(replica.listed, NOBODY, one.held)
    _end(replica, settings, now)


def _finish_at_once_python(replica: Any, settings: Any, r: Any, now: Any) -> None:
    """A waiting sequence whose only token came with its prompt, computed elsewhere."""
    one = replica.sequences[r]
    one.produced, one.first = 1, one.arrival
    one.scheduled = one.finished = now
    _end(replica, settings, now)


def _forget_prefix_python(replica: Any, settings: Any) -> None:
    """Nobody shares the prefix now: its blocks are given up."""
    replica.state[0].prefix_known = 0
    replica.state[0].free = settings.blocks
    empty_list(replica.listed, settings.blocks)


_end = compiled(_end_python)
planned_by = compiled(_planned_by_python)
receive = compiled(_receive_python)
finish = compiled(_finish_python)
finish_at_once = compiled(_finish_at_once_python)
forget_prefix = compiled(_forget_prefix_python)
