"""Bounds as Gaussian observations: they pull to their side, agree with sampling, and say nothing where believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_ndtr, ndtr

from tuner.surrogates.censoring import FloatArray, PseudoObservations, pseudo_observations

sides = st.sampled_from([-1, 1])


def a_belief(count: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """A smooth prior on `count` places, some of them near one another."""
    generator = np.random.default_rng(seed)
    places = generator.uniform(0, 3, count)
    covariance = np.exp(-0.5 * (places[:, None] - places[None, :]) ** 2) + 0.05 * np.eye(count)
    return generator.normal(0, 0.5, count), covariance


def posterior(mean: FloatArray, covariance: FloatArray, found: PseudoObservations) -> tuple[FloatArray, FloatArray]:
    gain = np.linalg.solve(covariance + np.diag(found.variances), covariance).T
    return mean + gain @ (found.values - mean), covariance - gain @ covariance


@given(bound=st.floats(-8, 8), mean=st.floats(-3, 3), sd=st.floats(0.05, 3), noise=st.floats(1e-4, 1), side=sides)
def test_one_bound_gives_the_moments_of_the_exact_posterior(
    bound: float, mean: float, sd: float, noise: float, side: int
) -> None:
    """A Gaussian times a normal distribution function has known moments (Rasmussen & Williams 2006, Eq. 3.58)."""
    found = pseudo_observations(
        np.array([mean]), np.array([[sd**2]]), np.array([bound]), np.array([noise]), np.array([side], dtype=np.int8)
    )
    after, covariance = posterior(np.array([mean]), np.array([[sd**2]]), found)
    z = side * (mean - bound) / np.sqrt(noise + sd**2)
    ratio = np.exp(-0.5 * z**2 - 0.5 * np.log(2 * np.pi) - log_ndtr(z))
    expected = mean + side * sd**2 * ratio / np.sqrt(noise + sd**2)
    assert after[0] == pytest.approx(expected, abs=1e-3 * sd)
    assert covariance[0, 0] == pytest.approx(sd**2 - sd**4 * ratio * (z + ratio) / (noise + sd**2), abs=1e-3 * sd**2)
    assert found.log_probability == pytest.approx(log_ndtr(z), abs=1e-3)


@settings(max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 8), side=sides, bound=st.floats(-3, 3))
def test_posterior_of_a_bounded_point_moves_to_its_side_and_narrows(
    seed: int, count: int, side: int, bound: float
) -> None:
    mean, covariance = a_belief(count, seed)
    values, flags = np.zeros(count), np.zeros(count, dtype=np.int8)
    values[0], flags[0] = bound, side
    found = pseudo_observations(mean, covariance, values, np.full(count, 0.01), flags)
    without = pseudo_observations(mean[1:], covariance[1:, 1:], values[1:], np.full(count - 1, 0.01), flags[1:])
    rest = np.linalg.solve(covariance[1:, 1:] + 0.01 * np.eye(count - 1), covariance[1:, 0])
    before = mean[0] + rest @ (without.values - mean[1:])
    after, spread = posterior(mean, covariance, found)
    assert side * (after[0] - before) >= -1e-6
    assert spread[0, 0] <= covariance[0, 0] - rest @ covariance[1:, 0] + 1e-9
    if side * (bound - before) > 0:
        assert side * (after[0] - bound) > -3 * np.sqrt(0.01 + spread[0, 0])


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 8), side=sides)
def test_bound_that_is_believed_anyway_changes_nothing(seed: int, count: int, side: int) -> None:
    mean, covariance = a_belief(count, seed)
    values = mean - side * 12 * np.sqrt(np.diag(covariance))
    found = pseudo_observations(mean, covariance, values, np.full(count, 0.01), np.full(count, side, dtype=np.int8))
    after, spread = posterior(mean, covariance, found)
    assert after == pytest.approx(mean, abs=1e-5)
    assert spread == pytest.approx(covariance, abs=1e-5)
    assert found.log_probability == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_sampling(seed: int) -> None:
    """Draws from the belief given the exact values, weighted by how likely the bounds are under each."""
    generator = np.random.default_rng(seed)
    count = 5
    mean, covariance = a_belief(count, seed)
    values = generator.normal(0, 1, count)
    flags = np.array([0, 1, -1, 1, 0], dtype=np.int8)
    variances = np.full(count, 0.05)
    found = pseudo_observations(mean, covariance, values, variances, flags)
    exact = flags == 0
    block = covariance[np.ix_(exact, exact)] + np.diag(variances[exact])
    gain = np.linalg.solve(block, covariance[exact]).T
    given_mean = mean + gain @ (values[exact] - mean[exact])
    draws = generator.multivariate_normal(given_mean, covariance - gain @ covariance[exact], size=400_000)
    weights = np.prod(ndtr(flags * (draws - values) / np.sqrt(variances))[:, ~exact], axis=1)
    sampled = weights @ draws / weights.sum()
    spread = (weights @ (draws - sampled) ** 2) / weights.sum()
    after, after_covariance = posterior(mean, covariance, found)
    assert after == pytest.approx(sampled, abs=0.1)
    assert np.diag(after_covariance) == pytest.approx(spread, abs=0.05)
    assert found.log_probability == pytest.approx(np.log(weights.mean()), abs=0.1)


def test_exact_observations_are_left_alone() -> None:
    mean, covariance = a_belief(4, 0)
    values, variances = np.arange(4.0), np.full(4, 0.1)
    found = pseudo_observations(mean, covariance, values, variances, np.zeros(4, dtype=np.int8))
    assert found.values is values
    assert found.log_probability == 0.0


def test_many_bounds_far_beyond_belief_stay_finite() -> None:
    mean, covariance = a_belief(30, 3)
    flags = np.where(np.arange(30) % 2, 1, -1).astype(np.int8)
    found = pseudo_observations(mean, covariance, mean + 40.0 * flags, np.full(30, 1e-4), flags)
    assert np.isfinite(found.values).all()
    assert (found.variances > 0).all()
    assert np.isfinite(found.log_probability)
