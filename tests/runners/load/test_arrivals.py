"""Laws of arrival times."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.arrivals import DrawnArrivals, TraceArrivals, count_between
from tests.runners.load.strategies import rates, seeds, traces
from tuner.errors import UsageError
from tuner.workload import ArrivalProcess, OpenLoop, TraceReplay, TraceRequest


def first(arrivals: DrawnArrivals | TraceArrivals, count: int) -> list[float]:
    return list(itertools.islice(arrivals.times(), count))


@given(process=st.sampled_from(ArrivalProcess), rate=rates, cv=st.floats(0.2, 3.0), seed=seeds)
@settings(max_examples=50)
def test_same_seed_gives_same_ascending_traffic(process: ArrivalProcess, rate: float, cv: float, seed: int) -> None:
    loop = OpenLoop(process=process, rate_rps=rate, cv=cv)
    times = first(DrawnArrivals(loop, rate, seed), 200)
    assert times == first(DrawnArrivals(loop, rate, seed), 200)
    assert times == sorted(times)
    assert times[0] >= 0


@given(seed=seeds, rate=rates)
@settings(max_examples=20)
def test_another_rate_compresses_the_same_pattern(seed: int, rate: float) -> None:
    loop = OpenLoop(rate_rps=1.0)
    slow, fast = first(DrawnArrivals(loop, rate, seed), 100), first(DrawnArrivals(loop, 2 * rate, seed), 100)
    assert np.allclose(np.array(slow), 2 * np.array(fast))


@pytest.mark.parametrize(
    ("process", "cv", "expected_cv"),
    [
        (ArrivalProcess.POISSON, 1.0, 1.0),
        (ArrivalProcess.GAMMA, 0.5, 0.5),
        (ArrivalProcess.GAMMA, 2.0, 2.0),
        (ArrivalProcess.CONSTANT, 1.0, 0.0),
    ],
)
def test_gaps_have_the_stated_mean_and_variation(process: ArrivalProcess, cv: float, expected_cv: float) -> None:
    gaps = np.diff(first(DrawnArrivals(OpenLoop(process=process, rate_rps=50.0, cv=cv), 50.0, 3), 100_000))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(expected_cv, abs=0.05)


@given(seed=seeds)
@settings(max_examples=20)
def test_count_between_agrees_with_the_times(seed: int) -> None:
    arrivals = DrawnArrivals(OpenLoop(rate_rps=100.0), 100.0, seed)
    expected = sum(2.0 <= time < 3.0 for time in first(arrivals, 600))
    assert count_between(arrivals, 2.0, 3.0) == expected


@given(trace=traces)
def test_trace_starts_over_one_mean_gap_after_its_end(trace: TraceReplay) -> None:
    arrivals, rows = TraceArrivals(trace), len(trace.requests)
    times = np.array(first(arrivals, 2 * rows))
    assert times[0] == 0
    assert np.all(np.diff(times) >= 0)
    assert np.allclose(np.diff(times[:rows]), np.diff(times[rows:]), atol=1e-6)
    assert arrivals.trace_row(rows) == trace.requests[0]


def test_speed_two_replays_twice_as_fast() -> None:
    rows = tuple(TraceRequest(arrival_s=time) for time in (10.0, 11.0, 14.0))
    trace = TraceReplay(source="t.csv", requests=rows, speed=2.0)
    assert first(TraceArrivals(trace), 5) == [0.0, 0.5, 2.0, 3.0, 3.5]


def test_unsorted_trace_is_refused() -> None:
    rows = tuple(TraceRequest(arrival_s=time) for time in (1.0, 0.0))
    with pytest.raises(UsageError, match="not sorted"):
        TraceArrivals(TraceReplay(source="t.csv", requests=rows))
