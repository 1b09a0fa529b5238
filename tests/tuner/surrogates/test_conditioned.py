"""A Gaussian given observations, row by row and jointly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tuner.surrogates.conditioned import Conditioned, Observations, Observed
from tuner.surrogates.listed_gaussian import Gaussian, WholeSurface

PLACES = np.linspace(0.0, 3.0, 9)
COVARIANCE = np.exp(-0.5 * (PLACES[:, None] - PLACES[None, :]) ** 2)
PRIOR = Gaussian(surface=WholeSurface.of(np.sin(PLACES), COVARIANCE), noise=0.01, shift=0.3, spread=1.5, level=0.7)
ALL = np.arange(len(PLACES))


def given(rows: list[int], values: list[float], sides: list[int], prior: Gaussian = PRIOR) -> Conditioned:
    return Conditioned(prior, observed(rows, values, sides))


def observed(rows: list[int], values: list[float], sides: list[int]) -> Observed:
    observations = Observations(least_noise=0.0)
    for row, value, side in zip(rows, values, sides, strict=True):
        observations.add(row, value, 0.0, side)
    return observations.observed


@pytest.mark.parametrize("sides", [[0, 0, 0], [0, 1, -1], [1, 1, 1]])
def test_each_row_by_itself_is_what_it_is_jointly(sides: list[int]) -> None:
    rows = [1, 4, 4]
    conditioned = given(rows, [0.5, 2.0, 1.8], sides)
    mean, covariance = conditioned.joint(np.concatenate([rows, ALL]))
    assert conditioned.everywhere()[0] == pytest.approx(mean)
    assert conditioned.everywhere()[1] == pytest.approx(np.sqrt(np.diag(covariance)))


def test_without_observations_it_is_the_prior() -> None:
    conditioned = given([], [], [])
    mean, covariance = conditioned.joint(ALL)
    assert mean == pytest.approx(np.sin(PLACES) + 0.3)
    assert covariance == pytest.approx(1.5**2 * COVARIANCE + 0.7)
    assert conditioned.everywhere()[1] == pytest.approx(np.sqrt(np.full(len(PLACES), 1.5**2 + 0.7)))


def test_observations_one_by_one_have_the_density_of_all_together() -> None:
    rows, values = [1, 4, 7], [0.5, 2.0, 1.0]
    mean, covariance = PRIOR.at(np.array(rows))
    covariance = covariance + (0.01 + 1e-4) * np.eye(3)
    gap = np.array(values) - mean
    expected = -0.5 * gap @ np.linalg.solve(covariance, gap) - 0.5 * np.linalg.slogdet(covariance)[1]
    assert given(rows, values, [0, 0, 0]).log_evidence() == pytest.approx(expected)


@pytest.mark.parametrize("rows", [[1, 4, 7], [4], [2, 2, 2]])
def test_factored_together_they_are_what_each_is_by_itself(rows: list[int]) -> None:
    priors = [PRIOR, replace(PRIOR, spread=0.3, shift=-1.0), replace(PRIOR, noise=0.5)]
    values, sides = np.linspace(0.5, 2.0, len(rows)).tolist(), [0] * len(rows)
    told = observed(rows, values, sides)
    together, alone = [Conditioned(prior, told) for prior in priors], [Conditioned(prior, told) for prior in priors]
    Conditioned.factor(together)
    asked = np.concatenate([rows, ALL])
    for one, other in zip(together, alone, strict=True):
        assert one.log_evidence() == pytest.approx(other.log_evidence())
        assert one.log_sign_evidence() == pytest.approx(other.log_sign_evidence())
        for found, expected in zip(one.joint(asked), other.joint(asked), strict=True):
            assert found == pytest.approx(expected, abs=1e-9)


def test_what_cannot_be_factored_together_is_factored_one_by_one() -> None:
    """A covariance that rounding left indefinite does not take the others with it, nor do bounds."""
    flat = Gaussian(surface=WholeSurface.of(np.zeros(9), np.full((9, 9), 1.0) - 1e-3 * np.eye(9)), noise=0.0)
    for priors, sides in (([PRIOR, flat], [0, 0]), ([PRIOR, PRIOR], [0, 1])):
        family = [given([1, 4], [0.5, 2.0], sides, prior) for prior in priors]
        Conditioned.factor(family)
        for one, prior in zip(family, priors, strict=True):
            expected = given([1, 4], [0.5, 2.0], sides, prior).log_evidence()
            assert np.isfinite(expected)
            assert one.log_evidence() == pytest.approx(expected)
