"""How long a planned step takes and what it leaves behind, compiled; and stretches of steps that only decode."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.free_list import take
from tuner.performance.simulation.lookup import decode_attention, line, plane, with_host
from tuner.performance.simulation.replica import finish, planned_by


def _step_cost_python(replica: Any, costs: Any) -> Any:
    """Tokens of the step at hand, and the time that the device takes for them."""
    sequences, running = replica.sequences, replica.running
    decoding, context, longest, total, attention, sampling = 0, 0.0, 0, 0, 0.0, 0
    for j in range(replica.state[0].active):
        one = sequences[running[j]]
        if one.chunk == 0:
            continue
        total += one.chunk
        if one.chunk == 1 and one.computed > 0:
            decoding += 1
            context += one.computed + 1
            longest = max(longest, one.computed + 1)
        else:
            attention += plane(
                costs.prefill[0], costs.prefill[1], costs.prefill[2], float(one.chunk), float(one.computed)
            )
        if one.computed + one.chunk >= one.inputs + one.produced:
            sampling += 1
    if total == 0:
        return 0, 0.0
    gpu = line(costs.tokens[0], costs.tokens[1], float(total)) + attention
    gpu += line(costs.sequences[0], costs.sequences[1], float(max(sampling, 1)))
    if decoding > 0:
        table, share = (costs.mixed, costs.mixed_skew) if attention > 0.0 else (costs.decode, costs.skew)
        gpu += decode_attention(table, share, float(decoding), context / decoding, float(longest))
    return total, gpu


def _close_step_python(replica: Any, settings: Any, now: Any) -> None:
    """Tokens that the step has computed; sequences that have all of theirs leave."""
    state, sequences, running = replica.state[0], replica.sequences, replica.running
    state.steps += 1
    kept = 0
    for j in range(state.active):
        r = running[j]
        one = sequences[r]
        one.computed += one.chunk
        if one.chunk > 0 and one.computed >= one.inputs + one.produced:
            one.produced += 1
            if one.produced == 1:
                one.first = now
                if settings.prefix > 0 and not state.prefix_known and one.inputs > settings.prefix:
                    # The cache keeps the first prompt's leading blocks from now on.
                    state.prefix_known = 1
                    one.shared = settings.prefix // settings.size
                    one.held -= one.shared
            if one.produced >= one.outputs:
                finish(replica, settings, r, now)
                continue
        running[kept] = r
        kept += 1
    state.active = kept


def _steps_of_decoding_python(replica: Any, settings: Any, now: Any) -> Any:
    """For how many steps every running sequence gets a token and nothing else can happen; 0 where something can."""
    state, sequences, running = replica.state[0], replica.sequences, replica.running
    if state.active == 0 or state.active > settings.budget:
        return 0
    steps = 2**60
    for j in range(state.active):
        one = sequences[running[j]]
        if one.produced == 0 or one.inputs + one.produced - one.computed != 1:
            return 0
        steps = min(steps, one.outputs - one.produced)
    if state.head < state.tail and state.active < settings.places:
        one = sequences[replica.queue[state.head]]
        brought = settings.prefilled and one.produced == 0
        if brought and one.outputs == 1:
            return 0  # the next step ends it
        if settings.reserve or settings.prefill_first:
            want = one.inputs + (1 if brought else one.produced)
        else:
            want = min(one.inputs, settings.budget - state.active)
        if state.prefix_known:
            want -= settings.prefix
        if (want + settings.size - 1) // settings.size <= state.free - settings.watermark:
            return 0  # the next step admits it
    return steps


def _decode_on_python(replica: Any, settings: Any, costs: Any, now: Any, begun: Any) -> Any:
    """Decodes as long as nothing else can happen; returns the time then, and when the last step began.

    A step costs a few operations, whatever the batch: sequences are counted by their length modulo the block size,
    which says how many ask for a block.
    """
    state, sequences, residues, listed = replica.state[0], replica.sequences, replica.residues, replica.listed
    remaining = _steps_of_decoding(replica, settings, now)
    if remaining == 0:
        return now, begun
    active, size, decode = state.active, settings.size, costs.decode
    total_context, longest = 0, 0
    residues[:] = 0
    for j in range(active):
        known = sequences[replica.running[j]].computed
        total_context += known + 1
        longest = max(longest, known + 1)
        residues[known % size] += 1
    # What ends the stretch early: a request that arrives and finds a place.
    expected = state.head == state.tail and active < settings.places and state.arrived < state.due
    interrupted = sequences[state.arrived].arrival if expected else np.inf
    base = line(costs.tokens[0], costs.tokens[1], float(active))
    base += line(costs.sequences[0], costs.sequences[1], float(active))
    free, taken = state.free, 0
    while taken < remaining and planned_by(active, now, begun, costs.overlapped) < interrupted:
        need = residues[(-taken) % size]
        if need > free:
            break
        free -= need
        take(listed, need)
        mean_context = total_context / active
        gpu = base + decode_attention(decode, costs.skew, float(active), mean_context, float(longest + taken))
        begun = now
        now += with_host(gpu, float(active), costs.host, costs.each, costs.overlapped)
        taken += 1
        total_context += active
    state.free = free
    state.steps += taken
    _produce(replica, settings, taken, now)
    return now, begun


def _produce_python(replica: Any, settings: Any, steps: Any, now: Any) -> None:
    """Every running sequence has got a token in each of some steps."""
    state, sequences, running, size = replica.state[0], replica.sequences, replica.running, settings.size
    kept = 0
    for j in range(state.active):
        r = running[j]
        one = sequences[r]
        one.computed += steps
        one.produced += steps
        one.held = (one.computed + size - 1) // size - one.shared
        if one.produced >= one.outputs:
            finish(replica, settings, r, now)
        else:
            running[kept] = r
            kept += 1
    state.active = kept


step_cost = compiled(_step_cost_python)
close_step = compiled(_close_step_python)
_steps_of_decoding = compiled(_steps_of_decoding_python)
_produce = compiled(_produce_python)
decode_on = compiled(_decode_on_python)
