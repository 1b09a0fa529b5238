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
from collections.abc import Callable, Iterable
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
        self._open: dict[Exchange, Connection | None] = {}
        self._waiting: deque[Exchange] = deque()
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def open_exchanges(self) -> Iterable[Exchange]:
        """Exchanges under way, in the order in which they were submitted."""
        return self._open

    @property
    def in_flight(self) -> int:
        """How many exchanges are under way."""
        return len(self._open)

    def submit(self, exchange: Exchange) -> None:
        """Sends `exchange` as soon as there is a connection."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._open[exchange] = connection
                connection.send(exchange)
                return
        self._open[exchange] = None
        self._waiting.append(exchange)
        self._connect_if_needed()

    def expire(self, now_s: float) -> None:
        """Times out what is overdue; to be called a few times per second."""
        while self._open:
            exchange = next(iter(self._open))
            if now_s < exchange.due_s + self._timeout_s:
                return
            connection = self._open[exchange]
            if connection is not None:
                connection.abort()
            self._settle(exchange, Fate.TIMED_OUT, now_s, f"no whole answer within {self._timeout_s:g} s")

    async def close(self) -> None:
        """Drops every connection; exchanges under way stay open for ever."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._connections:
            connection.abort()
        self._open.clear()
        self._waiting.clear()
        self._idle.clear()

    # what connections report

    def answered(self, connection: Connection, error: str | None, now_s: float, *, reusable: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        connection.exchange = None
        self._settle(exchange, Fate.COMPLETED if error is None else Fate.FAILED, now_s, error)
        if reusable:
            self._offer(connection)

    def broken(self, connection: Connection, error: str, now_s: float, *, silent: bool) -> None:
        exchange = connection.exchange
        assert exchange is not None
        connection.exchange = None
        if silent and connection.uses > 1 and not exchange.retried:
            # A server may close an idle connection just as it is used again; one more try, on a fresh
            # connection, is what clients owe it (RFC 9112, section 9.3.1).
            exchange.retried = True
            self._open[exchange] = None
            self._connect(exchange)
        else:
            self._settle(exchange, Fate.FAILED, now_s, error)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._connect_if_needed()

    # inside

    def _settle(self, exchange: Exchange, fate: Fate, now_s: float, error: str | None) -> None:
        del self._open[exchange]
        exchange.settle(fate, now_s, error)
        self._on_settled(exchange)

    def _offer(self, connection: Connection, wanted: Exchange | None = None) -> None:
        """Gives a free connection to the request it was opened for, or to the one that has waited longest."""
        exchange = wanted if wanted is not None and wanted.fate is Fate.OPEN else self._next_waiting()
        if exchange is None:
            self._idle.append(connection)
        else:
            self._open[exchange] = connection
            connection.send(exchange)

    def _next_waiting(self) -> Exchange | None:
        while self._waiting:
            exchange = self._waiting.popleft()
            if exchange.fate is Fate.OPEN:
                return exchange
        return None

    def _connect_if_needed(self) -> None:
        """Opens a connection if more requests wait than connections are on their way."""
        under_way = len(self._opening)
        if under_way < len(self._waiting) and under_way + len(self._connections) < self._max_connections:
            self._connect(None)

    def _connect(self, exchange: Exchange | None) -> None:
        """Opens a connection for `exchange`, or for whichever waits longest by then."""
        task = asyncio.get_running_loop().create_task(self._connected(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _connected(self, wanted: Exchange | None) -> None:
        connection = Connection(self)
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    self._endpoint.address,
                    self._endpoint.port,
                    ssl=self._tls,
                    server_hostname=self._endpoint.host if self._tls is not None else None,
                )
        except TimeoutError:
            return  # the request that asked for it is overdue itself
        except OSError as error:
            exchange = self._next_waiting() if wanted is None else wanted
            if exchange is not None and exchange.fate is Fate.OPEN:
                exchange.unreachable = True
                self._settle(exchange, Fate.FAILED, time.perf_counter(), f"cannot connect: {error.strerror or error}")
        else:
            self._connections.add(connection)
            self._offer(connection, wanted)
