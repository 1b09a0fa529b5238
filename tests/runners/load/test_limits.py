"""Loads that end early, as their trial is surely beyond a limit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.load.answer import WholeAnswer
from runners.load.driver import SubprocessLoadDriver
from runners.load.exchange import Exchange, Fate, Prepared
from runners.load.limits import LimitWatch
from runners.load.statistics import least_possible, nearest_rank
from tests.runners.load.conftest import ServerStarter
from tests.runners.load.strategies import a_plan
from tests.runners.load.test_driver import TOKENS, a_template, ignore
from tests.runners.load.test_driver import a_plan as a_short_plan
from tuner.early_end import Limit, Side
from tuner.launch import CompletionRequest, RequestSpec
from tuner.metric import Metric
from tuner.slo import Slo
from tuner.trial import Measurement, TrialPlan
from tuner.workload import Arrival, ClosedLoop, OpenLoop, RateBracket


def limits(*slos: str) -> tuple[Limit, ...]:
    return tuple(Limit(slo=Slo.parse(text), whose="SLO") for text in slos)


@given(
    known=st.lists(st.floats(0, 10), min_size=1, max_size=60),
    rest=st.lists(st.floats(0, 10), max_size=60),
    percentile=st.none() | st.sampled_from([50.0, 90.0, 99.0]),
)
def test_whatever_is_still_to_come_a_statistic_is_at_least_its_least(
    known: list[float], rest: list[float], percentile: float | None
) -> None:
    everything = np.array(known + rest)
    least = least_possible(np.array(known), len(everything), percentile)
    whole = float(everything.mean()) if percentile is None else nearest_rank(everything, percentile)
    assert least is None or least <= whole * (1 + 1e-9)


@given(
    rows=st.lists(st.tuples(st.floats(0, 4.99), st.floats(0.0, 0.5)), min_size=1, max_size=60),
    fails=st.integers(0, 60),
)
def test_counted_limit_is_missed_by_the_whole_load(rows: list[tuple[float, float]], fails: int) -> None:
    """An error rate is counted and never predicted."""
    plan = replace(a_plan("error_rate <= 10%"), limits=limits("error_rate <= 10%"))
    watch = LimitWatch(plan, len(rows))
    watch.started(0.0)
    for due, took in rows[:fails]:
        watch.settled(an_exchange(due, due + took, Fate.FAILED))
    if watch.hopeless([], 2.0):
        (bound,) = watch.passed.values()
        assert 0.11 < bound.value <= len(rows[:fails]) / len(rows)


def an_exchange(due: float, finished: float, fate: Fate) -> Exchange:
    made = Exchange(Prepared(wire=b""), WholeAnswer(), due, due)
    made.counted = True
    made.settle(fate, finished)
    return made


def a_watch(*slos: str, expected: int | None = None) -> LimitWatch:
    watch = LimitWatch(replace(a_plan(), limits=limits(*slos)), expected)
    watch.started(0.0)
    return watch


def test_no_load_ends_before_its_second_window() -> None:
    watch = a_watch("p99(latency) <= 100 ms", expected=100)
    for index in range(10):
        watch.settled(an_exchange(index / 10, index / 10 + 9, Fate.COMPLETED))
    assert not watch.hopeless([], 1.99)
    assert watch.hopeless([], 2.01)


def test_requests_that_wait_count_with_the_time_they_have_waited() -> None:
    watch = a_watch("p90(latency) <= 500 ms", expected=50)
    waiting = [Exchange(Prepared(wire=b""), WholeAnswer(), due, due) for due in (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)]
    for exchange in waiting:
        exchange.counted = True
    assert watch.hopeless(waiting, 2.0)
    (bound,) = watch.passed.values()
    assert bound.value == pytest.approx(1.0)


def test_whole_load_is_cut_short_only_where_its_last_answers_take_long() -> None:
    watch = a_watch("p99(latency) <= 100 ms", expected=50)
    waiting = []
    for index in range(50):
        waiting.append(Exchange(Prepared(wire=b""), WholeAnswer(), 4.9 + index / 1000, 4.9))
        waiting[-1].counted = True
    assert not watch.hopeless(waiting, 4.95)
    assert not watch.hopeless(waiting, 5.2)
    assert watch.hopeless(waiting, 6.05)
    assert watch.windows == 5


def test_closed_loop_may_still_become_faster() -> None:
    """Of 20 requests 2 were slow; were the three windows to come four times as busy, p99 would allow one of 140."""
    quick = [an_exchange(index / 10, index / 10 + 0.05, Fate.COMPLETED) for index in range(18)]
    for slow, ends in ((1, False), (2, True)):
        watch = a_watch("p99(latency) <= 100 ms")
        for exchange in [*quick, *(an_exchange(1.9, 3.0 + index, Fate.COMPLETED) for index in range(slow))]:
            watch.settled(exchange)
        assert watch.hopeless([], 2.0) is ends


OPEN = OpenLoop(rate_rps=100.0)
SLOW: dict[str, tuple[RequestSpec, Arrival, str, Metric]] = {
    "open loop": (a_template("/slow"), OPEN, "p99(latency) <= 10 ms", Metric.LATENCY),
    "closed loop": (a_template("/slow"), ClosedLoop(clients=4), "p90(latency) <= 10 ms", Metric.LATENCY),
    "throughput": (a_template("/slow"), ClosedLoop(clients=2), "throughput >= 900 rps", Metric.THROUGHPUT),
    "hangs": (a_template("/hang"), OPEN, "p99(latency) <= 100 ms", Metric.LATENCY),
    "tokens": (
        CompletionRequest(model_name="m", shapes=TOKENS, token_ids=(1, 9), path="/stream"),
        ClosedLoop(clients=2),
        "output_throughput >= 9000 tokens/s",
        Metric.OUTPUT_THROUGHPUT,
    ),
    "tpot": (
        CompletionRequest(model_name="m", shapes=TOKENS, token_ids=(1, 9), path="/stream"),
        OPEN,
        "mean(tpot) <= 2 ms",
        Metric.TPOT,
    ),
}


def driven(url: str, request: RequestSpec, plan: TrialPlan) -> Measurement:
    return SubprocessLoadDriver().drive(url, request, plan, ignore)


def six_windows(arrival: Arrival, *slos: str) -> TrialPlan:
    return replace(a_short_plan(arrival, *slos), windows=6, limits=limits(*slos))


@pytest.mark.parametrize("name", SLOW)
def test_slow_server_is_left_early(start_server: ServerStarter, name: str) -> None:
    request, arrival, slo, metric = SLOW[name]
    plan = six_windows(arrival, slo)
    ended = driven(start_server(service_s=0.03), request, plan).ended_early
    assert ended is not None
    assert ended.after_s < plan.load_s - plan.window_s / 2
    limit = plan.limits[0]
    bound = ended.bounds[str(limit.slo.metric)]
    assert limit.slo.metric.metric is metric
    assert limit.passed(bound.value)
    assert bound.side is limit.side


def test_server_within_its_limits_is_loaded_to_the_end(start_server: ServerStarter) -> None:
    plan = six_windows(OPEN, "p99(latency) <= 1 s", "throughput >= 10 rps", "error_rate <= 1%")
    measured = driven(start_server(), a_template("/slow"), plan)
    assert measured.ended_early is None
    assert len(measured.windows) == 6


def test_windows_until_the_end_are_kept(start_server: ServerStarter) -> None:
    measured = driven(start_server(service_s=0.03), a_template("/slow"), six_windows(OPEN, "p99(latency) <= 10 ms"))
    assert measured.ended_early is not None
    assert 2 <= len(measured.windows) < 6
    assert measured.metrics["throughput"].value == pytest.approx(100, rel=0.5)
    assert measured.metrics["throughput"].std_error > 0


def test_rate_search_ends_once_what_failed_is_surely_below_the_best(start_server: ServerStarter) -> None:
    """One worker of 5 ms on average serves less than 200 rps."""
    arrival = OpenLoop(rate_rps=RateBracket(low=20.0, high=800.0, resolution=0.02))
    plan = replace(a_short_plan(arrival, "p90(latency) <= 100 ms"), limits=limits("max_arrival_rate >= 5000 rps"))
    measured = driven(start_server(), a_template("/queue"), plan)
    assert measured.ended_early is not None
    bound = measured.ended_early.bounds["max_arrival_rate"]
    assert bound.side is Side.AT_MOST
    assert measured.metrics["max_arrival_rate"].value < bound.value
    assert len(measured.probes) <= 4
