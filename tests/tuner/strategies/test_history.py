from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tuner.strategies.problems import LATENCY, THROUGHPUT, measured, server_problem, server_space, spaces
from tuner.early_end import EarlyEnd, Limit, OneSided, Side
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.candidates import Candidates, row_of
from tuner.strategies.history import (
    KIND,
    OUTCOME,
    Kind,
    TrialRows,
    distributions,
    kind_of_trial,
    observations,
    outcome_from_json,
    outcome_to_json,
)
from tuner.strategies.random import RandomSampler
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Reason, Window

SLO = Slo.parse("p99(latency) <= 30 ms")
numbers = st.floats(allow_nan=False)


@given(
    st.one_of(
        st.builds(
            Measurement,
            metrics=st.dictionaries(
                st.sampled_from(["throughput", "p99(latency)"]),
                st.builds(Estimate, value=numbers, low=numbers, high=numbers, std_error=numbers),
            ),
            windows=st.lists(
                st.builds(
                    Window, start_s=numbers, duration_s=numbers, metrics=st.dictionaries(st.text(max_size=3), numbers)
                ),
                max_size=2,
            ).map(tuple),
            ended_early=st.none()
            | st.builds(
                EarlyEnd,
                after_s=numbers,
                bounds=st.dictionaries(
                    st.just("p99(latency)"), st.builds(OneSided, value=numbers, side=st.sampled_from(Side))
                ),
                limits=st.lists(
                    st.builds(Limit, slo=st.just(SLO), whose=st.text(max_size=5), told=st.none() | st.just(SLO)),
                    max_size=2,
                ).map(tuple),
            ),
        ),
        st.builds(
            Infeasible,
            reason=st.sampled_from(Reason),
            message=st.text(max_size=10),
            log_tail=st.lists(st.text(max_size=5), max_size=2).map(tuple),
        ),
    )
)
def test_an_outcome_survives_the_storage_infinities_included(outcome: Outcome) -> None:
    assert outcome_from_json(outcome_to_json(outcome)) == outcome


@given(spaces())
def test_every_configuration_can_be_stored_under_the_distributions_of_its_space(space: Space) -> None:
    known = distributions(space)
    for parameter in space.parameters:
        for value in parameter.values:
            stored = known[parameter.name].to_internal_repr(value)
            assert known[parameter.name]._contains(stored)
            assert space[parameter.name].index(known[parameter.name].to_external_repr(stored)) == (
                parameter.values.index(value)
            )


def test_numeric_parameters_have_numeric_axes() -> None:
    known = distributions(server_space())
    assert known["max_batch_size"] == optuna.distributions.IntDistribution(1, 64, log=True)
    assert known["queue_delay_us"] == optuna.distributions.IntDistribution(0, 5000)
    assert known["batching"] == optuna.distributions.CategoricalDistribution((False, True))


def test_trials_become_arrays_by_how_they_ended() -> None:
    problem = server_problem()
    space = problem.space
    study = optuna.create_study(direction="maximize")

    def trial(values: dict[str, object], outcome: Outcome | None, state: optuna.trial.TrialState) -> None:
        full = space.complete(space.default) | values
        attributes = {} if outcome is None else {OUTCOME: outcome_to_json(outcome)}
        value = 1.0 if state is optuna.trial.TrialState.COMPLETE else None
        study.add_trial(
            optuna.create_trial(
                params=full, distributions=distributions(space), user_attrs=attributes, state=state, value=value
            )
        )

    complete, failed, running = (
        optuna.trial.TrialState.COMPLETE,
        optuna.trial.TrialState.FAIL,
        optuna.trial.TrialState.RUNNING,
    )
    trial({}, measured({"throughput": 10.0, "p99(latency)": 0.02}, 0.1), complete)
    trial({"threads": 2}, Infeasible(reason=Reason.OUT_OF_MEMORY, message=""), failed)
    trial({"threads": 4}, None, failed)
    trial({"threads": 8}, None, running)
    trial({"instances": 2}, measured({"throughput": 12.0}), complete)
    trial({"instances": 3}, measured({"throughput": math.inf, "p99(latency)": 0.02}), failed)
    trial({}, measured({"throughput": 11.0, "p99(latency)": 0.03}), complete)

    history = observations(study.get_trials(), TrialRows(space), (THROUGHPUT,), (SLO,))
    assert history.metrics == (THROUGHPUT.metric, LATENCY)
    assert history.numbers == (0, 4, 6)
    assert history.values[:, 0] == pytest.approx([10, 12, 11])
    assert history.values[:, 1] == pytest.approx([0.02, math.nan, 0.03], nan_ok=True)
    assert history.std_errors[0] == pytest.approx([1.0, 0.002])
    assert history.failed_numbers == (1, 5)
    assert history.reasons == (Reason.OUT_OF_MEMORY, Reason.ERRORS)
    assert (history.rows[0] == row_of(space, space.default)).all()
    assert len(history.pending_rows) == 1
    assert len(history) == 5


def test_the_kind_of_a_trial_is_a_search_unless_it_says_otherwise() -> None:
    problem = server_problem()
    study = problem.run(RandomSampler(Candidates.of(problem.space), problem.objectives, problem.slos), 1)
    (trial,) = study.trials
    assert kind_of_trial(trial) is Kind.SEARCH
    trial.set_user_attr(KIND, "confirm")
    assert kind_of_trial(trial) is Kind.CONFIRM
