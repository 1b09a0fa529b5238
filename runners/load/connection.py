"""HTTP/1.1 over one TCP connection: a request is written, its answer is read, the next may follow."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

from runners.load.exchange import Exchange


class ConnectionOwner(Protocol):
    """Who is told what happens on a connection."""

    def answered(self, connection: Connection, error: str | None, now_s: float, *, reusable: bool) -> None:
        """The exchange's answer is whole; `error` says what is wrong with it."""
        ...

    def broken(self, connection: Connection, error: str, now_s: float, *, silent: bool) -> None:
        """The connection ended within an exchange; `silent` if nothing of the answer had come."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection has ended; an exchange of it was reported before."""
        ...


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one exchange at a time.

    Attributes:
        exchange: the one under way, `None` while idle.
        uses: exchanges begun on it.
    """

    def __init__(self, owner: ConnectionOwner) -> None:
        self.exchange: Exchange | None = None
        self.uses = 0
        self.closed = False
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._begun = False
        self._status = 0
        self._ends_with_connection = True
        self._in_body = False

    def send(self, exchange: Exchange) -> None:
        """Writes the exchange's request; the owner hears of the end."""
        assert self._transport is not None
        self.exchange = exchange
        self.uses += 1
        self._begun = False
        self._in_body = False
        self._transport.write(exchange.wire)

    def abort(self) -> None:
        """Drops the connection at once, and its exchange without a word to the owner."""
        self.exchange = None
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        if self.exchange is None:
            # Bytes nobody asked for: this connection cannot be trusted with another request.
            self._drop()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._break("the server switched protocols instead of answering")
        except httptools.HttpParserError as error:
            # What comes after a whole answer is not its exchange's fault, which has been settled by now.
            self._break(f"no HTTP: {error}; it began {data[:40]!r}")

    def eof_received(self) -> None:
        self._now_s = time.perf_counter()
        if self.exchange is not None and self._in_body and self._ends_with_connection:
            self._complete(reusable=False)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._transport = None
        if self.exchange is not None:
            self._now_s = time.perf_counter()
            how = "reset the connection" if error is not None else "closed the connection"
            where = "in the middle of its answer" if self._begun else "without an answer"
            self._break(f"the server {how} {where}")
        self._owner.lost(self)

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered == b"content-length" or lowered == b"transfer-encoding":
            self._ends_with_connection = False
        if self.exchange is not None:
            self.exchange.answer.header(lowered, value)

    def on_message_begin(self) -> None:
        self._ends_with_connection = True
        self._in_body = False

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        if self.exchange is not None:
            self.exchange.answer.body(data, self._now_s)

    def on_message_complete(self) -> None:
        if self._status >= 200:  # what comes before is informational: the answer follows
            self._complete(reusable=self._parser.should_keep_alive())

    # inside

    def _complete(self, *, reusable: bool) -> None:
        exchange = self.exchange
        if exchange is None:
            return
        self._in_body = False
        error = exchange.answer.end(self._status, self._now_s)
        if not reusable:
            self._drop()
        self._owner.answered(self, error, self._now_s, reusable=reusable and not self.closed)

    def _break(self, error: str) -> None:
        self._drop()
        if self.exchange is not None:
            self._owner.broken(self, error, self._now_s, silent=not self._begun)

    def _drop(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()
