"""Free cache blocks in the order in which they are taken, and what they still hold.

vLLM keeps the contents of free blocks until they are taken, the longest free first and the end of a sequence before
its beginning. So the list is a ring of segments, each a number of blocks that hold the beginning of one sequence,
or nothing of use.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.performance.simulation.compiled import compiled

NOBODY = -1


def _new_list_python(sequences: Any, blocks: Any) -> Any:
    """A list of `blocks` that hold nothing: owners, counts, and where the segments begin and end.

    Each sequence has one segment at most, with one of nobody's on either side.
    """
    slots = 2 * sequences + 2
    owners, counts, ends = np.full(slots, NOBODY), np.zeros(slots, np.int64), np.zeros(2, np.int64)
    _append(owners, counts, ends, NOBODY, blocks)
    return owners, counts, ends


def _append_python(owners: Any, counts: Any, ends: Any, sequence: Any, blocks: Any) -> None:
    last = (ends[1] - 1) % owners.shape[0]
    if sequence == NOBODY and ends[1] > ends[0] and owners[last] == NOBODY:
        counts[last] += blocks
    elif blocks > 0:
        owners[ends[1] % owners.shape[0]] = sequence
        counts[ends[1] % owners.shape[0]] = blocks
        ends[1] += 1


def _empty_list_python(free: Any, blocks: Any) -> None:
    """All `blocks` are free again and hold nothing."""
    owners, counts, ends = free
    ends[:] = 0
    _append(owners, counts, ends, NOBODY, blocks)


_append = compiled(_append_python)
new_list = compiled(_new_list_python)
empty_list = compiled(_empty_list_python)


def _give_python(free: Any, sequence: Any, blocks: Any) -> None:
    """Puts blocks last; they hold the beginning of `sequence`, or of `NOBODY`."""
    owners, counts, ends = free
    if ends[1] - ends[0] == owners.shape[0]:  # segments that were emptied from within stand in the way
        begin, end = ends[0], ends[1]
        ends[1] = begin
        for place in range(begin, end):
            owner, count = owners[place % owners.shape[0]], counts[place % owners.shape[0]]
            _append(owners, counts, ends, owner, count)
    _append(owners, counts, ends, sequence, blocks)


give = compiled(_give_python)


def _take_python(free: Any, wanted: Any) -> None:
    """Takes the first blocks; the list holds at least as many."""
    owners, counts, ends = free
    while wanted > 0:
        first = ends[0] % owners.shape[0]
        taken = min(counts[first], wanted)
        counts[first] -= taken
        wanted -= taken
        if counts[first] == 0:
            ends[0] += 1


take = compiled(_take_python)


def _remembered_python(free: Any, sequence: Any) -> Any:
    """How many blocks still hold the beginning of a sequence."""
    owners, counts, ends = free
    for place in range(ends[0], ends[1]):
        if owners[place % owners.shape[0]] == sequence:
            return counts[place % owners.shape[0]]
    return 0


remembered = compiled(_remembered_python)


def _reclaim_python(free: Any, sequence: Any, blocks: Any) -> None:
    """Takes blocks that hold the beginning of a sequence out of the middle; nobody's are those that it leaves."""
    owners, counts, ends = free
    for place in range(ends[0], ends[1]):
        if owners[place % owners.shape[0]] == sequence:
            owners[place % owners.shape[0]] = NOBODY
            counts[place % owners.shape[0]] -= blocks


reclaim = compiled(_reclaim_python)
