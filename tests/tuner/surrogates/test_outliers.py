"""Observations that are off by themselves say nothing of what is around them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tuner.surrogates.conditioned import Conditioned, Observations
from tuner.surrogates.hierarchical_kernel import FloatArray
from tuner.surrogates.listed_gaussian import Gaussian, WholeSurface
from tuner.surrogates.outliers import LOG_ODDS, VARIANCE, likeliest_outlier, most_outliers

PLACES = np.linspace(0.0, 3.0, 16)
COVARIANCE = np.exp(-0.5 * (PLACES[:, None] - PLACES[None, :]) ** 2)
SMOOTH = Gaussian(surface=WholeSurface.of(np.zeros(len(PLACES)), COVARIANCE), noise=0.001, level=1.0)
ALL = np.arange(len(PLACES))


def conditioned(told: dict[int, float], stray: int | None, bounds: dict[int, float] | None = None) -> Conditioned:
    """The smooth prior given values, and lower bounds."""
    observations = Observations(stray=stray)
    for row, value in told.items():
        observations.add(row, value, 0.0, 0)
    for row, value in (bounds or {}).items():
        observations.add(row, value, 0.0, 1)
    return Conditioned(SMOOTH, observations.observed)


def log_density(covariance: FloatArray, values: FloatArray) -> float:
    """Of normal values of mean 0, without its constant."""
    return float(-0.5 * values @ np.linalg.solve(covariance, values) - 0.5 * np.linalg.slogdet(covariance)[1])


@given(values=arrays(float, 6, elements=st.floats(-4.0, 4.0)), side=st.sampled_from([-1, 0, 1]))
def test_an_outlier_is_the_one_whose_setting_apart_makes_what_was_observed_likeliest(
    values: FloatArray, side: int
) -> None:
    covariance = COVARIANCE[:6, :6] + 0.01 * np.eye(6)
    plain = log_density(covariance, values)
    gains, sides = [], []
    for at in range(6):
        others = np.delete(np.arange(6), at)
        expected = covariance[at, others] @ np.linalg.solve(covariance[np.ix_(others, others)], values[others])
        added = covariance.copy()
        added[at, at] += VARIANCE
        gains.append(log_density(added, values) - plain + LOG_ODDS)
        sides.append(np.sign(values[at] - expected))
    root = np.linalg.cholesky(covariance)
    found = likeliest_outlier(root, np.linalg.solve(root, values), side, [])
    if found is not None:
        assert gains[found] == pytest.approx(max(gains), abs=1e-6)
        assert gains[found] > -1e-6
        assert side in (0, sides[found])
    elif side == 0:
        assert max(gains) < 1e-6


def test_a_breakdown_leaves_its_neighbours_as_they_were_and_is_as_it_was_seen() -> None:
    told = {0: 1.0, 3: 1.1, 9: 1.1, 12: 1.0}
    without, robust, plain = (
        conditioned({**told, **broken}, stray).everywhere()
        for broken, stray in (({}, None), ({6: -3.0}, -1), ({6: -3.0}, None))
    )
    assert robust[0][[5, 7]] == pytest.approx(without[0][[5, 7]], abs=0.1)
    assert (plain[0][[5, 7]] < -1.0).all()
    assert robust[0][6] == -3.0
    assert robust[1][6] < 0.02


def test_each_row_by_itself_is_what_it_is_jointly_beside_an_outlier() -> None:
    broken = conditioned({0: 1.0, 3: 1.1, 6: -3.0, 9: 1.1, 12: 1.0}, 0)
    mean, covariance = broken.joint(np.concatenate([[0, 3, 6, 9, 12], ALL]))
    assert broken.everywhere()[0] == pytest.approx(mean)
    assert broken.everywhere()[1] == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-3)


def test_what_is_off_to_the_other_side_is_believed() -> None:
    told = {0: 1.0, 3: 1.1, 6: -3.0, 9: 1.1, 12: 1.0}
    assert conditioned(told, 1).log_evidence() == conditioned(told, None).log_evidence()
    assert conditioned(told, -1).log_evidence() > conditioned(told, None).log_evidence() + 10.0


def test_where_half_is_low_it_is_no_accident() -> None:
    told = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 12: -3.0, 13: -3.0, 14: -3.0, 15: -3.0}
    assert conditioned(told, 0).everywhere()[0] == pytest.approx(conditioned(told, None).everywhere()[0])


def test_of_two_that_disagree_neither_is_an_outlier() -> None:
    assert most_outliers(2) == 0
    assert conditioned({0: 5.0, 1: -5.0}, 0).log_evidence() == conditioned({0: 5.0, 1: -5.0}, None).log_evidence()


def test_an_outlier_is_found_beside_bounds_and_these_hold() -> None:
    told, bounds = {0: 1.0, 3: 1.1, 6: -3.0, 9: 1.1, 12: 1.0}, {15: 2.0}
    mean, _ = conditioned(told, -1, bounds).everywhere()
    assert mean[5] > 0.8
    assert mean[15] > 1.8
    assert conditioned(told, -1, bounds).log_evidence() > conditioned(told, None, bounds).log_evidence()


def test_a_row_that_was_seen_again_is_not_known_by_the_time_it_was_off() -> None:
    observations = Observations(stray=-1)
    for row, value in [(0, 1.0), (3, 1.1), (6, -3.0), (6, 1.1), (9, 1.1), (12, 1.0)]:
        observations.add(row, value, 0.0, 0)
    assert Conditioned(SMOOTH, observations.observed).everywhere()[0][6] == pytest.approx(1.1, abs=0.1)
