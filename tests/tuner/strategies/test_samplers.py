"""Laws of every sampler over candidates, ours and others'."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.strategies.problems import Problem, measured, server_problem, server_space, spaces
from tuner.errors import SpaceError, UnavailableError, UnknownNameError, UsageError
from tuner.parameter import Config, Parameter
from tuner.space import Space
from tuner.strategies.bayesian import BayesianSampler
from tuner.strategies.candidates import Candidates
from tuner.strategies.foreign import ForeignSampler, sampler_by_name
from tuner.strategies.history import distributions
from tuner.strategies.random import RandomSampler
from tuner.strategies.sampler import CandidateSampler, SpaceExhausted
from tuner.trial import Infeasible, Outcome, Reason

Maker = Callable[[Candidates, Problem, int], CandidateSampler]


def bayesian(candidates: Candidates, problem: Problem, seed: int) -> CandidateSampler:
    return BayesianSampler(candidates, problem.objectives, problem.slos, seed)


def at_random(candidates: Candidates, problem: Problem, seed: int) -> CandidateSampler:
    return RandomSampler(candidates, problem.objectives, problem.slos, seed)


def foreign(candidates: Candidates, problem: Problem, seed: int) -> CandidateSampler:
    inner = sampler_by_name("tpe", seed)
    return ForeignSampler(candidates, problem.objectives, problem.slos, seed, inner=inner)


every_sampler = pytest.mark.parametrize("make", [bayesian, at_random, foreign], ids=lambda make: make.__name__)


def arbitrary(config: Config) -> Outcome:
    """Some configurations fail, some miss the bound; always the same ones."""
    number = sum(map(ord, config.to_json()))
    if number % 4 == 0:
        return Infeasible(reason=list(Reason)[number % len(Reason)], message="failed")
    return measured({"throughput": 1.0 + number % 7, "p99(latency)": 0.01 * (1 + number % 5)})


@every_sampler
@settings(max_examples=5)
@given(space=spaces(), seed=st.integers(0, 3))
def test_every_valid_configuration_is_asked_exactly_once_and_then_the_space_is_exhausted(
    make: Maker, space: Space, seed: int
) -> None:
    try:
        candidates = Candidates.of(space)
    except SpaceError:
        return
    problem = Problem(space=space, truth=arbitrary)
    sampler = make(candidates, problem, seed)
    trials = min(len(candidates), 12)
    study = problem.run(sampler, trials)
    configs = problem.configs(study)
    assert configs[0] == candidates.config(candidates.default_position)
    assert len(set(configs)) == trials
    assert not any(space.violations(config) for config in configs)
    assert sampler.remaining(study) == len(candidates) - trials
    if trials == len(candidates):
        with pytest.raises(SpaceExhausted, match=f"All {trials} valid configurations"):
            study.ask(distributions(space))
        assert study.trials[-1].state is optuna.trial.TrialState.FAIL


@every_sampler
def test_pending_trials_are_not_asked_again(make: Maker) -> None:
    problem = server_problem()
    study = problem.run(make(Candidates.of(problem.space), problem, 0), 6)
    pending = [study.ask(distributions(problem.space)) for _ in range(4)]
    configs = problem.configs(study)
    assert len(set(configs)) == 10
    assert all(trial.state is optuna.trial.TrialState.RUNNING for trial in study.trials[-len(pending) :])


@pytest.mark.parametrize("make", [bayesian, at_random], ids=lambda make: make.__name__)
def test_a_study_continued_by_another_process_asks_the_same(make: Maker) -> None:
    problem = server_problem(noise=0.02)
    candidates = Candidates.of(problem.space)
    straight = problem.run(make(candidates, problem, 3), 9)
    broken = problem.run(make(candidates, problem, 3), 7)
    continued = optuna.create_study(direction="maximize", sampler=make(candidates, problem, 3))
    continued.add_trials(broken.trials)
    assert continued.ask(distributions(problem.space)).params == straight.trials[7].params


@every_sampler
def test_a_study_in_which_nothing_runs_goes_on_elsewhere(make: Maker) -> None:
    problem = Problem(space=server_space(), truth=lambda config: Infeasible(reason=Reason.DID_NOT_START, message="no"))
    study = problem.run(make(Candidates.of(problem.space), problem, 0), 8)
    assert len(set(problem.configs(study))) == 8


@every_sampler
def test_a_study_without_a_bound_and_with_constant_values_goes_on(make: Maker) -> None:
    problem = Problem(space=server_space(), truth=lambda config: measured({"throughput": 0.0}), slos=())
    study = problem.run(make(Candidates.of(problem.space), problem, 0), 8)
    assert len(set(problem.configs(study))) == 8


def test_an_unknown_parameter_is_refused() -> None:
    problem = server_problem()
    study = problem.run(at_random(Candidates.of(problem.space), problem, 0), 1)
    trial = study.ask(distributions(problem.space))
    with pytest.raises(Exception, match="'learning_rate' is no parameter"):
        trial.suggest_float("learning_rate", 0, 1)


@pytest.mark.parametrize("name", ["tpe", "GPSampler", "optuna.samplers.NSGAIISampler", "optuna.samplers:QMCSampler"])
def test_any_optuna_sampler_can_search_the_candidates(name: str) -> None:
    problem = server_problem()
    sampler = ForeignSampler(
        Candidates.of(problem.space), problem.objectives, problem.slos, inner=sampler_by_name(name, 0)
    )
    study = problem.run(sampler, 12)
    assert len(set(problem.configs(study))) == 12
    assert sampler.asked == 11
    assert sampler.moved <= sampler.asked


def test_a_foreign_sampler_sees_a_failure_as_a_violated_constraint_with_the_worst_value_so_far() -> None:
    seen: list[optuna.trial.FrozenTrial] = []

    class Watching(optuna.samplers.RandomSampler):
        def infer_relative_search_space(self, study, trial):  # type: ignore[no-untyped-def]
            seen[:] = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
            return super().infer_relative_search_space(study, trial)

    problem = Problem(space=server_space(), truth=arbitrary)
    sampler = ForeignSampler(Candidates.of(problem.space), problem.objectives, problem.slos, inner=Watching(seed=1))
    study = problem.run(sampler, 25)
    failed = sum(trial.state is optuna.trial.TrialState.FAIL for trial in study.trials[:-1])
    values = [trial.value for trial in study.trials if trial.value is not None]
    violated = [trial for trial in seen if trial.constraints["runs"] > 0]
    assert len(seen) == 24
    assert len(violated) == failed > 0
    assert all(min(values) <= trial.value <= max(values) for trial in violated)


def test_a_sampler_is_found_by_its_name_in_any_spelling() -> None:
    for name in ("TPESampler", "tpe", "optuna.samplers.TPESampler", "optuna.samplers:TPESampler"):
        assert isinstance(sampler_by_name(name, 7), optuna.samplers.TPESampler)


def test_an_unknown_sampler_brings_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="'TPESampler'"):
        sampler_by_name("TPESample", 0)
    with pytest.raises(UnknownNameError, match="'GPSampler'"):
        sampler_by_name("optuna.samplers:GPSamplr", 0)


def test_a_sampler_that_cannot_be_had_says_why() -> None:
    with pytest.raises(UnavailableError, match="PYTHONPATH"):
        sampler_by_name("no_such_module:Sampler", 0)
    with pytest.raises(UsageError, match="further arguments"):
        sampler_by_name("GridSampler", 0)
    with pytest.raises(UsageError, match="derives from"):
        sampler_by_name("fractions:Fraction", 0)


@every_sampler
def test_a_single_configuration_is_asked_and_that_is_all(make: Maker) -> None:
    space = Space(parameters=(Parameter(name="device", values=("d",), default="d"),))
    problem = Problem(space=space, truth=lambda config: measured({"throughput": 1.0}), slos=())
    study = problem.run(make(Candidates.of(space), problem, 0), 1)
    assert problem.best_value(study) == 1.0
    with pytest.raises(SpaceExhausted):
        study.ask(distributions(space))


class NeedsAPackage(optuna.samplers.RandomSampler):
    """Imports what it needs when it is first asked, as Optuna's CmaEsSampler does."""

    def sample_relative(self, *_: object) -> dict[str, object]:
        raise ModuleNotFoundError("No module named 'cmaes'", name="cmaes")


def test_package_that_a_sampler_misses_when_asked_is_named() -> None:
    problem = server_problem()
    sampler = ForeignSampler(Candidates.of(problem.space), problem.objectives, problem.slos, inner=NeedsAPackage())
    with pytest.raises(UnavailableError, match=r"'NeedsAPackage' needs a package.*Install cmaes"):
        problem.run(sampler, 2)
