"""The mixture: draws follow the weights, and agree with the closed form."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.surrogates.hypothesis_mixture import HypothesisMixture
from tuner.surrogates.listed_gaussian import Gaussian, WholeSurface

PLACES = np.arange(6.0)
COVARIANCE = np.exp(-0.5 * (PLACES[:, None] - PLACES[None, :]) ** 2)
ROWS = np.arange(6)


def mixture(draws: int = 4000, trust: float = 1.0) -> HypothesisMixture:
    low, high = (Gaussian(surface=WholeSurface.of(np.full(6, mean), COVARIANCE), noise=0.01) for mean in (0.0, 3.0))
    return HypothesisMixture(
        {"objective": (low, high)},
        np.array([0.5, 0.5]),
        draws=draws,
        seed=0,
        trust=trust,
    )


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=9).filter(lambda weights: sum(weights) > 0.1))
@settings(max_examples=50, deadline=None)
def test_all_draws_are_shared_out_in_proportion_among_hypotheses_of_some_weight(weights: list[float]) -> None:
    shares = np.array(weights)
    counts = dict(mixture(draws=500).counts(shares))
    assert sum(counts.values()) == 500
    worth = np.where(shares < 0.01 * shares.max(), 0.0, shares)
    exact = 500 * worth / worth.sum()
    assert all(abs(counts.get(at, 0) - exact[at]) < 1.0 + 1e-9 for at in range(len(weights)))


def test_conditioned_draws_agree_with_the_closed_form() -> None:
    beliefs = mixture(draws=20000)
    beliefs.observe("objective", 2, 1.5)
    drawn = beliefs.draws("objective", [(0, 20000)], ROWS)
    gain = COVARIANCE[:, 2] / (1.0 + 0.01 + 1e-4)
    np.testing.assert_allclose(drawn.mean(axis=1), gain * 1.5, atol=0.03)
    np.testing.assert_allclose(drawn.var(axis=1), 1.0 - gain * COVARIANCE[:, 2], atol=0.03)


def test_the_hypothesis_that_predicts_better_gains_weight_and_less_so_with_less_trust() -> None:
    found = []
    for trust in (1.0, 0.5):
        beliefs = mixture(trust=trust)
        beliefs.observe("objective", 0, 2.0)
        found.append(beliefs.weights()[1])
    assert found[0] > found[1] > 0.5


def test_earlier_draws_stay_when_a_hypothesis_gains_draws() -> None:
    beliefs = mixture()
    few = beliefs.draws("objective", [(1, 100)], ROWS)
    more = beliefs.draws("objective", [(1, 300)], ROWS)
    np.testing.assert_array_equal(more[:, :100], few)


def test_draws_respect_a_bound_and_one_that_is_believed_anyway_changes_nothing() -> None:
    beliefs, bounded, silent = mixture(draws=20000), mixture(draws=20000), mixture(draws=20000)
    bounded.observe("objective", 2, 1.5, side=1)
    silent.observe("objective", 2, -9.0, side=1)
    counts = [(0, 20000)]
    assert np.quantile(bounded.draws("objective", counts, ROWS)[2], 0.05) > 1.2
    assert bounded.draws("objective", counts, ROWS)[2].mean() > 1.6
    np.testing.assert_allclose(
        silent.draws("objective", counts, ROWS), beliefs.draws("objective", counts, ROWS), atol=1e-3
    )


def test_hypothesis_that_expects_what_a_bound_says_gains_weight_up_to_its_probability() -> None:
    beliefs = mixture()
    beliefs.observe("objective", 0, 2.0, side=1)
    low, high = 0.02275, 0.8413  # of N(0, 1) and N(3, 1) above 2
    np.testing.assert_allclose(beliefs.weights()[1], high / (low + high), atol=0.01)


def test_a_sign_is_judged_by_its_probability_not_by_how_narrow_the_belief_in_its_value_is() -> None:
    sure = Gaussian(surface=WholeSurface.of(np.ones(6), 1e-4 * COVARIANCE), noise=1e-4)
    open_minded = Gaussian(surface=WholeSurface.of(np.ones(6), 0.1 * COVARIANCE), noise=0.01)
    beliefs = HypothesisMixture(
        {"ran": (sure, open_minded)},
        np.array([0.5, 0.5]),
        draws=100,
        seed=0,
        signs=("ran",),
    )
    for row in range(4):
        beliefs.observe("ran", row, 1.0)
    assert 0.5 <= beliefs.weights()[0] < 0.6


def test_a_failure_speaks_against_the_hypothesis_that_was_surer_of_success() -> None:
    likely, open_minded = (
        Gaussian(surface=WholeSurface.of(np.full(6, mean), 0.1 * COVARIANCE), noise=0.01) for mean in (1.0, 0.0)
    )
    beliefs = HypothesisMixture(
        {"ran": (likely, open_minded)},
        np.array([0.5, 0.5]),
        draws=100,
        seed=0,
        signs=("ran",),
    )
    beliefs.observe("ran", 5, -1.0)
    assert beliefs.weights()[0] < 0.2


def test_one_failure_among_successes_nearby_is_taken_for_chance() -> None:
    steady = Gaussian(surface=WholeSurface.of(np.ones(6), COVARIANCE), noise=1e-4)
    beliefs = HypothesisMixture({"ran": (steady,)}, np.ones(1), draws=2000, seed=0, signs=("ran",))
    for row, sign in ((1, 1.0), (2, -1.0), (3, 1.0)):
        beliefs.observe("ran", row, sign)
    assert (beliefs.draws("ran", [(0, 2000)], ROWS)[0] > 0).mean() > 0.7


@given(st.lists(st.sampled_from([-1.0, 1.0]), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_signs_favour_the_hypothesis_whose_mean_lies_on_their_side(signs: list[float]) -> None:
    near, far = (Gaussian(surface=WholeSurface.of(np.full(6, mean), COVARIANCE), noise=0.01) for mean in (0.0, 0.5))
    beliefs = HypothesisMixture(
        {"ran": (near, far)},
        np.array([0.5, 0.5]),
        draws=100,
        seed=0,
        signs=("ran",),
    )
    for row, sign in enumerate(signs):
        beliefs.observe("ran", row, sign)
    weights = beliefs.weights()
    assert (weights >= 0.0).all()
    if all(sign > 0 for sign in signs):
        assert weights[1] > weights[0]
    if all(sign < 0 for sign in signs):
        assert weights[1] < weights[0]
