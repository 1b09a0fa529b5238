"""Predictions in the loop, on the fakes: they lead the search, cost little where wrong, and are kept with trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tuner.study.conftest import StudyMaker
from tuner.metric import MetricRef
from tuner.strategies.guidance import slope_of
from tuner.strategies.history import Kind
from tuner.study.api import load_result, tune
from tuner.study.definition import Study
from tuner.study.loop import Tuner
from tuner.study.predictions import predict
from tuner.study.record import State, TrialRecord

THROUGHPUT = MetricRef.parse("throughput")


def searched(records: tuple[TrialRecord, ...]) -> list[TrialRecord]:
    return [record for record in records if record.kind is Kind.SEARCH and record.state is State.DONE]


def best_after(study: Study, trials: int) -> float:
    records = searched(tune(study).records)[:trials]
    found = [r.measurement.value(THROUGHPUT) or 0.0 for r in records if r.measurement and r.holds(study.slos)]
    return max(found, default=0.0)


def test_the_best_predicted_are_tried_right_after_the_default(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", sampler="auto", trials=3, confirmations=0)
    result = tune(study)
    tried = [record.config for record in result.records]
    assert tried[0] == result.default_config
    assert tried[1] == predict(make_study(predictions="good", name="another"), count=1).best["cpu-4"][0].config


def test_without_predictions_the_search_is_what_it_was(make_study: StudyMaker) -> None:
    plain = tune(make_study(name="plain", sampler="auto", trials=4, confirmations=0))
    study = make_study(name="off", predictions="good", sampler="auto", trials=4, confirmations=0)
    off = tune(replace(study, search=replace(study.search, predictions=False)))
    assert [r.config for r in off.records] == [r.config for r in plain.records]
    assert off.forecast is not None
    assert "predictions: false" in off.forecast.silence
    assert all(record.predicted is None for record in off.records)


@pytest.fixture(scope="module")
def found_without(make_shared_study: StudyMaker) -> float:
    """The best of a search that no predictions lead."""
    return best_after(make_shared_study(name="plain", sampler="auto", trials=14, confirmations=0), 14)


def test_predictions_that_are_the_wrong_way_round_cost_a_few_trials_only(
    make_study: StudyMaker, found_without: float
) -> None:
    wrong = make_study(predictions="wrong", sampler="auto", trials=14, confirmations=0)
    assert best_after(replace(wrong, search=replace(wrong.search, stop=None)), 14) >= 0.93 * found_without


def test_good_predictions_are_near_the_optimum_within_five_trials(make_study: StudyMaker, found_without: float) -> None:
    good = best_after(make_study(predictions="good", sampler="auto", trials=5, confirmations=0), 5)
    assert good >= 0.9 * found_without


def test_every_trial_keeps_what_was_predicted_of_it(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", sampler="auto", trials=4)
    tune(study)
    result = load_result(study)
    for record in result.records:
        assert record.predicted is not None
        assert set(record.predicted) == {"throughput", "p99(latency)"}
    errors = {str(error.metric): error for error in result.prediction_errors}
    assert errors["throughput"].count == len({record.config for record in result.records if record.measurement})
    assert errors["throughput"].raw > 0


def test_a_continued_study_asks_what_an_uninterrupted_one_would(make_study: StudyMaker) -> None:
    whole = tune(make_study(name="whole", predictions="good", sampler="auto", trials=6, confirmations=0))
    parts = make_study(name="parts", predictions="good", sampler="auto", trials=6, confirmations=0)
    for trials in (1, 2, 4):
        tune(replace(parts, search=replace(parts.search, budget=replace(parts.search.budget, trials=trials))))
    assert [r.config for r in tune(parts).records] == [r.config for r in whole.records]


def test_an_interrupted_opening_is_run_again(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", sampler="auto", trials=4, confirmations=0, failures={1: "unavailable"})
    with pytest.raises(Exception, match="daemon has gone"):
        tune(study)
    resumed = tune(replace(study, runner=replace(study.runner, options={})))
    tried = [record.config for record in searched(resumed.records)]
    whole = tune(make_study(name="whole", predictions="good", sampler="auto", trials=4, confirmations=0))
    assert tried[:2] == [record.config for record in whole.records][:2]
    assert len(tried) == 4


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_what_cannot_fit_is_never_asked_and_counted(make_study: StudyMaker, sampler: str) -> None:
    study = make_study(
        predictions="good", sampler=sampler, trials=8, confirmations=0, memory_bytes=700 * 2**20, slos=()
    )
    result = tune(study)
    assert all(int(record.config["instance_count"]) <= 2 for record in result.records)
    assert result.forecast is not None
    assert sum(result.forecast.excluded.values()) > 0
    assert all("exceed the 700 MiB" in reason for reason in result.forecast.excluded)


def test_an_engine_that_cannot_be_predicted_is_searched_all_the_same(make_study: StudyMaker) -> None:
    result = tune(make_study(sampler="auto", trials=3, confirmations=0))
    assert len(searched(result.records)) == 3
    assert result.forecast is not None
    assert "unpredictable" in result.forecast.silence


def test_ask_and_tell_keep_predictions_too(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", sampler="auto", trials=3, confirmations=0)
    finished = tune(replace(study, name="finished"))
    tuner = Tuner(study)
    while (ask := tuner.ask()) is not None:
        record = next(r for r in finished.records if r.config == ask.config)
        assert record.outcome is not None
        tuner.tell(ask, record.outcome)
    assert all(record.predicted for record in tuner.result().records[1:])


def test_the_slope_follows_the_trials() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.standard_normal(8)
    assert slope_of(predicted, predicted + 3.0) == pytest.approx(1.0)
    assert slope_of(predicted[:1], predicted[:1]) == 1.0
    assert slope_of(predicted, -predicted) == 0.0
    assert abs(slope_of(predicted, generator.standard_normal(8))) < 0.6
