"""Trials that ended early: our samplers learn the bounds that they are, and never recommend them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.tuner.strategies.problems import LATENCY, listed, server_problem
from tuner.strategies.bayesian import BayesianSampler
from tuner.strategies.beliefs import Beliefs
from tuner.strategies.candidates import Candidates, row_of
from tuner.strategies.foreign import ForeignSampler, sampler_by_name
from tuner.strategies.history import TrialRows, observations
from tuner.strategies.listed_problem import Answer
from tuner.strategies.meta_search import MetaSearch
from tuner.strategies.random import RandomSampler
from tuner.surrogates.bounded_data import with_bounds
from tuner.surrogates.censoring import FloatArray
from tuner.surrogates.gaussian_process import GaussianProcess
from tuner.surrogates.kernel import Axis, Grid, Points

PROBLEM = server_problem(noise=0.02, ends_early=True)
CANDIDATES = Candidates.of(PROBLEM.space)
GRID = Grid([Axis(7, np.linspace(0, 1, 7))])
LEVELS = np.arange(7, dtype=np.int16)[:, None]


def line(sides: list[int], values: list[float]) -> FloatArray:
    """Posterior means over seven places in a row."""
    flags = np.array(sides, dtype=np.int8)
    data = with_bounds(GRID, LEVELS, np.array(values), np.full(7, 1e-4), flags)
    mean: FloatArray = GaussianProcess.fit(GRID, *data).posterior(Points(GRID, LEVELS))[0][0].numpy()
    return mean


def test_bound_above_what_is_believed_lifts_it_and_one_below_changes_nothing() -> None:
    values = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    lifted = line([0, 0, 0, 0, 0, 0, 1], [*values[:6], 3.0])
    silent = line([0, 0, 0, 0, 0, 0, 1], [*values[:6], -5.0])
    flags = np.zeros(6, dtype=np.int8)
    without = GaussianProcess.fit(GRID, *with_bounds(GRID, LEVELS[:6], np.array(values[:6]), np.full(6, 1e-4), flags))
    assert lifted[6] > 2.5
    assert silent == pytest.approx(without.posterior(Points(GRID, LEVELS))[0][0].numpy(), abs=1e-6)


def test_bound_is_not_taken_for_the_value() -> None:
    """Neighbours that are far above a bound stay so in between."""
    above = line([0, 0, 0, 1, 0, 0, 0], [2.0, 2.1, 2.0, 0.5, 2.0, 2.1, 2.0])
    assert above[3] > 1.8


def test_trial_that_ended_early_is_believed_to_miss_and_is_never_recommended() -> None:
    sampler = BayesianSampler(CANDIDATES, PROBLEM.objectives, PROBLEM.slos, 0)
    study = PROBLEM.run(sampler, 14)
    history = sampler.history(study)
    assert 2 <= (~history.whole).sum() < len(history.rows)
    beliefs = sampler.beliefs(history)
    assert (beliefs.outlook(history.rows[~history.whole]).holds.numpy() < 0.5).all()
    best = sampler.best(study)
    assert best is not None
    assert row_of(PROBLEM.space, best).tolist() in history.rows[history.whole].tolist()


def test_search_finds_as_good_configurations_from_bounds_as_from_values() -> None:
    whole = server_problem(noise=0.02)

    def found(ends_early: bool) -> float:
        problem = PROBLEM if ends_early else whole
        runs = [
            problem.best_value(
                problem.run(BayesianSampler(CANDIDATES, problem.objectives, problem.slos, seed), 12, seed)
            )
            for seed in range(7)
        ]
        return float(np.median(runs))

    assert found(True) > 0.93 * found(False)


def test_where_nothing_was_measured_to_its_end_the_search_goes_on() -> None:
    study = PROBLEM.run(RandomSampler(CANDIDATES, PROBLEM.objectives, PROBLEM.slos, 5), 30, 5)
    trials = [trial for trial in study.get_trials() if 'ended_early":{' in str(trial.user_attrs.get("outcome"))]
    history = observations(trials, TrialRows(PROBLEM.space), PROBLEM.objectives, PROBLEM.slos)
    assert len(history.rows) >= 3
    assert not history.whole.any()
    sampler = BayesianSampler(CANDIDATES, PROBLEM.objectives, PROBLEM.slos, 0)
    beliefs = Beliefs.form(history, PROBLEM.space, PROBLEM.objectives, PROBLEM.slos)
    assert beliefs.processes
    chosen = sampler.choose(history, np.ones(len(CANDIDATES), dtype=bool), 40)
    assert chosen.shape == history.rows[0].shape


def test_foreign_samplers_are_told_a_violated_constraint() -> None:
    sampler = ForeignSampler(CANDIDATES, PROBLEM.objectives, PROBLEM.slos, 0, inner=sampler_by_name("TPESampler", 0))
    study = PROBLEM.run(sampler, 10)
    history = sampler.history(study)
    column = history.column(LATENCY)
    (slo,) = PROBLEM.slos
    assert all(slo.excess(value) > 0.09 for value in history.values[~history.whole][:, column])


def test_meta_search_believes_a_bound_and_never_takes_it_for_the_best() -> None:
    search = MetaSearch(listed(12), seed=0)
    for row in (0, 3, 6):
        search.ask_for(row)
        search.tell(row, Answer(ran=True, objective=10.0 + row, constraints=(0.3 + 0.05 * row,)))
    before = search.prospects()
    assert before.best == 6
    search.ask_for(9)
    search.tell(9, Answer(ran=True, objective=50.0, constraints=(1.1,), sides=(0, 1)))
    after = search.prospects()
    assert after.best == 6
    assert math.isfinite(after.expected_gain)


@pytest.mark.parametrize("sides", [(1, 0), (-1, 0), (1, 1), (-1, 1), (0, -1)])
def test_meta_search_goes_on_whatever_ended_a_trial(sides: tuple[int, int]) -> None:
    search = MetaSearch(listed(12), seed=0)
    for row in (0, 3, 6):
        search.ask_for(row)
        search.tell(row, Answer(ran=True, objective=10.0 + row, constraints=(0.3 + 0.05 * row,)))
    search.ask_for(9)
    search.tell(9, Answer(ran=True, objective=5.0, constraints=(1.1,), sides=sides))
    assert search.ask() not in (0, 3, 6, 9)
