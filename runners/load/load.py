"""One load: warm-up, steady windows, drain.

Requests due inside the windows are followed until they are answered or timed out. Meanwhile the load
goes on as before: the last requests of the last window would otherwise be served by an emptying
server, and the tail would look better than it is. What is sent after the windows counts for nothing.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runners.load.client import Client
from runners.load.exchange import Exchange
from runners.load.http_head import Endpoint
from runners.load.pacing import Pacer
from runners.load.precedence import precedence
from runners.load.records import Records, collect
from runners.load.source import Magazine
from runners.load.spectator import Spectator
from tuner.errors import GeneratorBoundError
from tuner.trial import Phase, Progress, TrialPlan

_TICK_S: Final = 0.02
PROGRESS_S: Final = 0.5
"""Between two signs of life."""

_LEAD_S: Final = 0.05
_MAX_BEHIND_S: Final = 5.0
"""A generator this far behind does not catch up; more would only fill memory."""

MakePacer = Callable[[Callable[[float, int], None], Callable[[], object]], Pacer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadResult:
    """What a load left.

    Attributes:
        records: all requests.
        busy: share of a core that the generator used, per window.
        cut_short: a spectator saw no hope.
    """

    records: Records
    busy: tuple[float, ...]
    cut_short: bool


class Load:
    """Runs one load; use once."""

    def __init__(
        self,
        endpoint: Endpoint,
        magazine: Magazine,
        plan: TrialPlan,
        *,
        report: Callable[[Progress], None],
        note: str = "",
        spectators: Sequence[Spectator] = (),
    ) -> None:
        self._magazine = magazine
        self._plan = plan
        self._report = report
        self._note = note
        self._spectators = tuple(spectators)
        self._client = Client(endpoint, timeout_s=plan.request_timeout_s, on_settled=self._settled)
        self._exchanges: list[Exchange] = []
        self._counted_open = 0
        self._start_s = 0.0
        self._first_s = 0.0
        self._last_s = 0.0
        self._pacer: Pacer | None = None

    async def run(self, make_pacer: MakePacer) -> LoadResult:
        """Loads the server; returns when every counted request is settled, or all hope is gone.

        Raises:
            GeneratorBoundError: the generator fell hopelessly behind its schedule.
        """
        plan = self._plan
        self._magazine.fill()
        pacer = make_pacer(self._send, self._magazine.add)
        self._pacer = pacer
        gc.collect()
        gc.disable()  # a collection among many thousand exchanges would be a stall of milliseconds
        try:
            self._start_s = time.perf_counter() + _LEAD_S
            self._first_s = self._start_s + plan.warmup_s
            self._last_s = self._start_s + plan.load_s
            for spectator in self._spectators:
                spectator.started(self._first_s)
            with precedence():
                pacer.start(self._start_s)
                busy, cut_short = await self._supervise(pacer)
                end_s = time.perf_counter()
        finally:
            pacer.stop()
            await self._client.close()
            gc.enable()
        return LoadResult(
            records=collect(self._exchanges, self._start_s, end_s),
            busy=tuple(busy),
            cut_short=cut_short,
        )

    async def _supervise(self, pacer: Pacer) -> tuple[list[float], bool]:
        plan = self._plan
        boundaries = [self._first_s + index * plan.window_s for index in range(plan.windows + 1)]
        usage: list[tuple[float, float]] = []
        reported_s = 0.0
        while True:
            await asyncio.sleep(_TICK_S)
            now_s = time.perf_counter()
            self._client.expire(now_s)
            if len(usage) < len(boundaries) and now_s >= boundaries[len(usage)]:
                usage.append((now_s, time.process_time()))
            if now_s - reported_s >= PROGRESS_S:
                reported_s = now_s
                self._tell(now_s)
            behind_s = pacer.behind_s(now_s)
            if behind_s > _MAX_BEHIND_S:
                raise GeneratorBoundError(
                    f"The load generator fell {behind_s:.1f} s behind its schedule within "
                    f"{now_s - self._start_s:.1f} s. "
                    "Lower the arrival rate, or give the generator a core of its own."
                )
            if now_s >= self._last_s and now_s - behind_s >= self._last_s and self._counted_open == 0:
                break
            if any(spectator.hopeless(self._client.open_exchanges, now_s) for spectator in self._spectators):
                return _shares(usage), True
        return _shares(usage), False

    def _send(self, due_s: float, client: int) -> None:
        prepared, answer = self._magazine.take()
        exchange = Exchange(prepared, answer, due_s, time.perf_counter(), client)
        self._exchanges.append(exchange)
        if self._first_s <= due_s < self._last_s:
            exchange.counted = True
            self._counted_open += 1
        self._client.submit(exchange)

    def _settled(self, exchange: Exchange) -> None:
        if exchange.counted:
            self._counted_open -= 1
        for spectator in self._spectators:
            spectator.settled(exchange)
        if self._pacer is not None:
            self._pacer.settled(exchange)

    def _tell(self, now_s: float) -> None:
        plan = self._plan
        in_flight = self._client.in_flight
        note = ", ".join(part for part in (self._note, f"{in_flight} in flight") if part)
        if now_s < self._first_s:
            progress = Progress(
                phase=Phase.WARMING_UP,
                elapsed_s=max(now_s - self._start_s, 0.0),
                expected_s=plan.warmup_s,
                note=note,
            )
        else:
            progress = Progress(
                phase=Phase.LOADING,
                elapsed_s=now_s - self._first_s,
                expected_s=plan.windows * plan.window_s,
                note=note if now_s < self._last_s else f"{note}, waiting for the last answers",
            )
        self._report(progress)


def _shares(usage: Sequence[tuple[float, float]]) -> list[float]:
    """CPU time over wall time between successive samples."""
    return [
        (after_cpu - before_cpu) / (after_s - before_s)
        for (before_s, before_cpu), (after_s, after_cpu) in itertools.pairwise(usage)
    ]
