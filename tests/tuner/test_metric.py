"""Metrics by the names users write."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UnitError, UnknownNameError
from tuner.metric import POPULATIONS, TOKEN_METRICS, Direction, Metric, MetricRef, unreported
from tuner.objective import Objective

STATISTICS = st.just("mean") | st.integers(1, 99).map("p{}".format) | st.sampled_from(["p99.9", "p0.5", "p99.99"])
REFS = st.builds(MetricRef, st.sampled_from(sorted(POPULATIONS, key=str)), STATISTICS) | st.sampled_from(
    [MetricRef(metric) for metric in Metric if not metric.is_population]
)


@given(ref=REFS)
def test_parsing_undoes_writing(ref: MetricRef) -> None:
    assert MetricRef.parse(str(ref)) == ref
    assert MetricRef.parse(f"  {str(ref).replace('(', ' ( ').replace(')', ' ) ')}  ") == ref


@given(text=st.text(max_size=30))
def test_anything_is_a_metric_or_an_error_with_a_remedy(text: str) -> None:
    with contextlib.suppress(UnitError, UnknownNameError):
        ref = MetricRef.parse(text)
        assert MetricRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("latency", UnitError, "needs a statistic"),
        ("p99(throughput)", UnitError, "one number per trial"),
        ("p100(latency)", UnitError, "is no statistic"),
        ("p0(latency)", UnitError, "is no statistic"),
        ("max(latency)", UnitError, "is no statistic"),
        ("p99(latncy)", UnknownNameError, "Did you mean 'latency'"),
        ("p99 latency", UnitError, "names no metric"),
    ],
)
def test_a_bad_metric_says_what_is_wrong(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        MetricRef.parse(text)


@given(ref=REFS)
def test_percentiles_lie_between_0_and_100(ref: MetricRef) -> None:
    if ref.percentile is not None:
        assert 0 < ref.percentile < 100
        assert ref.statistic == f"p{ref.percentile:g}"


@given(ref=REFS, low=st.floats(1e-6, 1e6), gap=st.floats(1e-3, 1e3))
def test_an_objective_prefers_its_direction(ref: MetricRef, low: float, gap: float) -> None:
    objective, high = Objective(ref), low + gap
    best, worst = (high, low) if objective.direction is Direction.MAXIMIZE else (low, high)
    assert objective.better(best, worst)
    assert not objective.better(worst, best)
    assert not objective.better(low, low)
    assert objective.gain(best) > objective.gain(worst)
    assert objective.ratio(best, worst) > 1 > objective.ratio(worst, best)


def test_what_an_engine_does_not_report_is_told_with_a_remedy() -> None:
    refs = [MetricRef.parse("p99(ttft)"), MetricRef.parse("throughput")]
    found = unreported(refs, frozenset(Metric) - TOKEN_METRICS, "triton")
    assert [ref for ref, _ in found] == [refs[0]]
    assert "'triton' does not report 'ttft'" in found[0][1]
