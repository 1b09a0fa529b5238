"""The loop: nothing lost, nothing run twice, nothing asked again."""

from __future__ import annotations

import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

import tuner
from tuner.errors import RunError, StorageError, StudyMismatchError, UnavailableError, UnknownNameError, UsageError
from tuner.strategies.history import Kind
from tuner.study.definition import Budget, Study
from tuner.study.event import Event, TrialStarted
from tuner.study.loop import Tuner
from tuner.study.record import State, TrialRecord
from tuner.trial import Estimate, Measurement, Reason

StudyMaker = Callable[..., Study]


def done(records: tuple[TrialRecord, ...], kind: Kind = Kind.SEARCH) -> list[TrialRecord]:
    return [record for record in records if record.state is State.DONE and record.kind is kind]


def test_engine_default_is_tried_first_and_the_budget_is_spent_exactly(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=6))
    assert result.records[0].config == result.default_config
    assert len(done(result.records)) == 6
    assert result.stop_reason == "budget of 6 trials spent"


def test_no_configuration_is_searched_twice(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=12))
    counts = Counter(record.config for record in done(result.records))
    assert set(counts.values()) == {1}


def test_winner_and_default_are_measured_again_in_turn(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=8, confirmations=2))
    repeats = done(result.records, Kind.CONFIRM)
    assert result.best is not None
    assert result.best.repeats(Kind.CONFIRM) == 2
    assert result.default is not None
    assert result.default.repeats(Kind.CONFIRM) == 2
    assert repeats[0].config != repeats[1].config
    gain = result.gain
    assert gain is not None
    assert gain.low <= gain.value <= gain.high


def test_winner_that_fails_when_run_again_is_not_recommended(make_study: StudyMaker) -> None:
    first = tuner.tune(make_study(name="a", trials=8, confirmations=0))
    assert first.best is not None
    again = tuner.tune(make_study(name="b", trials=8, confirmations=1, failures={8: "died under load"}))
    failed = again.records[8]
    assert failed.kind is Kind.CONFIRM
    assert failed.failure is not None
    assert again.best is not None
    assert again.best.config != failed.config


@pytest.mark.parametrize("reason", list(Reason))
def test_infeasible_trial_is_kept_counted_and_never_the_winner(make_study: StudyMaker, reason: Reason) -> None:
    result = tuner.tune(make_study(trials=4, failures={1: reason.value}))
    record = result.records[1]
    assert record.failure is not None
    assert record.failure.reason is reason
    assert len(done(result.records)) == 4
    assert result.best is not None
    assert record.config != result.best.config


def test_fault_of_our_own_is_no_result_and_is_tried_again(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=4, failures={1: "fault"}))
    faulty = result.records[1]
    assert faulty.state is State.FAULT
    assert result.records[2].config == faulty.config
    assert len(done(result.records)) == 4


def test_faults_in_a_row_stop_the_study_and_lose_nothing(make_study: StudyMaker) -> None:
    with pytest.raises(RunError, match="3 trials in a row failed"):
        tuner.tune(make_study(trials=6, failures={2: "fault", 3: "fault", 4: "fault"}))
    result = tuner.tune(make_study(trials=6))
    assert len(done(result.records)) == 6


def test_interrupted_study_goes_on_with_the_trial_that_was_cut_off(make_study: StudyMaker) -> None:
    class Interrupting:
        def __init__(self, at: int) -> None:
            self.at = at

        def __call__(self, event: Event) -> None:
            if isinstance(event, TrialStarted) and event.number == self.at:
                raise KeyboardInterrupt

    study = make_study(trials=6)
    with pytest.raises(KeyboardInterrupt):
        Tuner(study, watch=Interrupting(3)).run()
    result = tuner.tune(study)
    assert result.records[3].state is State.INTERRUPTED
    assert result.records[4].config == result.records[3].config
    assert len(done(result.records)) == 6


def test_daemon_that_goes_away_ends_the_run_and_the_study_can_be_continued(make_study: StudyMaker) -> None:
    study = make_study(trials=4, failures={2: "unavailable"})
    with pytest.raises(UnavailableError, match="daemon has gone"):
        tuner.tune(study)
    assert len(done(tuner.tune(make_study(trials=4)).records)) == 4


def test_trial_of_a_dead_process_is_closed_and_its_outcome_kept_if_it_was_written(make_study: StudyMaker) -> None:
    study = make_study(trials=5)
    first = Tuner(study)
    ask = first.ask()
    assert ask is not None
    ahead = first.ask()
    assert ahead is not None
    # As after kill -9: the lease names a process that is no more.
    dead = '{"host": "%s", "boot": "gone", "pid": 1, "pid_started": 0.0, "token": "t", "renewed": 0.0}'
    storage = first._store.optuna._storage
    for trial in first._store.optuna.get_trials():
        storage.set_trial_user_attr(trial._trial_id, "lease", dead % socket.gethostname())
    measured = Measurement(metrics={"throughput": Estimate.exact(7.0), "p99(latency)": Estimate.exact(0.01)})
    first._store._set(ask.attempt.trial, "outcome", tuner.strategies.history.outcome_to_json(measured))
    result = tuner.tune(study)
    assert result.records[0].measurement == measured
    assert result.records[1].state is State.INTERRUPTED
    assert result.records[2].config == result.records[1].config
    assert len(done(result.records)) == 5


def test_result_of_an_attempt_that_was_taken_over_is_refused(make_study: StudyMaker) -> None:
    loop = Tuner(make_study())
    ask = loop.ask()
    assert ask is not None
    stale = replace(ask, attempt=replace(ask.attempt, token="another"))
    with pytest.raises(StorageError, match="taken over"):
        loop.tell(stale, Measurement(metrics={"throughput": Estimate.exact(1.0)}))


def test_storage_that_holds_a_different_study_is_refused(make_study: StudyMaker) -> None:
    tuner.tune(make_study(trials=2))
    with pytest.raises(StudyMismatchError, match=r"different study named 'study'.*arrival\.clients: \d+, now 4\)"):
        tuner.tune(make_study(trials=2, clients=4))


def in_folder(study: Study, folder: Path) -> Study:
    """The study with its model and its storage in a folder of their own."""
    model = replace(study.task.model, path=folder / "models" / "encoder.onnx")
    return replace(study, task=replace(study.task, model=model), storage=f"sqlite:///{folder / 'study.db'}")


def test_study_goes_on_in_a_folder_that_was_moved(make_study: StudyMaker, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "somewhere" / "after"
    before.mkdir()
    tuner.tune(in_folder(make_study(trials=2), before))
    after.parent.mkdir()
    before.rename(after)
    for trials in (3, 4):
        assert len(done(tuner.tune(in_folder(make_study(trials=trials), after)).records)) == trials


def test_moved_study_of_another_workload_or_model_is_refused(make_study: StudyMaker, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    tuner.tune(in_folder(make_study(trials=2), before))
    before.rename(after)
    with pytest.raises(StudyMismatchError, match=r"arrival\.clients: 32, now 4"):
        tuner.tune(in_folder(make_study(trials=2, clients=4), after))
    moved = in_folder(make_study(trials=2), after)
    other = replace(moved, task=replace(moved.task, model=replace(moved.task.model, path=after / "other.onnx")))
    with pytest.raises(StudyMismatchError, match=r"other\.onnx"):
        tuner.tune(other)


def test_runner_auto_keeps_to_what_the_study_began_with(make_study: StudyMaker) -> None:
    tuner.tune(make_study(trials=2))
    longer = make_study(trials=3)
    automatic = replace(longer, runner=replace(longer.runner, name="auto"))
    assert len(done(tuner.load_result(automatic).records)) == 2
    assert Tuner(automatic).runner_as_begun
    assert not Tuner(longer).runner_as_begun
    assert len(done(tuner.tune(automatic).records)) == 3


def test_copy_of_a_study_beside_the_original_is_another_study(make_study: StudyMaker, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    (before / "models").mkdir()
    (before / "models" / "encoder.onnx").touch()
    tuner.tune(in_folder(make_study(trials=2), before))
    shutil.copytree(before, after)
    with pytest.raises(StudyMismatchError, match=r"model\.path"):
        tuner.tune(in_folder(make_study(trials=2), after))


def test_budget_may_grow_between_runs(make_study: StudyMaker) -> None:
    tuner.tune(make_study(trials=2))
    assert len(done(tuner.tune(make_study(trials=5)).records)) == 5


@pytest.mark.parametrize(
    ("budget", "words"),
    [(Budget(seconds=30.0), "minutes of trials spent"), (Budget(usd=0.002), r"budget of \$0.002 spent")],
)
def test_time_and_money_end_the_search(make_study: StudyMaker, budget: Budget, words: str) -> None:
    result = tuner.tune(make_study(budget=budget))
    assert re.search(words, result.stop_reason)


def test_unattainable_slo_is_explained_with_the_nearest_configuration(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=6, slos=("p99(latency) <= 1 us", "error_rate <= 50%")))
    assert result.best is None
    assert result.shortfall is not None
    assert result.shortfall.excess["p99(latency) <= 1 us"] > 0
    assert result.shortfall.attainable["p99(latency) <= 1 us"] is not None


def test_two_objectives_give_a_front_that_nothing_dominates(make_study: StudyMaker) -> None:
    result = tuner.tune(make_study(trials=10, objectives=("throughput", "p99(latency)"), slos=(), confirmations=0))
    points = []
    for evidence in result.front:
        estimates = [evidence.estimate(objective.metric) for objective in result.study.objectives]
        points.append([estimate.value for estimate in estimates if estimate is not None])
    assert points == sorted(points, key=lambda point: -point[0])
    assert [point[1] for point in points] == sorted((point[1] for point in points), reverse=True)


def test_small_space_is_exhausted_and_says_so(make_study: StudyMaker) -> None:
    from tuner.study.definition import Override

    study = make_study(trials=50)
    overrides = tuple(
        Override(parameter=name, values=values)
        for name, values in {
            "dynamic_batching": (False,),
            "instance_count": (1, 2),
            "threads": (1, 2),
            "precision": ("fp32",),
        }.items()
    )
    study = replace(study, search=replace(study.search, overrides=overrides))
    result = tuner.tune(study)
    assert len(done(result.records)) == 4
    assert "every valid configuration" in result.stop_reason


def test_study_opens_in_optuna_as_it_is(make_study: StudyMaker) -> None:
    study = make_study(trials=4)
    tuner.tune(study)
    opened = optuna.load_study(study_name="study", storage=study.storage)
    assert len(opened.get_trials(states=[optuna.trial.TrialState.COMPLETE])) >= 4
    assert set(opened.trials[0].constraints) == {"p99(latency) <= 200 ms"}
    assert set(opened.trials[0].params) == {
        "device", "dynamic_batching", "max_batch_size", "queue_delay_us", "instance_count", "threads", "precision",
    }  # fmt: skip


def test_result_is_read_without_running_and_an_unknown_study_is_named(make_study: StudyMaker, tmp_path: Path) -> None:
    study = make_study(trials=3, storage=f"sqlite:///{tmp_path / 'new.db'}")
    with pytest.raises(UsageError, match="Run the study first"):
        tuner.load_result(study)
    tuner.tune(study)
    assert len(tuner.load_result(study).records) == len(tuner.load_result("study", study.storage).records)
    with pytest.raises(UnknownNameError, match="Did you mean 'study'"):
        tuner.load_result("studi", study.storage)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", UsageError),
        ("sqlite:////proc/none/study.db", StorageError),
        ("oracle+what://me:secret@x", UsageError),
    ],
)
def test_storage_that_cannot_be_used_is_named_without_password(
    make_study: StudyMaker, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"nonsense|/proc/none|oracle") as raised:
        tuner.tune(make_study(storage=url))
    assert "secret" not in str(raised.value)


def test_every_trial_is_reported_once_as_it_ends(make_study: StudyMaker) -> None:
    seen: list[int] = []
    result = tuner.tune(make_study(trials=4), on_trial=lambda record: seen.append(record.number))
    assert seen == [record.number for record in result.records]


def test_trials_are_a_data_frame(make_study: StudyMaker) -> None:
    frame = tuner.tune(make_study(trials=4)).trials
    assert {"number", "kind", "param:threads", "throughput", "p99(latency)", "holds"} <= set(frame.columns)
