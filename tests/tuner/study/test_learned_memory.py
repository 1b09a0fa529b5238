"""What trials teach about memory: what surely cannot fit is not asked any more, and nothing else is ruled out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tuner.study.conftest import StudyMaker
from tuner.cli.summary import summary_json, summary_words
from tuner.device import DeviceKind, DeviceType
from tuner.parameter import Config
from tuner.strategies.candidates import Candidates
from tuner.strategies.history import Kind
from tuner.study import adapters
from tuner.study.api import tune
from tuner.study.definition import AdapterChoice, Study
from tuner.study.event import Event, Notice
from tuner.study.forecast_note import RAN_OUT
from tuner.study.learned_memory import LearnedMemory
from tuner.study.loop import Tuner
from tuner.study.record import State, TrialRecord
from tuner.study.space import study_space
from tuner.testing.fake_server import FakeServer
from tuner.trial import Infeasible, Measurement, Outcome, Reason

MEMORY = 650 * 2**20


def a_record(config: Config, outcome: Outcome) -> TrialRecord:
    return TrialRecord(number=0, kind=Kind.SEARCH, state=State.DONE, config=config, outcome=outcome)


def the_outcome(config: Config, device: DeviceType) -> Outcome:
    if FakeServer.of(config, device).memory_bytes > MEMORY:
        return Infeasible(reason=Reason.OUT_OF_MEMORY, message="killed")
    return Measurement(metrics={})


def candidates_of(study: Study) -> Candidates:
    engine = adapters.search_space(study.engine.name, study.engine.options)
    return Candidates.of(study_space(study, engine))


def learned(study: Study, candidates: Candidates) -> LearnedMemory:
    return LearnedMemory(study, adapters.search_space(study.engine.name, study.engine.options), candidates)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), count=st.integers(1, 20))
def test_what_fits_is_never_ruled_out_and_what_ran_out_always_is(make_study: StudyMaker, seed: int, count: int) -> None:
    """Halves of precision need half the memory, of which the engine's words for its server say nothing."""
    study = make_study(predictions="good", memory_bytes=MEMORY)
    (device,), candidates = study.task.devices, candidates_of(study)
    tried = [candidates.config(at) for at in np.random.default_rng(seed).choice(len(candidates), count, replace=False)]
    records = [a_record(config, the_outcome(config, device)) for config in tried]
    excluded = set(learned(study, candidates).excluded(records).tolist())
    for position in excluded:
        assert FakeServer.of(candidates.config(position), device).memory_bytes > MEMORY
    ran_out = {candidates.position(record.config) for record in records if record.failure is not None}
    assert ran_out <= excluded


def test_more_copies_of_what_ran_out_are_not_asked_and_that_is_told(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", trials=16, confirmations=0, memory_bytes=MEMORY, slos=())
    said: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    result = Tuner(study, watch=watch).run()
    assert result.forecast is not None
    count = result.forecast.excluded[RAN_OUT]
    assert count > 10
    assert any(text.startswith("not asked any more: ") and RAN_OUT in text for text in said)
    assert f"{RAN_OUT}" in summary_words(result)
    assert summary_json(result)["predictions"]["never_run"][RAN_OUT] == count  # type: ignore[index]
    candidates, (device,) = candidates_of(study), study.task.devices
    rule = learned(study, candidates)
    for number, record in enumerate(result.records):
        before = rule.excluded(result.records[:number])
        assert candidates.position(record.config) not in before
    assert any(FakeServer.of(record.config, device).memory_bytes > MEMORY for record in result.records)


def test_a_continued_study_asks_what_an_uninterrupted_one_would(make_study: StudyMaker) -> None:
    whole = make_study(name="whole", predictions="good", trials=10, confirmations=0, memory_bytes=MEMORY, slos=())
    parts = replace(whole, name="parts")
    for trials in (4, 7, 10):
        tune(replace(parts, search=replace(parts.search, budget=replace(parts.search.budget, trials=trials))))
    configs = [record.config for record in tune(parts).records]
    assert configs == [record.config for record in tune(whole).records]


@pytest.mark.parametrize(
    "device",
    [
        DeviceType(name="cpu-4", cpus=4, price_per_hour=0.2),
        DeviceType(name="box", kind=DeviceKind.GPU, gpus=1, gpu_model="a maker's own", price_per_hour=1.0),
    ],
)
def test_nothing_is_learned_where_memory_is_not_known(make_study: StudyMaker, device: DeviceType) -> None:
    study = make_study(predictions="good")
    study = replace(study, task=replace(study.task, devices=(device,)))
    candidates = candidates_of(study)
    failed = a_record(candidates.config(0), Infeasible(reason=Reason.OUT_OF_MEMORY, message="killed"))
    assert not len(learned(study, candidates).excluded([failed]))


def test_nothing_is_learned_of_an_engine_that_does_not_say_what_its_parameters_mean(make_study: StudyMaker) -> None:
    study = replace(make_study(memory_bytes=MEMORY), engine=AdapterChoice(name="fake"))
    candidates = candidates_of(study)
    failed = a_record(candidates.config(0), Infeasible(reason=Reason.OUT_OF_MEMORY, message="killed"))
    assert not len(learned(study, candidates).excluded([failed]))
