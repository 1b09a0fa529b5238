"""What repeats say together: pooled numbers, gains and their intervals."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.evidence import gain, gather
from tuner.study.recommendation import pareto_front, ranking, recommended, shortfall
from tuner.study.record import State, TrialRecord
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Reason

THROUGHPUT = Objective(MetricRef.parse("throughput"))
LATENCY = Objective(MetricRef.parse("p99(latency)"))
SLO = Slo.parse("p99(latency) <= 100 ms")

rates = st.floats(1.0, 1e4)


def measured(throughput: float, latency: float = 0.05, error: float = 0.0) -> Measurement:
    return Measurement(
        metrics={
            "throughput": Estimate(value=throughput, low=throughput, high=throughput, std_error=error),
            "p99(latency)": Estimate.exact(latency),
        }
    )


def record(number: int, name: str, outcome: Outcome, kind: Kind = Kind.SEARCH) -> TrialRecord:
    config = Config({"device": "cpu", "name": name})
    return TrialRecord(number=number, kind=kind, state=State.DONE, config=config, outcome=outcome)


def test_gain_of_twice_the_throughput_is_two() -> None:
    records = [record(0, "default", measured(10.0)), record(1, "best", measured(20.0))]
    by_config = gather(records)
    found = gain(by_config[records[1].config], by_config[records[0].config], THROUGHPUT)
    assert found is not None
    assert found.value == pytest.approx(2.0)


def test_gain_of_half_the_latency_is_two() -> None:
    records = [record(0, "default", measured(1.0, 0.2)), record(1, "best", measured(1.0, 0.1))]
    by_config = gather(records)
    found = gain(by_config[records[1].config], by_config[records[0].config], LATENCY)
    assert found is not None
    assert found.value == pytest.approx(2.0)


def test_gain_of_a_winner_is_taken_from_its_repeats_not_from_the_trial_that_won() -> None:
    records = [
        record(0, "default", measured(10.0)),
        record(1, "best", measured(30.0)),
        record(2, "best", measured(20.0), Kind.CONFIRM),
    ]
    by_config = gather(records)
    found = gain(by_config[records[1].config], by_config[records[0].config], THROUGHPUT)
    assert found is not None
    assert found.value == pytest.approx(2.0)


@given(ours=st.lists(rates, min_size=1, max_size=5), theirs=st.lists(rates, min_size=1, max_size=5))
def test_gain_lies_within_its_interval_and_inverts(ours: list[float], theirs: list[float]) -> None:
    records = [record(i, "a", measured(value, error=0.01)) for i, value in enumerate(ours)]
    records += [record(i + 9, "b", measured(value, error=0.01)) for i, value in enumerate(theirs)]
    a, b = gather(records).values()
    forth, back = gain(a, b, THROUGHPUT), gain(b, a, THROUGHPUT)
    assert forth is not None
    assert back is not None
    assert forth.low <= forth.value <= forth.high
    assert math.isclose(forth.value * back.value, 1.0, rel_tol=1e-9)


def test_configuration_against_itself_gains_nothing() -> None:
    only = gather([record(0, "a", measured(3.0))]).popitem()[1]
    found = gain(only, only, THROUGHPUT)
    assert found is not None
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_configuration_that_once_failed_does_not_hold() -> None:
    records = [
        record(0, "a", measured(5.0)),
        record(1, "a", Infeasible(reason=Reason.DIED, message="gone"), Kind.CONFIRM),
        record(2, "b", measured(4.0)),
    ]
    assert [evidence.config["name"] for evidence in ranking(records, [SLO], THROUGHPUT)] == ["b"]


def test_confirmed_configuration_is_recommended_over_a_luckier_one_that_is_not() -> None:
    records = [
        record(0, "a", measured(5.0)),
        record(1, "a", measured(4.0), Kind.CONFIRM),
        record(2, "b", measured(4.6)),
    ]
    best = recommended(records, [SLO], THROUGHPUT)
    assert best is not None
    assert best.config["name"] == "a"


@given(st.lists(st.tuples(rates, st.floats(0.001, 0.2)), min_size=1, max_size=12))
def test_front_is_what_nothing_dominates(points: list[tuple[float, float]]) -> None:
    records = [record(i, str(i), measured(*point)) for i, point in enumerate(points)]
    front = {evidence.config["name"] for evidence in pareto_front(records, [SLO], [THROUGHPUT, LATENCY])}
    for i, (rate, latency) in enumerate(points):
        dominated = any(
            other_latency <= 0.1 and (r >= rate and other_latency <= latency) and (r, other_latency) != (rate, latency)
            for r, other_latency in points
        )
        assert (str(i) in front) == (latency <= 0.1 and not dominated)


def test_shortfall_names_the_nearest_and_what_each_bound_could_reach() -> None:
    floor = Slo.parse("throughput >= 50 rps")
    records = [record(0, "slow", measured(60.0, 0.4)), record(1, "fast", measured(40.0, 0.09))]
    found = shortfall(records, [SLO, floor])
    assert found is not None
    assert found.nearest.config["name"] == "fast"
    attained = found.attainable[str(floor)]
    assert attained is not None
    assert attained[0]["name"] == "slow"
