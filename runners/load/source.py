"""Sources: what is sent, by the kind of request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from runners.load.completions import CompletionSource
from runners.load.exchange import Answer, Prepared
from runners.load.http_head import Endpoint
from runners.load.kserve import KServeSource
from runners.load.template import TemplateSource
from tuner.launch import CompletionRequest, KServeRequest, RequestSpec
from tuner.workload import TraceRequest

_AHEAD: Final = 256
"""Requests kept ready: building a long prompt takes longer than sending it."""

_AHEAD_BYTES: Final = 16 * 2**20


class Source(Protocol):
    """Prepares requests by number, and makes readers for their answers."""

    def prepare(self, index: int) -> Prepared: ...

    def answer(self) -> Answer: ...


def make_source(
    endpoint: Endpoint, request: RequestSpec, seed: int, trace_row: Callable[[int], TraceRequest | None]
) -> Source:
    """The source for `request`; raises UsageError where it cannot be sent as it is."""
    if isinstance(request, KServeRequest):
        return KServeSource(endpoint, request, seed)
    if isinstance(request, CompletionRequest):
        return CompletionSource(endpoint, request, seed, trace_row)
    return TemplateSource(endpoint, request)


class Magazine:
    """Prepared requests in order, some of them ahead of time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._next = 0
        self._ready: deque[Prepared] = deque()
        self._bytes = 0

    def take(self) -> tuple[Prepared, Answer]:
        """The next request, built now only if none is ready."""
        if not self._ready:
            self.add()
        prepared = self._ready.popleft()
        self._bytes -= len(prepared.wire)
        return prepared, self._source.answer()

    def add(self) -> bool:
        """Builds one more, unless enough are ready."""
        if len(self._ready) >= _AHEAD or self._bytes >= _AHEAD_BYTES:
            return False
        prepared = self._source.prepare(self._next)
        self._ready.append(prepared)
        self._bytes += len(prepared.wire)
        self._next += 1
        return True

    def fill(self) -> None:
        """Builds as many as are kept."""
        while self.add():
            pass
