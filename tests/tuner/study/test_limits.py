"""Hopeless trials of a study: ended early, told as such, never the winner, and never the default or a repeat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

import tuner
from tuner.cli.summary import summary_json, summary_words
from tuner.cli.wording import outcome_words
from tuner.early_end import Side
from tuner.strategies.history import Kind
from tuner.study.definition import Study
from tuner.study.limits import limits
from tuner.study.record import TrialRecord
from tuner.study.result import Result

StudyMaker = Callable[..., Study]


def with_early_end(study: Study, early_end: bool) -> Study:
    return replace(study, search=replace(study.search, early_end=early_end))


def ended(result: Result) -> list[TrialRecord]:
    return [record for record in result.records if record.ended_early is not None]


def load_s(result: Result) -> float:
    return sum(record.phases.load_s for record in result.records)


@pytest.fixture(scope="module")
def result(make_shared_study: StudyMaker) -> Result:
    return tuner.tune(make_shared_study(trials=16, slos=("p99(latency) <= 15 ms",), confirmations=2))


def test_same_winner_with_less_load(make_study: StudyMaker, result: Result) -> None:
    study = make_study(name="whole", trials=16, slos=("p99(latency) <= 15 ms",), confirmations=2)
    whole = tuner.tune(with_early_end(study, False))
    assert not ended(whole)
    assert len(ended(result)) >= 3
    assert result.best is not None
    assert whole.best is not None
    assert result.best.config == whole.best.config
    assert load_s(result) < 0.9 * load_s(whole)


def test_default_and_repeats_always_run_in_full(result: Result) -> None:
    assert result.records[0].ended_early is None
    assert result.records[0].config == result.default_config
    repeats = [record for record in result.records if record.kind is Kind.CONFIRM]
    assert repeats
    assert all(record.ended_early is None for record in repeats)


def test_trial_that_ended_early_is_no_measurement_and_never_the_winner(result: Result) -> None:
    assert result.best is not None
    for record in ended(result):
        assert record.measurement is None
        assert record.failure is None
        assert not record.holds(result.study.slos)
        assert record.config != result.best.config


def test_study_continued_in_another_process_still_knows_what_ended_early(result: Result) -> None:
    again = tuner.load_result(result.study)
    assert [str(record.ended_early) for record in again.records] == [
        str(record.ended_early) for record in result.records
    ]


def test_it_is_told_everywhere(result: Result) -> None:
    record = next(record for record in ended(result) if "SLO" in str(record.ended_early))
    assert outcome_words(record, result.study).startswith("ended early: p99(latency) at least ")
    assert ", SLO 15 ms" in outcome_words(record, result.study)
    assert f" infeasible, {len(ended(result))} ended early)" in summary_words(result)
    trial = summary_json(result)["trials"][record.number]  # type: ignore[index]
    assert trial["ended_early"]["bounds"]["p99(latency)"]["side"] == "at least"
    row = result.trials.iloc[record.number]
    assert row["ended_early"] == str(record.ended_early)
    assert row["p99(latency)"] == trial["metrics"]["p99(latency)"] > 0.0165
    assert result.trials.iloc[0]["ended_early"] == ""


def test_bounds_are_told_to_optuna_as_violated_constraints(result: Result) -> None:
    from tuner.study.store import StudyStore

    stored = StudyStore(result.study, result.space, create=False).optuna.get_trials()
    for record in ended(result):
        excess = stored[record.number].constraints["p99(latency) <= 15 ms"]
        if "SLO" in str(record.ended_early):
            assert excess > 0.1


def test_best_so_far_is_a_limit_in_what_a_load_measures(make_study: StudyMaker) -> None:
    study = make_study(trials=3, objectives=("cost_per_million_requests",))
    result = tuner.tune(study)
    other = next(record.config for record in result.records if record.config != result.default_config)
    slo, best = limits(study, result.records, other, Kind.SEARCH, result.default_config)
    assert (str(slo.slo), slo.whose) == ("p99(latency) <= 200 ms", "SLO")
    assert best.told is not None
    assert str(best.slo.metric) == "throughput"
    assert best.side is Side.AT_MOST
    assert best.slo.bound == pytest.approx(0.2 / 3600 * 1e6 / best.told.bound)
    assert limits(study, result.records, result.default_config, Kind.SEARCH, result.default_config) == ()
    assert limits(study, result.records, other, Kind.CONFIRM, result.default_config) == ()


def test_with_two_objectives_only_the_slo_is_a_limit(make_study: StudyMaker) -> None:
    study = make_study(trials=3, objectives=("throughput", "p95(latency)"))
    result = tuner.tune(study)
    other = next(record.config for record in result.records if record.config != result.default_config)
    assert [limit.whose for limit in limits(study, result.records, other, Kind.SEARCH, result.default_config)] == [
        "SLO"
    ]


def test_early_end_is_no_part_of_what_makes_trials_comparable(make_study: StudyMaker) -> None:
    study = make_study()
    assert with_early_end(study, False).fingerprint == study.fingerprint


def test_where_nothing_was_measured_to_its_end_the_nearest_bound_is_told(make_study: StudyMaker) -> None:
    study = make_study(trials=6, slos=("p99(latency) <= 1 ms",), failures={0: "out of memory"}, confirmations=0)
    result = tuner.tune(study)
    assert result.best is None
    assert result.shortfall is None
    words = summary_words(result)
    assert "none was measured to its end" in words
    lowest = min(record.excess(study.slos)["p99(latency) <= 1 ms"] for record in ended(result))
    nearest = next(r for r in ended(result) if r.excess(study.slos)["p99(latency) <= 1 ms"] == lowest)
    assert str(nearest.ended_early) in words
