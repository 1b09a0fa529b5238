"""Stopping: what is stored ends the search, once and for all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import tuner
from tuner.parameter import Config
from tuner.strategies.history import Kind
from tuner.strategies.prospects import Prospects
from tuner.study.definition import Budget, Override, Stopping, Study
from tuner.study.loop import Tuner
from tuner.study.record import State
from tuner.study.result import Result
from tuner.study.stopping import StopRule, little_left, prospects_from_json, prospects_to_json

StudyMaker = Callable[..., Study]
STOPPING = Stopping(after=6)
SMALL = (
    Override(parameter="dynamic_batching", values=(True,)),
    Override(parameter="queue_delay_us", values=(0,)),
    Override(parameter="precision", values=("fp16",)),
    Override(parameter="threads", values=(1, 2)),
)

beliefs = st.builds(
    Prospects,
    best=st.just(Config({"device": "cpu", "batch": 4})),
    expected_gain=st.one_of(st.floats(0.0, 0.3), st.just(math.inf)),
    within=st.floats(0.0, 1.0),
    tolerance=st.sampled_from([0.05, 0.05, 0.1]),
    weights=st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 1)),
)
courses = st.dictionaries(st.integers(1, 20), beliefs, max_size=20)


def prospects(gain: float, within: float = 0.0) -> Prospects:
    return Prospects(best=Config({"device": "cpu"}), expected_gain=gain, within=within, tolerance=0.05)


@given(beliefs)
def test_what_is_stored_comes_back(found: Prospects) -> None:
    assert prospects_from_json(prospects_to_json(found)) == found


@given(courses, st.integers(1, 20))
def test_an_end_stays_an_end_whatever_is_believed_later(course: dict[int, Prospects], now: int) -> None:
    ended = little_left(STOPPING, {trials: found for trials, found in course.items() if trials <= now})
    if ended is not None:
        assert little_left(STOPPING, course) == ended


@given(courses)
def test_no_search_ends_before_its_minimum_or_against_its_rules(course: dict[int, Prospects]) -> None:
    assert little_left(STOPPING, {trials: found for trials, found in course.items() if trials < 6}) is None
    assert little_left(None, course) is None
    assert little_left(replace(STOPPING, gain=0.0, probability=1.0), course) is None


def test_gain_must_be_small_three_times_in_a_row() -> None:
    course = {4: prospects(0.01), 5: prospects(0.2), 6: prospects(0.01), 7: prospects(0.01)}
    assert little_left(STOPPING, course) is None
    ended = little_left(STOPPING, {**course, 8: prospects(0.012)})
    assert ended is not None
    assert ended.rule is StopRule.GAIN
    assert "after 8 trials" in ended.reason
    assert "1.2%" in ended.reason


def test_probability_is_said() -> None:
    ended = little_left(STOPPING, {6: prospects(0.5, 0.97)})
    assert ended is not None
    assert ended.rule is StopRule.PROBABILITY
    assert "97%" in ended.reason


def small(make_study: StudyMaker, stop: Stopping | None, trials: int = 20, name: str = "study") -> Study:
    study = make_study(name=name, sampler="auto", confirmations=1)
    search = replace(study.search, overrides=SMALL, budget=Budget(trials=trials), stop=stop)
    return replace(study, search=search)


def searched(result: Result) -> int:
    return sum(r.kind is Kind.SEARCH and r.state is State.DONE for r in result.records)


def test_search_ends_by_rule_and_the_study_is_confirmed_and_stays_ended(make_study: StudyMaker) -> None:
    study = small(make_study, Stopping(after=6, probability=0.5))
    result = tuner.tune(study)
    assert 6 <= searched(result) < 20
    assert result.ended is not None
    assert result.ended.rule in (StopRule.GAIN, StopRule.PROBABILITY)
    assert result.prospects is not None
    assert result.best is not None
    assert result.best.repeats(Kind.CONFIRM) == 1
    assert tuner.tune(study).records == result.records
    assert tuner.load_result(study).ended == result.ended
    # Without the rules, it goes on.
    assert searched(tuner.tune(small(make_study, None, trials=searched(result) + 1))) == searched(result) + 1


def test_budget_ends_the_search_with_the_prospects_told(make_study: StudyMaker) -> None:
    result = tuner.tune(small(make_study, None, trials=5))
    assert result.ended is not None
    assert result.ended.rule is StopRule.BUDGET
    assert result.prospects is not None
    assert 0 <= result.prospects.within <= 1


def test_interrupted_study_ends_where_an_uninterrupted_one_does(make_study: StudyMaker) -> None:
    stop = Stopping(after=5, probability=0.4)
    whole = tuner.tune(small(make_study, stop, name="whole"))
    study = small(make_study, stop, name="parts")
    runner = tuner.Tuner(study)
    for number in range(60):
        runner = Tuner(study) if number % 3 == 0 else runner
        if (ask := runner.ask()) is None:
            break
        same = next(r for r in whole.records if r.number == ask.attempt.trial)
        assert ask.config == same.config
        assert same.outcome is not None
        runner.tell(ask, same.outcome)
    assert runner.result().ended == whole.ended


def test_sampler_that_cannot_tell_goes_on_until_the_budget_ends(make_study: StudyMaker) -> None:
    study = make_study(trials=8)
    result = tuner.tune(replace(study, search=replace(study.search, stop=Stopping(after=1))))
    assert result.ended is not None
    assert result.ended.rule is StopRule.BUDGET
    assert result.prospects is None
