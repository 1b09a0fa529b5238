"""Judging whether a rate holds, and giving up on one that cannot."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.answer import WholeAnswer
from runners.load.exchange import Exchange, Fate, Prepared
from runners.load.measurement import summarise
from runners.load.rate_probe import judge, latency_trend
from runners.load.records import Records
from runners.load.spectator import HopelessProbe
from tests.runners.load.strategies import a_plan, a_request, records


def overloaded(share_undone: float, noise_s: float = 0.01) -> Records:
    """Each request waits `share_undone` seconds longer per second of load."""
    generator = np.random.default_rng(2)
    rows = []
    for due in np.arange(0.0, 5.0, 0.02):
        rows.append(a_request(due, due + 0.05 + share_undone * due + generator.exponential(noise_s)))
    return records(*rows)


def test_queue_that_grows_without_end_does_not_hold_whatever_the_bounds_say() -> None:
    plan = a_plan("p99(latency) <= 9 s")
    found = overloaded(0.5)
    verdict = judge(found, summarise(found, plan), plan)
    assert not verdict.held
    assert verdict.excess > 0


def test_steady_latency_has_no_trend() -> None:
    assert latency_trend(overloaded(0.0), a_plan()) == 0.0
    plan = a_plan("p99(latency) <= 200 ms")
    found = overloaded(0.0)
    assert judge(found, summarise(found, plan), plan).held


def test_bounds_on_costs_are_not_judged_by_the_load() -> None:
    plan = a_plan("p99(latency) <= 1 s", "cost_per_million_requests <= 1 USD", "max_arrival_rate >= 1000 rps")
    found = overloaded(0.0)
    assert judge(found, summarise(found, plan), plan).held


def test_more_failures_than_tolerated_do_not_hold() -> None:
    rows = [a_request(index / 100, index / 100 + 0.01) for index in range(200)]
    rows += [a_request(2 + index / 100, 3.0, fate=Fate.FAILED) for index in range(30)]
    plan = a_plan("p50(latency) <= 1 s")
    found = records(*rows)
    assert not judge(found, summarise(found, plan), plan).held


def exchange(due: float, fate: Fate, finished: float) -> Exchange:
    made = Exchange(Prepared(wire=b""), WholeAnswer(), due, due)
    made.counted = True
    if fate is not Fate.OPEN:
        made.settle(fate, finished)
    return made


@given(
    rows=st.lists(
        st.tuples(
            st.floats(0, 4.99), st.floats(0.0, 0.2), st.sampled_from([Fate.COMPLETED, Fate.COMPLETED, Fate.FAILED])
        ),
        min_size=5,
        max_size=80,
    ),
    cut_s=st.floats(0.1, 6.0),
)
@settings(max_examples=150)
def test_hopeless_probe_would_not_have_held(rows: list[tuple[float, float, Fate]], cut_s: float) -> None:
    """Seen at any moment, a load called hopeless does not hold when it is followed to its end."""
    plan = a_plan("p90(latency) <= 100 ms", "error_rate <= 20%", max_error_rate=0.5)
    probe = HopelessProbe(plan, len(rows))
    still_open = []
    for due, took, fate in sorted(rows):
        if due + took <= cut_s:
            probe.settled(exchange(due, fate, due + took))
        elif due <= cut_s:
            still_open.append(exchange(due, Fate.OPEN, 0.0))
    if probe.hopeless(still_open, cut_s):
        whole = records(*(a_request(due, due + took, fate=fate) for due, took, fate in rows))
        assert not judge(whole, summarise(whole, plan), plan).held
