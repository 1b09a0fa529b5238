"""The HTTP client: a pool of keep-alive connections to one server.

A request takes an idle connection (the one used last, as most clients do), or has a new one opened;
while that is under way it takes whichever is free first. At `max_connections` requests wait here,
their clocks running.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from runners.load.connection import Connection
from runners.load.exchange import Exchange, Fate
from runners.load.http_head import Endpoint

MAX_CONNECTIONS: Final = 8192
"""Below the usual limits of open files and of ephemeral ports."""


class Client:
    """Sends exchanges and settles them; `on_settled` is called with each, once."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout_s: float,
        on_settled: Callable[[Exchange], None],
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._on_settled = on_settled
        self._max_connections = max_connections
        self._tls = ssl.create_default_context() if endpoint.tls else None
        self._idle: list[Connection] = []
        self._busy: dict[Exchange, Connection] = {}
        self._waiting: deque[Exchange] = deque()
        self._in_flight: deque[Exchange] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Requests that were sent or wait for a connection."""
        return len(self._busy) + sum(exchange.fate is Fate.OPEN for exchange in self._waiting)

    def oldest_open(self) -> list[Exchange]:
        """Open exchanges, oldest first."""
        return [exchange for exchange in self._in_flight if exchange.fate is Fate.OPEN]

    def submit(self, exchange: Exchange) -> None:
        """Sends `exchange` as soon as there is a connection."""
        self._in_flight.append(exchange)
        self._send(exchange)

    def expire(self, now_s: float) -> None:
        """Times out what is overdue; to be called a few times per second."""
        queue = self._in_flight
        while queue and (queue[0].fate is not Fate.OPEN or now_s >= queue[0].due_s + self._timeout_s):
            exchange = queue.popleft()
            if exchange.fate is Fate.OPEN:
                connection = self._busy.pop(exchange, None)
                if connection is not None:
                    connection.abort()
                exchange.settle(Fate.TIMED_OUT, now_s, f"no whole answer within {self._timeout_s:g} s")
                self._on_settled(exchange)

    async def close(self) -> None:
        """Drops every connection; exchanges under way stay open for ever."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in [*self._idle, *self._busy.values()]:
            connection.abort()
        self._idle.clear()
        self._busy.clear()
        self._waiting.clear()

    # what connections report

    def answered(self, connection: Connection, error: str | None, now_s: float, *, reusable: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        connection.exchange = None
        self._busy.pop(exchange, None)
        if reusable:
            self._offer(connection)
        else:
            self._replace()
        exchange.settle(Fate.COMPLETED if error is None else Fate.FAILED, now_s, error)
        self._on_settled(exchange)

    def broken(self, connection: Connection, error: str, now_s: float, *, silent: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        connection.exchange = None
        self._busy.pop(exchange, None)
        if silent and connection.uses > 1 and not exchange.retried:
            # A server may close an idle connection just as it is used again; one more try, on another
            # connection, is what clients owe it (RFC 9112, section 9.3.1).
            exchange.retried = True
            self._waiting.appendleft(exchange)
            self._open()
            return
        self._replace()
        exchange.settle(Fate.FAILED, now_s, error)
        self._on_settled(exchange)

    def lost(self, connection: Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    # inside

    def _send(self, exchange: Exchange) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._busy[exchange] = connection
                connection.send(exchange)
                return
        self._waiting.append(exchange)
        self._replace()

    def _replace(self) -> None:
        """Opens a connection if requests wait for more than are on their way."""
        if len(self._opening) < len(self._waiting) and len(self._busy) + len(self._opening) < self._max_connections:
            self._open()

    def _offer(self, connection: Connection) -> None:
        """Gives a free connection to the request that has waited longest."""
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.fate is Fate.OPEN:
                self._busy[exchange] = connection
                connection.send(exchange)
                return
        self._idle.append(connection)

    def _open(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        connection = Connection(self)
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.create_connection(
                    lambda: connection,
                    self._endpoint.address,
                    self._endpoint.port,
                    ssl=self._tls,
                    server_hostname=self._endpoint.host if self._tls is not None else None,
                )
        except (OSError, TimeoutError) as error:
            self._fail_oldest(error)
        else:
            self._offer(connection)

    def _fail_oldest(self, error: Exception) -> None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.fate is Fate.OPEN:
                exchange.unreachable = True
                text = getattr(error, "strerror", None) or str(error) or type(error).__name__
                exchange.settle(Fate.FAILED, time.perf_counter(), f"cannot connect: {text}")
                self._on_settled(exchange)
                return
