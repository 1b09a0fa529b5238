"""The HTTP client against a server that answers in every way there is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import pytest

from runners.load.client import Client
from runners.load.exchange import Exchange, Fate
from runners.load.http_head import Endpoint
from runners.load.template import TemplateSource
from tests.runners.load.conftest import ServerStarter
from tuner.launch import TemplateRequest
from tuner.workload import TemplateShapes

GOOD = ("", "until-close", "chunked", "continue", "forgetful")
BAD = {
    "garbage": "no HTTP",
    "close": "closed the connection without an answer",
    "half": "closed the connection in the middle of its answer",
    "tenth": "HTTP 500: out of luck",
}
REQUESTS = 40


async def ask(url: str, path: str, at_once: int, max_connections: int = 100) -> Counter[tuple[Fate, str | None]]:
    """Sends `REQUESTS` requests, `at_once` of them in flight, and counts what became of them."""
    endpoint = Endpoint.resolve(url)
    source = TemplateSource(endpoint, TemplateRequest(shapes=TemplateShapes(path=f"/{path}", expect="hello")))
    fates: Counter[tuple[Fate, str | None]] = Counter()
    ended = asyncio.Event()
    left = REQUESTS

    def send() -> None:
        nonlocal left
        if left:
            left -= 1
            now_s = time.perf_counter()
            client.submit(Exchange(source.prepare(0), source.answer(), now_s, now_s))

    def settled(exchange: Exchange) -> None:
        fates[exchange.fate, exchange.error] += 1
        send()
        if fates.total() == REQUESTS:
            ended.set()

    client = Client(endpoint, timeout_s=5.0, on_settled=settled, max_connections=max_connections)
    for _ in range(at_once):
        send()
    async with asyncio.timeout(10):
        await ended.wait()
    assert client.in_flight == 0
    await client.close()
    return fates


@pytest.fixture(scope="module")
def fates(start_server: ServerStarter) -> Mapping[str, Counter[tuple[Fate, str | None]]]:
    """What became of the requests to every path."""
    url = start_server()

    async def ask_all() -> list[Counter[tuple[Fate, str | None]]]:
        return await asyncio.gather(*(ask(url, path, at_once=4) for path in (*GOOD, *BAD)))

    return dict(zip((*GOOD, *BAD), asyncio.run(ask_all()), strict=True))


@pytest.mark.parametrize("path", GOOD)
def test_every_way_to_end_an_answer_is_understood(
    fates: Mapping[str, Counter[tuple[Fate, str | None]]], path: str
) -> None:
    assert fates[path] == {(Fate.COMPLETED, None): REQUESTS}


@pytest.mark.parametrize("path", BAD)
def test_what_is_no_answer_is_a_failure_with_its_reason(
    fates: Mapping[str, Counter[tuple[Fate, str | None]]], path: str
) -> None:
    failed = {error: count for (fate, error), count in fates[path].items() if fate is Fate.FAILED}
    assert list(failed.values()) == [4 if path == "tenth" else REQUESTS]
    assert all(BAD[path] in (error or "") for error in failed)


def test_requests_wait_for_a_connection_where_there_are_too_few(start_server: ServerStarter) -> None:
    found = asyncio.run(ask(start_server(), "slow", at_once=REQUESTS, max_connections=3))
    assert found == {(Fate.COMPLETED, None): REQUESTS}


def test_overdue_requests_time_out_and_later_ones_do_not(start_server: ServerStarter) -> None:
    async def run() -> list[Exchange]:
        endpoint = Endpoint.resolve(start_server())
        source = TemplateSource(endpoint, TemplateRequest(shapes=TemplateShapes(path="/hang")))
        ended: list[Exchange] = []
        client = Client(endpoint, timeout_s=1.0, on_settled=ended.append)
        for due_s in (100.0, 100.5):
            client.submit(Exchange(source.prepare(0), source.answer(), due_s, due_s))
        await asyncio.sleep(0)
        client.expire(101.2)
        assert client.in_flight == 1
        await client.close()
        return ended

    (exchange,) = asyncio.run(run())
    assert exchange.fate is Fate.TIMED_OUT
    assert exchange.due_s == 100.0
    assert exchange.error == "no whole answer within 1 s"
