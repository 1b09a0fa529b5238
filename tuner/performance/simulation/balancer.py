"""How requests are shared out among copies of an engine, as vLLM's own front end does it (`DPLBAsyncMPClient`).

A request goes to the copy that seems to have the least to do. What each of them has, waiting and running, the front
end hears from time to time; in between it counts those that it has sent itself.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tuner.errors import UsageError
from tuner.performance.simulation.compiled import compiled
from tuner.performance.simulation.continuous import Requests, Served
from tuner.performance.simulation.replica import new_replica

COUNTED_EVERY_S: Final = 0.1
"""How often the front end hears of the copies' requests at most (vLLM 0.19, `DPCoordinatorProc`)."""


def check_shared_out(requests: Requests, copies: int, noun: str) -> None:
    """That requests can be shared out among `copies` of what `noun` names.

    Raises:
        UsageError: a closed loop, or no copies.
    """
    if requests.clients:
        raise UsageError(f"{noun} serve no closed loop. Give arrivals, and 0 clients.")
    if copies < 1:
        raise UsageError(f"{copies} {noun.lower()} serve nothing. Write 1 or more.")


def served_by(requests: Requests, collected: tuple[Any, Any, Any, Any]) -> Served:
    """What became of the requests, as `collected` tells it."""
    times, preemptions, steps, refused = collected
    return Served(
        arrival_s=requests.arrival_s,
        scheduled_s=times[0],
        first_token_s=times[1],
        finished_s=times[2],
        preemptions=preemptions,
        steps=int(steps),
        refused=int(refused),
    )


def _idle_copies_python(arrival: Any, inputs: Any, outputs: Any, copies: Any, settings: Any) -> Any:
    """Copies to which nothing is sent yet: each has a place for every request, which never arrives until it is."""
    nothing = np.full(arrival.shape[0], np.inf)
    return [new_replica(nothing, inputs, outputs, 0, settings) for _ in range(copies)]


def _choose_python(believed: Any) -> Any:
    """The copy for the next request, and one more that waits there: a request that waits counts as four that run, and
    of equals the first is taken."""
    least, chosen = 2**62, 0
    for copy in range(believed.shape[0]):
        score = 4 * believed[copy, 0] + believed[copy, 1]
        if score < least:
            least, chosen = score, copy
    believed[chosen, 0] += 1
    return chosen


def _send_python(replica: Any, place: Any, arrival: Any, inputs: Any, outputs: Any) -> None:
    """A request becomes the one at `place` of a replica."""
    one = replica.sequences[place]
    one.arrival, one.inputs, one.outputs = arrival, inputs, outputs


def _hear_python(believed: Any, counted: Any, heard: Any, now: Any) -> Any:
    """The front end hears what was counted, where it is time to; returns when it last did."""
    if now - heard < COUNTED_EVERY_S:
        return heard
    believed[:] = counted
    return now


def _collected_python(replicas: Any, owner: Any, steps: Any) -> Any:
    """What became of all requests, in their order: times, shape (3, n), preemptions, steps, refused."""
    count, copies = owner.shape[0], len(replicas)
    times, preemptions, refused = np.empty((3, count)), np.empty(count, np.int64), 0
    for copy in range(copies):
        refused += replicas[copy].state[0].refused
    found = np.zeros(copies, np.int64)
    for r in range(count):
        one = replicas[owner[r]].sequences[found[owner[r]]]
        found[owner[r]] += 1
        times[0, r], times[1, r], times[2, r] = one.scheduled, one.first, one.finished
        preemptions[r] = one.preemptions
    return times, preemptions, steps, refused


idle_copies = compiled(_idle_copies_python)
choose = compiled(_choose_python)
send = compiled(_send_python)
hear = compiled(_hear_python)
collected = compiled(_collected_python)
