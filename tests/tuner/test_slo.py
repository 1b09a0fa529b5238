"""Service-level objectives."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import TunerError, UnitError
from tuner.metric import Direction, Metric, MetricRef
from tuner.slo import Slo, excesses
from tuner.units import unit_names

METRICS = st.sampled_from([MetricRef(metric, "p99" if metric.is_population else None) for metric in Metric])


@st.composite
def slos(draw: st.DrawFn) -> Slo:
    ref = draw(METRICS)
    return Slo(metric=ref, bound=draw(st.floats(1e-6, 1e6)), at_most=ref.metric.direction is Direction.MINIMIZE)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("p99(latency) <= 50 ms", 0.05),
        ("p95(ttft)≤300ms", 0.3),
        ("error_rate <= 0.1%", 0.001),
        ("error_rate <= 0", 0.0),
        ("throughput >= 100 rps", 100.0),
        ("cost_per_hour <= $2/h", 2.0),
        ("cost_per_million_tokens <= 3 USD", 3.0),
        ("output_throughput >= 500 tok/s", 500.0),
    ],
)
def test_a_line_states_a_bound_in_base_units(text: str, bound: float) -> None:
    assert Slo.parse(text).bound == pytest.approx(bound)


@given(ref=METRICS, number=st.floats(0.001, 1000), data=st.data())
def test_every_bound_from_the_right_side_is_read(ref: MetricRef, number: float, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from([name for name in unit_names(ref.metric.dimension) if not name.startswith("$")]))
    sign = "<=" if ref.metric.direction is Direction.MINIMIZE else ">="
    slo = Slo.parse(f"{ref} {sign} {number!r} {unit}")
    assert slo.metric == ref
    wrong = ">=" if sign == "<=" else "<="
    with pytest.raises(UnitError, match="from the wrong side"):
        Slo.parse(f"{ref} {wrong} {number!r} {unit}")


@given(slo=slos(), value=st.floats(0, 1e7))
def test_a_bound_holds_exactly_when_its_excess_is_not_positive(slo: Slo, value: float) -> None:
    holds = value <= slo.bound if slo.at_most else value >= slo.bound
    assert (slo.excess(value) <= 0) == holds


@given(slo=slos(), worse=st.floats(1.01, 100))
def test_excess_grows_with_the_distance_to_the_bound(slo: Slo, worse: float) -> None:
    near, far = (
        (slo.bound * worse, slo.bound * worse * 2) if slo.at_most else (slo.bound / worse, slo.bound / worse / 2)
    )
    assert 0 < slo.excess(near) < slo.excess(far)


def test_a_metric_without_a_value_counts_as_missed() -> None:
    bounds = [Slo.parse("p99(latency) <= 50 ms"), Slo.parse("error_rate <= 1%")]
    found = excesses(bounds, {MetricRef.parse("error_rate"): 0.02})
    assert found[str(bounds[0])] == 1.0
    assert found[str(bounds[1])] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p99(latency)", "states no bound"),
        ("p99(latency) < 50 ms", "uses '<'"),
        ("p99(latency) <= 50", "no unit"),
        ("p99(latency) <= 50 rps", "none of time"),
        ("p99(latency) <= 0 s", "above 0"),
        ("p99(latency) <= -5 ms", "above 0"),
        ("latency <= 5 ms", "needs a statistic"),
    ],
)
def test_a_bad_bound_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(UnitError, match=words):
        Slo.parse(text)


@given(text=st.text(max_size=40))
def test_any_line_is_a_bound_or_an_error(text: str) -> None:
    with contextlib.suppress(TunerError):
        assert Slo.parse(text).bound >= 0
