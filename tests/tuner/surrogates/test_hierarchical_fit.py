"""The marginal likelihood of all earlier tasks, and its derivatives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tuner.surrogates.hierarchical_fit import LogLikelihood, TaskData, grouped, log_likelihood

GRID = 6
LEVEL, NOISE, JITTER = 0.7, 0.05, 1e-4


def covariances(generator: np.random.Generator) -> list[np.ndarray]:
    roots = [generator.normal(size=(GRID, GRID)) for _ in range(2)]
    return [root @ root.T / GRID + 0.1 * np.eye(GRID) for root in roots]


def tasks(generator: np.random.Generator, same: int) -> list[TaskData]:
    """Some that measured the same rows, and one with others and repeats."""
    rows = np.array([0, 2, 3, 5])
    found = [TaskData(index=rows, values=generator.normal(size=4), repeats=np.ones(4)) for _ in range(same)]
    other = TaskData(index=np.array([1, 2]), values=generator.normal(size=2), repeats=np.array([1.0, 3.0]))
    return [*found, other]


def dense(shared: np.ndarray, own: np.ndarray, noise: float, data: list[TaskData]) -> float:
    index = np.concatenate([task.index for task in data])
    which = np.repeat(np.arange(len(data)), [len(task.index) for task in data])
    repeats = np.concatenate([task.repeats for task in data])
    covariance = (shared + JITTER * np.eye(GRID))[np.ix_(index, index)]
    covariance += np.where(which[:, None] == which, own[np.ix_(index, index)] + LEVEL, 0.0)
    covariance += np.diag(noise / repeats + JITTER)
    values = np.concatenate([task.values for task in data])
    return float(multivariate_normal.logpdf(values, cov=covariance) + 0.5 * len(values) * np.log(2.0 * np.pi))


def found(shared: np.ndarray, own: np.ndarray, noise: float, data: list[TaskData]) -> LogLikelihood:
    return log_likelihood(shared, own, LEVEL, noise, grouped(data))


@given(st.integers(1, 3), st.integers(0, 2**20))
def test_it_is_the_density_of_all_values_at_once(same: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shared, own = covariances(generator)
    data = tasks(generator, same)
    assert found(shared, own, NOISE, data).value == pytest.approx(dense(shared, own, NOISE, data), abs=1e-8)


@given(st.integers(1, 3), st.integers(0, 2**20))
def test_its_derivatives_are_its_slopes(same: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shared, own = covariances(generator)
    data, step = tasks(generator, same), 1e-6
    direction = generator.normal(size=(GRID, GRID))
    direction = step * (direction + direction.T)
    here, none = found(shared, own, NOISE, data), np.zeros((GRID, GRID))
    for by_shared, by_own, by_noise, expected in (
        (direction, none, 0.0, (here.by_shared * direction).sum()),
        (none, direction, 0.0, (here.by_own * direction).sum()),
        (none, none, step, here.by_noise * step),
    ):
        ahead = dense(shared + by_shared, own + by_own, NOISE + by_noise, data)
        behind = dense(shared - by_shared, own - by_own, NOISE - by_noise, data)
        assert expected == pytest.approx(0.5 * (ahead - behind), rel=1e-3, abs=1e-3 * step)
