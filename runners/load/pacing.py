"""Pacing: who decides when the next request is sent."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from runners.load.exchange import Exchange
from runners.load.timer import Timer
from tuner.workload import ClosedLoop

_BATCH: Final = 32
"""Sends per turn of the event loop: answers must be read in between, also when there is much to catch up."""

_SLACK_S: Final = 0.001
"""Requests are built ahead only while nothing is due for this long."""

_FIRST_BACKOFF_S: Final = 0.02
_LAST_BACKOFF_S: Final = 1.0


class Pacer(Protocol):
    """Sends requests by its own rule until it is stopped."""

    def start(self, start_s: float) -> None:
        """Begins; `start_s` is the load's zero on the monotonic clock."""
        ...

    def settled(self, exchange: Exchange) -> None:
        """One of its exchanges has ended."""
        ...

    def stop(self) -> None:
        """Sends nothing more."""
        ...

    def behind_s(self, now_s: float) -> float:
        """How long the next request has been due; negative or 0 when nothing is overdue."""
        ...


class OpenLoopPacer:
    """Sends at the given times, whatever the server does."""

    def __init__(self, times: Iterator[float], send: Callable[[float, int], None], idle: Callable[[], object]) -> None:
        """`send(due_s, client)` sends one request; `idle()` is called when there is time to spare."""
        self._times = times
        self._send = send
        self._idle = idle
        self._start_s = 0.0
        self._due_s = 0.0
        self._running = False
        self._timer: Timer | None = None

    def start(self, start_s: float) -> None:
        self._start_s = start_s
        self._running = True
        self._timer = Timer(self._turn)
        self._due_s = start_s + next(self._times)
        self._timer.set(self._due_s)

    def settled(self, exchange: Exchange) -> None:
        """An open loop does not care."""

    def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def behind_s(self, now_s: float) -> float:
        return now_s - self._due_s

    def _turn(self) -> None:
        if not self._running or self._timer is None:
            return
        for _ in range(_BATCH):
            if self._due_s > time.perf_counter():
                break
            self._send(self._due_s, 0)
            self._due_s = self._start_s + next(self._times)
        else:
            asyncio.get_running_loop().call_soon(self._turn)
            return
        if self._due_s - time.perf_counter() > _SLACK_S:
            self._idle()
        self._timer.set(self._due_s)


class ClosedLoopPacer:
    """A fixed number of clients, each sending when its last request has ended and it has thought.

    A client that cannot connect waits before it tries again, twice as long each time.
    """

    def __init__(self, loop: ClosedLoop, send: Callable[[float, int], None], idle: Callable[[], object]) -> None:
        self._clients = loop.clients
        self._think_s = loop.think_time_s
        self._send = send
        self._idle = idle
        self._due: list[tuple[float, int]] = []
        self._backoff_s = [0.0] * loop.clients
        self._running = False
        self._scheduled = False
        self._timer: Timer | None = None

    def start(self, start_s: float) -> None:
        self._running = True
        self._timer = Timer(self._turn)
        for client in range(self._clients):
            # Clients that all begin at once would think in step; they are spread over one think time.
            heapq.heappush(self._due, (start_s + self._think_s * client / self._clients, client))
        self._timer.set(start_s)

    def settled(self, exchange: Exchange) -> None:
        client = exchange.client
        if exchange.unreachable:
            self._backoff_s[client] = min(max(2 * self._backoff_s[client], _FIRST_BACKOFF_S), _LAST_BACKOFF_S)
        else:
            self._backoff_s[client] = 0.0
        due_s = exchange.finished_s + self._think_s + self._backoff_s[client]
        heapq.heappush(self._due, (due_s, client))
        if not self._scheduled and self._running:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def stop(self) -> None:
        self._running = False
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def behind_s(self, now_s: float) -> float:
        return now_s - self._due[0][0] if self._due else 0.0

    def _turn(self) -> None:
        self._scheduled = False
        if not self._running or self._timer is None:
            return
        for _ in range(_BATCH):
            if not self._due or self._due[0][0] > time.perf_counter():
                break
            due_s, client = heapq.heappop(self._due)
            self._send(due_s, client)
            self._idle()
        if self._due:
            self._timer.set(self._due[0][0])
