"""What a replica computes in one step, compiled: who runs on, who is thrown out, who is admitted.

Every function changes the replica in place and leaves in `chunk` how many tokens each running sequence computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.free_list import NOBODY, give, reclaim, remembered, take
from tuner.performance.simulation.replica import finish_at_once


def _plan_step_python(replica: Any, settings: Any, now: Any) -> None:
    """Schedules one step."""
    state, sequences, running = replica.state[0], replica.sequences, replica.running
    for j in range(state.active):
        sequences[running[j]].chunk = 0
    if settings.prefill_first and state.head < state.tail and _admit_prompts(replica, settings, now):
        return
    left, thrown_out = _run_on(replica, settings)
    if state.head < state.tail and not settings.prefill_first and not thrown_out:
        _admit_waiting(replica, settings, left, now)


def _admit_prompts_python(replica: Any, settings: Any, now: Any) -> Any:
    """Whole prompts of waiting sequences, as many as fit; whether any does."""
    state, size = replica.state[0], settings.size
    before, left, longest = state.active, settings.budget, 0
    while state.head < state.tail and state.active < settings.places:
        one = replica.sequences[replica.queue[state.head]]
        want = one.inputs + one.produced
        longest = max(longest, want)
        admitted = state.active - before
        counted = (admitted + 1) * longest if settings.padded else settings.budget - left + want
        if counted > settings.budget and admitted > 0:
            break
        need = (want + size - 1) // size
        if need > state.free - settings.watermark:
            break
        one.computed, one.held = 0, need
        state.free -= need
        take(replica.listed, need)
        _admit(replica, want, now)
        left -= want
        if left <= 0:
            break
    return state.active > before


def _admit_python(replica: Any, tokens: Any, now: Any) -> None:
    """The first in the queue runs from now on, with `tokens` in this step."""
    state = replica.state[0]
    r = replica.queue[state.head]
    one = replica.sequences[r]
    one.chunk = tokens
    if np.isnan(one.scheduled):
        one.scheduled = now
    replica.running[state.active] = r
    state.head += 1
    state.active += 1


def _run_on_python(replica: Any, settings: Any) -> Any:
    """The next tokens of running sequences; tokens left in the step, and whether any sequence was thrown out."""
    state, sequences, running, listed = replica.state[0], replica.sequences, replica.running, replica.listed
    size, left, thrown_out = settings.size, settings.budget, False
    j = 0
    while j < state.active:
        one = sequences[running[j]]
        new = min(one.inputs + one.produced - one.computed, left)
        if new <= 0:
            j += 1
            continue
        need = (one.computed + new + size - 1) // size - one.shared - one.held
        while need > state.free:
            left += sequences[running[state.active - 1]].chunk
            _throw_out_last(replica, settings)
            thrown_out = True
            if state.active == j:
                return left, thrown_out
        if need > 0:
            state.free -= need
            take(listed, need)
            one.held += need
        one.chunk = new
        left -= new
        j += 1
    return left, thrown_out


def _throw_out_last_python(replica: Any, settings: Any) -> None:
    """The sequence that came last waits again, first in the queue; its full blocks may be found again."""
    state = replica.state[0]
    state.active -= 1
    victim = replica.running[state.active]
    one = replica.sequences[victim]
    state.free += one.held
    full = min(one.computed // settings.size - one.shared, one.held) if settings.caching else 0
    give(replica.listed, NOBODY, one.held - full)
    give(replica.listed, victim, full)
    one.held, one.computed, one.chunk = 0, 0, 0
    one.preemptions += 1
    state.head -= 1
    replica.queue[state.head] = victim


def _admit_waiting_python(replica: Any, settings: Any, left: Any, now: Any) -> None:
    """Waiting sequences while places, tokens and blocks last."""
    state, size = replica.state[0], settings.size
    while state.head < state.tail and state.active < settings.places and left > 0:
        r = replica.queue[state.head]
        one = replica.sequences[r]
        brought = settings.prefilled and one.produced == 0
        if brought and one.outputs == 1:
            state.head += 1
            finish_at_once(replica, settings, r, now)
            continue
        start = 0
        if brought:
            start = one.inputs
        elif state.prefix_known and settings.prefix > 0:
            start = min(settings.prefix, (one.inputs - 1) // size * size)
        # Blocks of the shared prefix belong to the cache, not to the sequence.
        common = 0 if settings.prefilled else start // size
        whole = one.inputs + (1 if brought else one.produced)
        again = 0
        if settings.caching and one.preemptions > 0 and one.shared <= common:
            known = min(one.shared + remembered(replica.listed, r), (whole - 1) // size)
            again = max(known - common, 0)
            start = max(start, known * size)
        new = min(whole - start, left)
        target = whole if settings.reserve else start + new
        if (target + size - 1) // size - common > state.free - settings.watermark:
            break
        if brought:
            one.produced, one.first = 1, one.arrival
        one.computed, one.shared = start, common
        one.held = (start + new + size - 1) // size - common
        state.free -= one.held
        reclaim(replica.listed, r, again)
        take(replica.listed, one.held - again)
        _admit(replica, new, now)
        left -= new


_admit = compiled(_admit_python)
_throw_out_last = compiled(_throw_out_last_python)
_admit_prompts = compiled(_admit_prompts_python)
_run_on = compiled(_run_on_python)
_admit_waiting = compiled(_admit_waiting_python)
plan_step = compiled(_plan_step_python)
