"""Laws of estimates and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from runners.load.statistics import nearest_rank, population_estimate, scalar_estimate
from tuner.student_t import student_t

values = st.lists(st.floats(0, 1000), min_size=1, max_size=200).map(np.array)
percentiles = st.floats(0.1, 99.9)


@given(values=values, percentile=percentiles)
def test_percentile_is_the_smallest_value_that_enough_requests_do_not_exceed(
    values: np.ndarray, percentile: float
) -> None:
    found = nearest_rank(values, percentile)
    assert found in values
    assert np.mean(values <= found) >= percentile / 100 - 1e-9
    assert np.mean(values < found) < percentile / 100 + 1e-9


def test_p99_of_one_to_hundred_is_ninety_nine() -> None:
    assert nearest_rank(np.arange(100.0, 0.0, -1.0), 99.0) == 99.0


@given(values=values, percentile=percentiles, misses=st.integers(0, 50))
def test_more_misses_never_lower_a_percentile(values: np.ndarray, percentile: float, misses: int) -> None:
    timeout = 1000.0
    with_misses = np.concatenate([values, np.full(misses, timeout)])
    assert nearest_rank(with_misses, percentile) >= nearest_rank(values, percentile)


@given(
    sections=st.lists(st.lists(st.floats(0, 100), max_size=50).map(np.array), min_size=1, max_size=6),
    percentile=st.none() | percentiles,
)
def test_interval_holds_its_estimate(sections: list[np.ndarray], percentile: float | None) -> None:
    estimate = population_estimate(sections, percentile)
    if estimate is None:
        assert not any(len(section) for section in sections)
        return
    assert 0 <= estimate.low <= estimate.value + 1e-9
    assert estimate.value <= estimate.high + 1e-9
    assert estimate.std_error >= 0


@pytest.mark.parametrize("percentile", [None, 50.0, 95.0])
@pytest.mark.parametrize("memory", [0.0, 0.95])
def test_interval_covers_the_truth_also_when_requests_depend_on_one_another(
    percentile: float | None, memory: float
) -> None:
    """AR(1) latencies, whose true quantiles are known; 95 % intervals, allowing for five windows being few."""
    generator = np.random.default_rng(7)
    truth = {None: 10.0, 50.0: 10.0, 95.0: 10.0 + 1.644854}[percentile]
    covered = 0
    for _ in range(200):
        series = lfilter([1.0], [1.0, -memory], generator.normal(size=1600) * np.sqrt(1 - memory**2))
        estimate = population_estimate(np.split(series[100:] + 10.0, 5), percentile)
        assert estimate is not None
        covered += estimate.low <= truth <= estimate.high
    assert covered / 200 >= 0.93


@given(parts=st.lists(st.floats(0, 1e6), min_size=1, max_size=10))
@settings(max_examples=50)
def test_scalar_interval_widens_with_the_spread_between_windows(parts: list[float]) -> None:
    value = float(np.mean(parts))
    narrow = scalar_estimate(value, parts)
    wide = scalar_estimate(value, [value + 2 * (part - value) for part in parts])
    assert narrow.low <= value <= narrow.high
    assert wide.std_error >= narrow.std_error


def test_one_window_has_no_spread() -> None:
    estimate = scalar_estimate(5.0, [5.0])
    assert (estimate.low, estimate.high, estimate.std_error) == (5.0, 5.0, 0.0)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062), (4, 2.7764), (30, 2.0423), (60, 2.0003), (1000, 1.9623)]
)
def test_student_quantiles_are_those_of_the_tables(degrees: int, expected: float) -> None:
    assert student_t(degrees) == pytest.approx(expected, abs=2e-4)
