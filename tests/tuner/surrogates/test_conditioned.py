"""A Gaussian given observations, row by row and jointly."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.surrogates.conditioned import Conditioned
from tuner.surrogates.listed_gaussian import Gaussian, WholeSurface

PLACES = np.linspace(0.0, 3.0, 9)
COVARIANCE = np.exp(-0.5 * (PLACES[:, None] - PLACES[None, :]) ** 2)
PRIOR = Gaussian(surface=WholeSurface.of(np.sin(PLACES), COVARIANCE), noise=0.01, shift=0.3, spread=1.5, level=0.7)
ALL = np.arange(len(PLACES))


def given(rows: list[int], values: list[float], sides: list[int]) -> Conditioned:
    return Conditioned(
        PRIOR,
        np.array(rows, dtype=np.int64),
        np.array(values),
        np.zeros(len(rows)),
        np.array(sides, dtype=np.int8),
        least_noise=0.0,
    )


@pytest.mark.parametrize("sides", [[0, 0, 0], [0, 1, -1], [1, 1, 1]])
def test_each_row_by_itself_is_what_it_is_jointly(sides: list[int]) -> None:
    conditioned = given([1, 4, 4], [0.5, 2.0, 1.8], sides)
    mean, covariance = conditioned.joint(ALL)
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
