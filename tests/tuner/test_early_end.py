"""Early ends: surely beyond a limit means beyond it in the whole load, but for the stated error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.cost import with_costs
from tuner.device import DeviceType
from tuner.early_end import ERROR, EarlyEnd, Limit, OneSided, Side, predicted_bound
from tuner.errors import UsageError
from tuner.slo import Slo
from tuner.trial import Estimate, Measurement

UPPER = Limit(slo=Slo.parse("p99(latency) <= 500 ms"), whose="SLO")
LOWER = Limit(slo=Slo.parse("throughput >= 100 rps"), whose="best so far", margin=1.25)
positive = st.floats(1e-3, 1e3)


@given(values=st.lists(positive, max_size=8), windows=st.integers(1, 8))
def test_bound_is_beyond_the_limit_by_its_margin_and_on_the_safe_side_of_the_mean(
    values: list[float], windows: int
) -> None:
    mean = float(np.exp(np.log(values).mean())) if values else 0.0
    if (low := predicted_bound(UPPER, values, windows)) is not None:
        assert 0.55 < low <= mean * (1 + 1e-9)
    if (high := predicted_bound(LOWER, values, windows)) is not None:
        assert mean * (1 - 1e-9) <= high < 80


@given(values=st.lists(positive, min_size=2, max_size=5), windows=st.integers(6, 9))
def test_what_is_within_the_limit_so_far_goes_on(values: list[float], windows: int) -> None:
    slowest = Limit(slo=Slo.parse(f"p99(latency) <= {max(values)} s"), whose="SLO")
    assert predicted_bound(slowest, values, windows) is None


@pytest.mark.parametrize("values", [[], [9.0], [9.0, 0.0, 9.0], [9.0] * 5])
def test_nothing_is_predicted_of_too_little_or_when_all_has_been_seen(values: list[float]) -> None:
    assert predicted_bound(UPPER, values, 5) is None


@pytest.mark.parametrize("deviation", [0.03, 0.3, 1.0])
def test_bounds_are_wrong_no_more_often_than_stated(deviation: float) -> None:
    """Of 4,000 loads of 5 windows that are alike, with a limit that all of them are beyond."""
    generator = np.random.default_rng(7)
    easy = Limit(slo=Slo.parse("mean(latency) <= 0.001 us"), whose="SLO")
    wrong = 0
    for logs in generator.normal(0.0, deviation, size=(4000, 5)):
        whole = float(np.exp(logs.mean()))
        bounds = [predicted_bound(easy, [*np.exp(logs[:seen])], 5) for seen in (2, 3, 4)]
        wrong += any(bound is not None and bound > whole for bound in bounds)
    assert wrong / 4000 <= ERROR


def test_words_name_the_number_its_side_and_whose_limit_it_is() -> None:
    ended = EarlyEnd(after_s=6.0, bounds={"p99(latency)": OneSided(value=0.812, side=Side.AT_LEAST)}, limits=(UPPER,))
    assert str(ended) == "p99(latency) at least 812 ms, SLO 500 ms"


def test_bound_on_a_rate_is_one_on_the_cost_on_the_other_side() -> None:
    cost = Slo.parse("cost_per_million_requests <= 1 USD")
    limit = Limit(slo=LOWER.slo, whose="best so far", told=cost)
    ended = EarlyEnd(after_s=6.0, bounds={"throughput": OneSided(value=50.0, side=Side.AT_MOST)}, limits=(limit,))
    measured = Measurement(metrics={"throughput": Estimate.exact(40.0)}, ended_early=ended)
    found = with_costs(measured, DeviceType(name="cpu", price_per_hour=0.36)).ended_early
    assert found is not None
    assert found.bounds["cost_per_million_requests"] == OneSided(value=pytest.approx(2.0), side=Side.AT_LEAST)
    assert str(found) == "cost_per_million_requests at least $2, best so far $1"


def test_margin_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="Write 1 or more"):
        Limit(slo=UPPER.slo, whose="SLO", margin=0.9)
