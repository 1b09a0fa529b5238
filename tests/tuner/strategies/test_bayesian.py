from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from tests.tuner.strategies.problems import (
    COST,
    LATENCY,
    THROUGHPUT,
    Problem,
    measured,
    served,
    server_problem,
    server_space,
)
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies import bayesian
from tuner.strategies.bayesian import BayesianSampler
from tuner.strategies.beliefs import points_of
from tuner.strategies.candidates import Candidates, config_of, row_of
from tuner.strategies.history import distributions
from tuner.strategies.random import RandomSampler
from tuner.trial import Infeasible, Outcome, Reason


def sampler(
    problem: Problem, seed: int = 0, candidates: Candidates | None = None, **options: object
) -> BayesianSampler:
    found = candidates or Candidates.of(problem.space)
    return BayesianSampler(found, problem.objectives, problem.slos, seed, **options)  # type: ignore[arg-type]


def optimum(problem: Problem) -> float:
    candidates = Candidates.of(problem.space)
    return max(problem.value(candidates.config(position)) for position in range(len(candidates)))


def test_it_beats_random_search_in_median_regret() -> None:
    problem = server_problem(noise=0.02)
    candidates, best = Candidates.of(problem.space), optimum(problem)

    def regrets(kind: type) -> list[float]:
        return [
            1
            - problem.best_value(problem.run(kind(candidates, problem.objectives, problem.slos, seed), 14, seed)) / best
            for seed in range(3)
        ]

    ours, chance = regrets(BayesianSampler), regrets(RandomSampler)
    assert np.median(ours) < 0.5 * np.median(chance)
    assert np.median(ours) < 0.15


def test_it_avoids_what_runs_out_of_memory_better_than_chance() -> None:
    problem = Problem(space=server_space(), truth=lambda config: served(config, memory=300))
    candidates = Candidates.of(problem.space)

    def failures(kind: type) -> int:
        studies = [problem.run(kind(candidates, problem.objectives, problem.slos, seed), 16) for seed in range(2)]
        late = [trial for study in studies for trial in study.trials[8:]]
        return sum(trial.state is optuna.trial.TrialState.FAIL for trial in late)

    assert failures(BayesianSampler) < failures(RandomSampler)


def test_an_infeasible_trial_never_becomes_the_incumbent() -> None:
    space = server_space()

    def truth(config: Config) -> Outcome:
        if config["threads"] == 8:
            return Infeasible(reason=Reason.DIED, message="crashed")
        late = config["max_batch_size"] == 64
        return measured({"throughput": 100.0 if late else 10.0, "p99(latency)": 1.0 if late else 0.01})

    problem = Problem(space=space, truth=truth)
    strategy = sampler(problem)
    study = problem.run(strategy, 12)
    best = strategy.best(study)
    assert best is not None
    assert best["max_batch_size"] != 64
    assert best["threads"] != 8


def test_the_luckiest_run_is_not_the_best_configuration() -> None:
    problem = Problem(space=server_space(), truth=lambda config: measured({"throughput": 1.0}), slos=())
    strategy = sampler(problem)
    study = optuna.create_study(direction="maximize", sampler=strategy)

    def tell(config: Config, values: list[float]) -> None:
        for value in values:
            study.enqueue_trial(problem.space.complete(config))
            trial = study.ask(distributions(problem.space))
            told = Problem(
                space=problem.space, truth=lambda _, value=value: measured({"throughput": value}, 0.3), slos=()
            )
            told.tell(study, trial, np.random.default_rng(0))

    steady = problem.space.default
    lucky = problem.space.config({**problem.space.complete(steady), "threads": 8})
    tell(steady, [10.0] * 8)
    tell(lucky, [6.0, 6.0, 6.0, 11.0])
    assert strategy.best(study) == steady


def test_nothing_is_recommended_while_nothing_surely_holds_the_bounds() -> None:
    problem = Problem(space=server_space(), truth=lambda config: measured({"throughput": 1.0, "p99(latency)": 0.5}))
    strategy = sampler(problem)
    study = problem.run(strategy, 7)
    assert strategy.best(study) is None
    assert strategy.prospects(study) is None


def test_while_nothing_holds_the_bounds_it_heads_for_where_they_may() -> None:
    def truth(config: Config) -> Outcome:
        late = 0.1 * 2 ** np.log2(float(config["max_batch_size"])) * float(config["instances"])
        return measured({"throughput": float(config["max_batch_size"]), "p99(latency)": late})

    problem = Problem(space=server_space(), truth=truth, slos=(Slo.parse("p99(latency) <= 150 ms"),))
    study = problem.run(sampler(problem), 12)
    assert problem.best_value(study) > -math.inf


def test_an_error_rate_of_zero_is_a_bound_like_any_other() -> None:
    def truth(config: Config) -> Outcome:
        errors = 0.0 if config["instances"] != 1 else 0.02
        return measured({"throughput": 100.0 / float(config["instances"]), "error_rate": errors})

    for bound in ("error_rate <= 0%", "error_rate <= 1%"):
        problem = Problem(space=server_space(), truth=truth, slos=(Slo.parse(bound),))
        found = []
        for seed in range(3):
            strategy = sampler(problem, seed)
            best = strategy.best(problem.run(strategy, 10))
            assert best is not None
            assert best["instances"] != 1
            found.append(best["instances"])
        assert found.count(2) >= 2


def test_prospects_shrink_to_nothing_as_the_space_is_explored() -> None:
    space = server_space(("small",))
    problem = Problem(
        space=space,
        truth=lambda config: measured({"throughput": 2.0 ** float(config["threads"])}),
        slos=(),
    )
    strategy = sampler(problem)
    study = problem.run(strategy, 5)
    early = strategy.prospects(study)
    problem.go_on(study, 15)
    late = strategy.prospects(study)
    assert early is not None
    assert late is not None
    assert late.best["threads"] == 8
    assert 0 <= late.expected_gain < early.expected_gain or early.best["threads"] == 8
    assert late.within > 0.9


def test_prospects_of_an_exhausted_space_are_none_at_all() -> None:
    problem = Problem(space=server_space(("small",)), truth=lambda config: measured({"throughput": 1.0}), slos=())
    rows = Candidates.of(problem.space).rows[:3]
    first_three = Candidates(problem.space, rows, True)
    strategy = sampler(problem, candidates=first_three)
    study = problem.run(strategy, 3)
    found = strategy.prospects(study)
    assert found is not None
    assert (found.expected_gain, found.within) == (0.0, 1.0)


def test_hopes_are_never_below_what_is_believed() -> None:
    problem = server_problem(noise=0.02)
    strategy = sampler(problem)
    study = problem.run(strategy, 4)
    others = np.random.default_rng(0).choice(strategy.candidates.rows, 30, replace=False)
    for row in others:
        study.enqueue_trial(problem.space.complete(config_of(problem.space, row)))
    problem.go_on(study, 30)
    beliefs = strategy.beliefs(strategy.history(study))
    rows = strategy.candidates.rows
    believed = beliefs.outlook(rows)
    hoped = beliefs.hopeful_outlook(points_of(problem.space, beliefs.grid, rows, np.float32))
    assert hoped.means[0].numpy() == pytest.approx(believed.means[0].numpy(), abs=1e-3)
    assert (hoped.stds[0] > believed.stds[0] - 1e-3).all()
    assert (hoped.log_holds > believed.log_holds - 1e-3).all()
    assert (hoped.log_runs >= believed.log_runs).all()


def test_a_bound_on_the_score_rules_out_none_of_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = server_problem(noise=0.02)
    monkeypatch.setattr(bayesian, "_SHORTLIST", 20)
    strategy = sampler(problem)
    history = strategy.history(problem.run(strategy, 12))
    open_positions = np.ones(len(strategy.candidates), dtype=bool)
    open_positions[strategy.candidates.positions(history.tried_rows)] = False
    chosen = []
    for promising in (40, len(strategy.candidates)):
        monkeypatch.setattr(bayesian, "_PROMISING", promising)
        chosen.append(strategy.choose(history, open_positions, 12).tolist())
    assert chosen[0] == chosen[1]


def test_two_objectives_spread_along_the_pareto_front() -> None:
    problem = Problem(space=server_space(), truth=served, objectives=(THROUGHPUT, COST))
    study = problem.run(sampler(problem), 16)
    front = {problem.space.config(trial.params).device for trial in study.best_trials}
    assert front == {"small", "large"}


def test_parallel_suggestions_keep_apart() -> None:
    problem = server_problem()
    study = problem.run(sampler(problem), 10)
    batch = [problem.space.config(study.ask(distributions(problem.space)).params) for _ in range(4)]
    apart = [len(a.differing(b)) for i, a in enumerate(batch) for b in batch[:i]]
    assert len(set(batch)) == 4
    assert max(apart) >= 2


def test_a_sampled_space_is_climbed_beyond_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bayesian, "SCAN_LIMIT", 150)
    problem = server_problem()
    sampled = Candidates.of(problem.space, limit=200)
    study = problem.run(sampler(problem, candidates=sampled), 16)
    configs = problem.configs(study)
    assert len(set(configs)) == 16
    assert not any(problem.space.violations(config) for config in configs)
    assert any(sampled.position(config) is None for config in configs)
    assert problem.best_value(study) > 0.8 * optimum(problem)


def test_a_prior_mean_leads_the_search_from_the_start() -> None:
    problem = server_problem()
    space = problem.space

    def expected(rows: np.ndarray) -> np.ndarray:
        outcomes = [served(config_of(space, row)) for row in rows]
        return np.array(
            [0.0 if isinstance(o, Infeasible) else math.log(o.values()[THROUGHPUT.metric]) for o in outcomes]
        )

    led = sampler(problem, startup=1, prior_means={THROUGHPUT.metric: expected})
    study = problem.run(led, 5)
    assert problem.best_value(study) > 0.8 * optimum(problem)


def test_a_metric_without_a_value_counts_as_a_missed_bound() -> None:
    problem = server_problem()
    strategy = sampler(problem)
    study = problem.run(strategy, 6)
    silent = problem.space.config({**problem.space.complete(problem.space.default), "threads": 4})
    study.enqueue_trial(problem.space.complete(silent))
    trial = study.ask(distributions(problem.space))
    Problem(space=problem.space, truth=lambda config: measured({"throughput": 500.0})).tell(
        study, trial, np.random.default_rng(0)
    )
    history = strategy.history(study)
    beliefs = strategy.beliefs(history)
    assert math.isnan(history.values[-1, history.column(LATENCY)])
    assert float(beliefs.outlook(row_of(problem.space, silent)[None]).holds) < 0.2
