"""What one more trial is expected to gain, by the same definition in both samplers: sober where little is known."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
import torch

from tests.tuner.strategies.problems import listed, server_problem
from tuner.strategies.bayesian import BayesianSampler
from tuner.strategies.candidates import Candidates
from tuner.strategies.listed_problem import Answer
from tuner.strategies.meta_search import MetaSearch
from tuner.strategies.prospects import MOST_GAIN


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 1.5])
def test_gain_is_that_of_the_mean_logarithm_over_draws(monkeypatch: pytest.MonkeyPatch, spread: float) -> None:
    """Of a logarithm of deviation s it is exp(0.4 s) - 1, where a mean of ratios grows as exp(s^2 / 2)."""
    problem = server_problem()
    sampler = BayesianSampler(Candidates.of(problem.space), problem.objectives, problem.slos, 0)
    study = problem.run(sampler, 8)
    draws = spread * torch.randn(2, 5, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    monkeypatch.setattr(sampler, "_leads", lambda *_: draws)
    found = sampler.prospects(study)
    assert found is not None
    expected = math.expm1(spread / math.sqrt(2 * math.pi))
    assert found.expected_gain == pytest.approx(expected, rel=0.05)


def test_gain_of_earlier_tasks_search_stays_sober_while_little_is_known() -> None:
    search = MetaSearch(listed(12), seed=0)
    for row in (0, 4):
        search.ask_for(row)
        search.tell(row, Answer(ran=True, objective=10.0 + row, constraints=(0.5,)))
    found = search.prospects()
    assert found.best == 4
    assert 0 < found.expected_gain < 5
    assert found.expected_gain <= math.expm1(MOST_GAIN)


def test_incumbent_near_its_bound_does_not_make_others_seem_better() -> None:
    """That it may miss the bound when measured again is no gain of another configuration."""
    gains = []
    for latency in (0.5, 0.999):
        search = MetaSearch(listed(12), seed=0)
        for row in range(0, 12, 2):
            search.ask_for(row)
            search.tell(row, Answer(ran=True, objective=10.0 - 0.5 * abs(row - 6), constraints=(latency,)))
        gains.append(search.prospects().expected_gain)
    assert gains[1] < gains[0] + 0.05
    assert np.isfinite(gains).all()


def test_prospects_need_a_measured_incumbent() -> None:
    problem = server_problem()
    sampler = BayesianSampler(Candidates.of(problem.space), problem.objectives, problem.slos, 0)
    assert sampler.prospects(optuna.create_study(direction="maximize")) is None
