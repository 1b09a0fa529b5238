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
from tuner.performance.simulation.free_list import NOBODY, give, new_list, reclaim, remembered, take
from tuner.performance.simulation.lookup import answered, decode_attention, line, plane, with_host
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
    prefix_caching: bool = False
    shared_prefix_tokens: int = 0
    prefill_first: bool = False
    padded: bool = False
    reserve_input: bool = True
    watermark: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "blocks", "block_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}. Write 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of the requests; times in s, NaN where a request could never fit.

    Attributes:
        arrival_s: per request; in a closed loop they follow from the answers.
        scheduled_s, first_token_s, finished_s: per request, on the clock of the arrivals.
        preemptions: how often each was thrown out.
        steps: of the engine.
        refused: requests too long for the cache.
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
    arrival, scheduled, first, finished, preemptions, steps, refused = _run(
        requests.arrival_s.astype(np.float64),
        requests.input_tokens.astype(np.int64),
        requests.output_tokens.astype(np.int64),
        requests.prefilled,
        min(requests.clients, requests.arrival_s.size),
        requests.think_time_s,
        scheduler.max_num_seqs,
        scheduler.max_num_batched_tokens,
        scheduler.blocks,
        scheduler.block_size,
        scheduler.prefix_caching and not scheduler.prefill_first,
        0 if scheduler.prefill_first else scheduler.shared_prefix_tokens // scheduler.block_size * scheduler.block_size,
        scheduler.prefill_first,
        scheduler.padded,
        scheduler.reserve_input,
        int(scheduler.watermark * scheduler.blocks),
        (tables.tokens, tables.token_s),
        (tables.sequences, tables.sequence_s),
        (tables.batches, tables.contexts, tables.decode_s),
        tables.skew,
        (tables.batches, tables.contexts, tables.mixed_decode_s),
        tables.mixed_skew,
        (tables.chunks, tables.cached, tables.prefill_s),
        tables.host_s,
        tables.host_per_sequence_s,
        tables.overlapped,
    )
    return Served(
        arrival_s=arrival,
        scheduled_s=scheduled,
        first_token_s=first,
        finished_s=finished,
        preemptions=preemptions,
        steps=int(steps),
        refused=int(refused),
    )


def _run_python(
    arrival: Any,
    inputs: Any,
    outputs: Any,
    prefilled: Any,
    clients: Any,
    think: Any,
    places: Any,
    budget: Any,
    blocks: Any,
    size: Any,
    caching: Any,
    prefix: Any,
    prefill_first: Any,
    padded: Any,
    reserve: Any,
    watermark: Any,
    tokens_table: Any,
    sequences_table: Any,
    decode_table: Any,
    skew: Any,
    mixed_table: Any,
    mixed_skew: Any,
    prefill_table: Any,
    host: Any,
    each: Any,
    overlapped: Any,
) -> Any:
    n = arrival.shape[0]
    arrival = arrival.copy()
    due = clients if clients > 0 else n  # requests whose arrival is set; in a closed loop each answer sets one more
    scheduled, first, finished = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    preemptions = np.zeros(n, dtype=np.int64)
    computed, produced, held = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    chunk, shared = np.zeros(n, np.int64), np.zeros(n, np.int64)
    running, queue = np.zeros(places, np.int64), np.zeros(n, np.int64)
    residues = np.zeros(size, np.int64)
    head, tail, active, done, refused, steps = 0, 0, 0, 0, 0, 0
    free = blocks
    listed = new_list(n, blocks)
    now = arrival[0]
    prefix_known = False
    while done < n:
        while tail < due and arrival[tail] <= now:
            queue[tail] = tail
            tail += 1
        while head < tail:  # what can never fit is refused, not waited for
            r = queue[head]
            if (inputs[r] + outputs[r] + size - 1) // size <= blocks - watermark:
                break
            head += 1
            refused += 1
            done += 1
            due = answered(arrival, due, now + think)
        if active == 0 and head == tail:
            if done >= n:
                break
            now = max(now, arrival[tail])
            continue

        # schedule one step
        left = budget
        thrown_out = False
        prompts_only = False
        for j in range(active):
            chunk[running[j]] = 0
        before = active
        if prefill_first and head < tail:
            # whole prompts of waiting sequences, if any fits
            longest = 0
            while head < tail and active < places:
                r = queue[head]
                want = inputs[r] + produced[r]
                longest = max(longest, want)
                counted = (active - before + 1) * longest if padded else budget - left + want
                if counted > budget and active > before:
                    break
                need = (want + size - 1) // size
                if need > free - watermark:
                    break
                head += 1
                computed[r], chunk[r], held[r] = 0, want, need
                free -= need
                take(listed, need)
                left -= want
                running[active] = r
                active += 1
                if np.isnan(scheduled[r]):
                    scheduled[r] = now
                if left <= 0:
                    break
            prompts_only = active > before
        if not prompts_only:
            j = 0
            while j < active:
                r = running[j]
                new = min(inputs[r] + produced[r] - computed[r], left)
                if new <= 0:
                    j += 1
                    continue
                need = (computed[r] + new + size - 1) // size - shared[r] - held[r]
                gone = False
                while need > free:
                    victim = running[active - 1]
                    active -= 1
                    thrown_out = True
                    free += held[victim]
                    left += chunk[victim]
                    full = min(computed[victim] // size - shared[victim], held[victim]) if caching else 0
                    give(listed, NOBODY, held[victim] - full)
                    give(listed, victim, full)
                    held[victim], computed[victim], chunk[victim] = 0, 0, 0
                    preemptions[victim] += 1
                    head -= 1
                    queue[head] = victim
                    if victim == r:
                        gone = True
                        break
                if gone:
                    break
                free -= need
                take(listed, need)
                held[r] += need
                chunk[r] = new
                left -= new
                j += 1
            if not prefill_first and not thrown_out:
                while head < tail and active < places and left > 0:
                    r = queue[head]
                    if prefilled and produced[r] == 0:
                        produced[r] = 1
                        first[r] = arrival[r]
                        computed[r] = inputs[r]
                        if produced[r] >= outputs[r]:
                            head += 1
                            finished[r] = now
                            scheduled[r] = now
                            done += 1
                            due = answered(arrival, due, now + think)
                            continue
                        start = inputs[r]
                    else:
                        start = 0
                        if prefix_known and prefix > 0:
                            start = min(prefix, (inputs[r] - 1) // size * size)
                    # blocks of the shared prefix belong to the cache, not to the sequence
                    common = 0 if prefilled else start // size
                    whole = inputs[r] + produced[r]
                    again = 0
                    if caching and preemptions[r] > 0 and shared[r] <= common:
                        known = min(shared[r] + remembered(listed, r), (whole - 1) // size)
                        again = max(known - common, 0)
                        start = max(start, known * size)
                    new = min(whole - start, left)
                    target = whole if reserve else start + new
                    if (target + size - 1) // size - common > free - watermark:
                        break
                    head += 1
                    computed[r], chunk[r], shared[r] = start, new, common
                    held[r] = (start + new + size - 1) // size - common
                    free -= held[r]
                    reclaim(listed, r, again)
                    take(listed, held[r] - again)
                    left -= new
                    running[active] = r
                    active += 1
                    if np.isnan(scheduled[r]):
                        scheduled[r] = now

        # time it
        decoding, context, longest, total, attention, sampling = 0, 0.0, 0, 0, 0.0, 0
        for j in range(active):
            r = running[j]
            new = chunk[r]
            if new == 0:
                continue
            total += new
            if new == 1 and computed[r] > 0:
                decoding += 1
                context += computed[r] + 1
                longest = max(longest, computed[r] + 1)
            else:
                attention += plane(prefill_table[0], prefill_table[1], prefill_table[2], float(new), float(computed[r]))
            if computed[r] + new >= inputs[r] + produced[r]:
                sampling += 1
        if total == 0 and active == 0 and prefix_known:
            prefix_known = False  # nobody shares it now: its blocks are given up
            free = blocks
            listed = new_list(n, blocks)
            continue
        if total == 0:
            if tail < due:
                now = max(now, arrival[tail])
                continue
            break
        gpu = line(tokens_table[0], tokens_table[1], float(total)) + attention
        gpu += line(sequences_table[0], sequences_table[1], float(max(sampling, 1)))
        if decoding > 0:
            table, share = (mixed_table, mixed_skew) if attention > 0.0 else (decode_table, skew)
            gpu += decode_attention(table, share, float(decoding), context / decoding, float(longest))
        now += with_host(gpu, float(active), host, each, overlapped)
        steps += 1

        # close it
        kept = 0
        for j in range(active):
            r = running[j]
            computed[r] += chunk[r]
            over = False
            if chunk[r] > 0 and computed[r] >= inputs[r] + produced[r]:
                produced[r] += 1
                if produced[r] == 1:
                    first[r] = now
                    if prefix > 0 and not prefix_known and inputs[r] > prefix:
                        prefix_known = True  # the cache keeps the first prompt's leading blocks from now on
                        shared[r] = prefix // size
                        held[r] -= shared[r]
                if produced[r] >= outputs[r]:
                    finished[r] = now
                    free += held[r]
                    give(listed, NOBODY, held[r])
                    done += 1
                    due = answered(arrival, due, now + think)
                    over = True
            if not over:
                running[kept] = r
                kept += 1
        active = kept

        # decode as long as nothing else can happen
        if active == 0 or (tail < n and arrival[tail] <= now):
            continue
        uniform = True
        remaining, total_context, longest = 2**60, 0, 0
        for j in range(active):
            r = running[j]
            if produced[r] == 0 or inputs[r] + produced[r] - computed[r] != 1:
                uniform = False
                break
            remaining = min(remaining, outputs[r] - produced[r])
            total_context += computed[r] + 1
            longest = max(longest, computed[r] + 1)
        if not uniform or active > budget:
            continue
        if head < tail and active < places:
            r = queue[head]
            want = inputs[r] + produced[r] if (reserve or prefill_first) else min(inputs[r], budget - active)
            if prefix_known:
                want -= prefix
            if (want + size - 1) // size <= free - watermark:
                continue  # the next step admits it
        residues[:] = 0
        for j in range(active):
            residues[computed[running[j]] % size] += 1
        taken = 0
        mean_base = line(tokens_table[0], tokens_table[1], float(active))
        mean_base += line(sequences_table[0], sequences_table[1], float(active))
        while remaining > 0:
            need = residues[(-taken) % size]
            if need > free:
                break
            free -= need
            take(listed, need)
            mean_context = total_context / active
            gpu = mean_base + decode_attention(decode_table, skew, float(active), mean_context, float(longest + taken))
            now += with_host(gpu, float(active), host, each, overlapped)
            steps += 1
            taken += 1
            remaining -= 1
            total_context += active
            if tail < due and arrival[tail] <= now and head == tail and active < places:
                break
        kept = 0
        for j in range(active):
            r = running[j]
            computed[r] += taken
            produced[r] += taken
            held[r] = (computed[r] + size - 1) // size - shared[r]
            if produced[r] >= outputs[r]:
                finished[r] = now
                free += held[r]
                give(listed, NOBODY, held[r])
                done += 1
                due = answered(arrival, due, now + think)
            else:
                running[kept] = r
                kept += 1
        active = kept
    return arrival, scheduled, first, finished, preemptions, steps, refused


_run = compiled(_run_python)
