"""Metrics of records small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.exchange import Fate
from runners.load.measurement import error_texts, summarise
from runners.load.populations import gaps, request_values
from tests.runners.load.strategies import a_plan, a_request, records
from tuner.metric import Metric, MetricRef


def test_arrival_at_100_first_token_at_110_is_a_ttft_of_10() -> None:
    pieces = tuple(110.0 + 5 * index for index in range(11))
    values = request_values(records(a_request(100.0, 160.0, asked=11, pieces=pieces)), timeout_s=900.0)
    assert values[Metric.TTFT] == [10.0]
    assert values[Metric.LATENCY] == [60.0]
    assert values[Metric.TPOT] == [5.0]


def test_latency_runs_from_the_intended_send_time() -> None:
    values = request_values(records(a_request(100.0, 104.0, late=3.0)), timeout_s=900.0)
    assert values[Metric.LATENCY] == [4.0]


def test_single_token_has_no_tpot() -> None:
    values = request_values(records(a_request(0.0, 2.0, asked=1, pieces=(2.0,))), timeout_s=9.0)
    assert np.isnan(values[Metric.TPOT]).all()


def test_missed_stream_owes_its_remaining_gaps() -> None:
    rows = (
        a_request(0.0, 3.0, asked=3, pieces=(1.0, 2.0, 3.0)),
        a_request(0.0, 9.0, asked=4, pieces=(1.0, 1.5), fate=Fate.TIMED_OUT),
    )
    lengths, owners = gaps(records(*rows), timeout_s=9.0)
    assert lengths.tolist() == [1.0, 1.0, 0.5, 9.0, 9.0]
    assert owners.tolist() == [0, 0, 1, 1, 1]


def test_failed_request_counts_as_the_timeout() -> None:
    found = summarise(records(a_request(0.5, 0.6), a_request(1.5, 1.6, fate=Fate.FAILED)), a_plan())
    assert found.metrics["p99(latency)"].value == 10.0
    assert found.metrics["p50(latency)"].value == pytest.approx(0.1)
    assert found.metrics["error_rate"].value == 0.5


def test_throughput_counts_answers_that_came_inside_the_windows() -> None:
    """Ten requests due, six answered in time and four in the drain: the server did 6 in 5 s."""
    rows = [a_request(0.4 * index, 0.5 + 0.4 * index if index < 6 else 8.0) for index in range(10)]
    found = summarise(records(*rows), a_plan())
    assert found.completed == 10
    assert found.metrics["throughput"].value == pytest.approx(6 / 5)


def test_warm_up_and_drain_do_not_count() -> None:
    rows = [a_request(due, due + 0.1) for due in (0.5, 1.5, 2.5, 6.5)]
    found = summarise(records(*rows, first=1.0, last=6.0), a_plan(warmup_s=1.0))
    assert found.sent == 2
    assert found.windows[0].start_s == 1.0


def test_goodput_leaves_out_what_misses_any_request_bound() -> None:
    rows = [
        a_request(0.0, 0.4, asked=3, pieces=(0.1, 0.2, 0.4)),
        a_request(0.0, 0.9, asked=3, pieces=(0.1, 0.2, 0.9)),
        a_request(0.0, 0.5, asked=3, pieces=(0.4, 0.45, 0.5)),
    ]
    plan = a_plan("p99(latency) <= 600 ms", "p95(ttft) <= 300 ms", "throughput >= 1 rps")
    found = summarise(records(*rows), plan)
    assert found.metrics["throughput"].value == pytest.approx(3 / 5)
    assert found.metrics["goodput"].value == pytest.approx(1 / 5)


def test_gap_bound_applies_to_the_gaps_of_each_request() -> None:
    rows = [
        a_request(0.0, 0.4, asked=3, pieces=(0.1, 0.2, 0.4)),
        a_request(0.0, 0.9, asked=3, pieces=(0.1, 0.2, 0.9)),
    ]
    found = summarise(records(*rows), a_plan("p99(itl) <= 500 ms"))
    assert found.metrics["goodput"].value == pytest.approx(1 / 5)


def test_tokens_count_when_they_arrive() -> None:
    """Four tokens: three inside the windows, one in the drain; the prompt counts with the first."""
    rows = [
        a_request(4.0, 5.5, prompt=7, asked=4, pieces=(4.2, 4.4, 4.6, 5.5)),
        a_request(0.0, 0.1, asked=1, pieces=(0.1,)),
    ]
    found = summarise(records(*rows), a_plan())
    assert found.metrics["output_throughput"].value == pytest.approx(4 / 5)
    assert found.metrics["total_throughput"].value == pytest.approx(11 / 5)


def test_percentile_that_the_plan_names_is_reported() -> None:
    found = summarise(records(a_request(0.5, 0.6)), a_plan("p99.9(latency) <= 1 s"))
    assert "p99.9(latency)" in found.metrics
    assert "p99.9(latency)" in found.windows[0].metrics
    assert "p99.9(latency)" not in found.windows[1].metrics


def test_error_texts_are_few_and_counted() -> None:
    from collections import Counter

    texts = error_texts(Counter({f"error {index}": index for index in range(1, 9)}))
    assert texts[0] == "error 8 (8 times)"
    assert texts[-1] == "and 3 other texts"
    assert len(texts) == 6


fates = st.sampled_from([Fate.COMPLETED, Fate.FAILED, Fate.TIMED_OUT])


@given(
    rows=st.lists(st.tuples(st.floats(0, 4.99), st.floats(0, 10), fates, st.integers(0, 5)), min_size=1, max_size=60)
)
@settings(max_examples=60)
def test_every_request_is_completed_failed_or_timed_out(rows: list[tuple[float, float, Fate, int]]) -> None:
    made = [
        a_request(
            due,
            due + took,
            fate=fate,
            asked=5,
            pieces=tuple(due + took * (index + 1) / tokens for index in range(tokens))
            if fate is not Fate.FAILED
            else (),
        )
        for due, took, fate, tokens in rows
        if fate is not Fate.COMPLETED or tokens
    ]
    if not made:
        return
    plan = a_plan("p95(latency) <= 1 s", "mean(tpot) <= 1 s", "p90(itl) <= 1 s")
    found = summarise(records(*made), plan)
    assert found.sent == found.completed + found.failed + found.timed_out == len(made)
    for name, estimate in found.metrics.items():
        assert np.isfinite([estimate.value, estimate.low, estimate.high, estimate.std_error]).all(), name
        assert estimate.low <= estimate.value + 1e-9 <= estimate.high + 2e-9
        MetricRef.parse(name)
    assert found.metrics["goodput"].value <= found.metrics["throughput"].value
    ordered = [found.metrics[f"{name}(latency)"].value for name in ("p50", "p90", "p95", "p99")]
    assert ordered == sorted(ordered)
