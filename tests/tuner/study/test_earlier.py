"""Earlier tasks: they shorten a search, are fixed when it begins, and are said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tuner.device import DeviceKind, DeviceType
from tuner.errors import UsageError
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.priors.earlier_tasks import device_shape
from tuner.priors.library import PriorLibrary
from tuner.priors.prior_task import PriorTask
from tuner.slo import Slo
from tuner.strategies.candidates import Candidates
from tuner.strategies.meta import MetaSampler
from tuner.study.definition import AdapterChoice, Budget, Override, Study
from tuner.study.earlier import device_descriptors, remembered, usable
from tuner.study.event import Event, Notice
from tuner.study.loop import Tuner
from tuner.testing.fakes import FakeRunner
from tuner.trial import Attempt, Measurement, TrialPlan
from tuner.workload import OpenLoop, RateBracket

StudyMaker = Callable[..., Study]
REMEMBERED: dict[str, PriorTask] = {}
FEWER = (Override(parameter="dynamic_batching", values=(True,)), Override(parameter="queue_delay_us", values=(0,)))
RATE = Objective(MetricRef.parse("max_arrival_rate"))


def server(make_study: StudyMaker, name: str, latency_ms: int, trials: int, seed: int = 0, **search: object) -> Study:
    """A study of the highest rate that a server holds within a latency."""
    study = make_study(name=name, sampler="auto", slos=(f"p99(latency) <= {latency_ms} ms",))
    workload = replace(study.task.workload, arrival=OpenLoop(rate_rps=RateBracket(low=2.0, high=4000.0)))
    options = {
        "budget": Budget(trials=trials),
        "seed": seed,
        "confirmations": 0,
        "stop": None,
        "overrides": FEWER,
        **search,
    }
    return replace(
        study,
        task=replace(study.task, workload=workload),
        objectives=(RATE,),
        search=replace(study.search, **options),  # type: ignore[arg-type]
        plan=TrialPlan(workload=workload, slos=study.slos, seed=seed),
    )


def notices(study: Study) -> tuple[tuner.Result, list[str]]:
    """The result of a study, and what was said."""
    said: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    return Tuner(study, watch=watch).run(), said


def best_rate(study: Study) -> float:
    """The highest rate of any configuration, without noise."""
    runner = FakeRunner({"noise": 0.0})
    made = Tuner(replace(study, name="truth"))
    candidates = Candidates.of(made.space)
    device, best = study.task.devices[0], 0.0
    for number in range(len(candidates)):
        spec = made.engine.launch(study.task, candidates.config(number), runner.target)
        outcome = runner.run(spec, device, study.plan, Attempt(study_id="", trial=0, token=""), lambda progress: None)
        if isinstance(outcome, Measurement):
            best = max(best, outcome.value(RATE.metric) or 0.0)
    return best


def steps(result: tuner.Result, goal: float) -> int:
    """Trials until one was within 5 % of `goal`; one more than there are where none was."""
    for number, record in enumerate(result.records, start=1):
        value = record.measurement.value(RATE.metric) if record.measurement else None
        if value is not None and record.holds(result.study.slos) and value >= 0.95 * goal:
            return number
    return len(result.records) + 1


def with_two_remembered(make_study: StudyMaker) -> None:
    """Two finished studies of other bounds are in the library; they are carried out once for all tests."""
    library = PriorLibrary()
    for name, latency_ms in (("slow", 100), ("quick", 50)):
        if name not in REMEMBERED:
            result = tuner.tune(server(make_study, name, latency_ms, 10, priors="none", remember=True))
            assert result.earlier == ()
            REMEMBERED[name] = library.get(name)
        library.add(REMEMBERED[name], replace=True)


def test_a_third_server_is_tuned_in_fewer_trials_than_from_scratch(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    goal = best_rate(server(make_study, "truth", 70, 1))
    informed, scratch = [], []
    for seed in range(2):
        result, said = notices(server(make_study, f"with-{seed}", 70, 3, seed))
        assert result.earlier == ("quick", "slow")
        assert "stands on 2 earlier tasks, 50% each at first: quick (10 trials), slow" in said[0]
        assert result.prospects is not None
        assert set(result.prospects.weights) == {"quick", "slow"}
        informed.append(steps(result, goal))
        scratch.append(steps(tuner.tune(server(make_study, f"without-{seed}", 70, 12, seed, priors="none")), goal))
    assert np.mean(scratch) >= 2.0 * np.mean(informed)


def test_what_a_study_stands_on_is_fixed_when_it_begins(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    whole = tuner.tune(server(make_study, "whole", 70, 3))
    tuner.tune(server(make_study, "parts", 70, 2))
    library = PriorLibrary()
    library.remove("quick")
    resumed, said = notices(server(make_study, "parts", 70, 3))
    assert [r.config for r in resumed.records] == [r.config for r in whole.records]
    assert resumed.earlier == ("quick", "slow")
    assert said[0].startswith("quick changed in the library since this study began")
    assert "another name" in said[0]
    (library.folder / "slow.json").write_text("{")
    resumed, said = notices(server(make_study, "parts", 70, 4))
    assert resumed.earlier == ("quick", "slow")
    assert said[0].startswith("quick, slow changed")
    # One that began without earlier tasks goes on without them.
    library.remove("slow")
    tuner.tune(server(make_study, "alone", 70, 1))
    with_two_remembered(make_study)
    assert tuner.tune(server(make_study, "alone", 70, 2)).earlier == ()


def test_a_study_is_remembered_once_and_another_of_its_name_beside_it(make_study: StudyMaker, tmp_path: Path) -> None:
    study = server(make_study, "encoder", 70, 3, priors="none", remember=True)
    tuner.tune(study)
    tuner.tune(replace(study, search=replace(study.search, budget=Budget(trials=4))))
    library = PriorLibrary()
    assert library.names() == ("encoder",)
    assert len(library.get("encoder").trials) == 4
    assert library.get("encoder").engine == "fake"
    other = tuner.tune(replace(study, storage=f"sqlite:///{tmp_path / 'other.db'}"))
    assert library.names() == ("encoder", f"encoder-{other.study_id[:8]}")


def test_two_workers_never_ask_the_same_of_earlier_tasks_or_without(make_study: StudyMaker) -> None:
    for priors in ("none", "auto"):
        study = server(make_study, f"pair-{priors}", 70, 5, priors=priors)
        workers = [Tuner(study), Tuner(study)]
        engine, runner, device = workers[0].engine, FakeRunner({}), study.task.devices[0]
        asked = []
        while True:
            asks = [ask for worker in workers if (ask := worker.ask()) is not None]
            if not asks:
                break
            asked += [ask.config for ask in asks]
            for worker, ask in zip(workers, asks, strict=False):
                spec = engine.launch(study.task, ask.config, runner.target)
                worker.tell(ask, runner.run(spec, device, study.plan, ask.attempt, lambda progress: None))
        assert len(asked) == len(set(asked)) == 5
        remembered(workers[0].result(), workers[0].space, PriorLibrary())


def test_two_objectives_are_searched_without_earlier_tasks_and_that_is_said(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    study = server(make_study, "two", 70, 4, sampler="meta")
    result, said = notices(replace(study, objectives=(RATE, Objective(MetricRef.parse("cost_per_hour")))))
    assert result.earlier == ()
    assert any("two objectives" in text for text in said)
    assert len(result.records) == 4


def test_priors_of_other_parameters_or_engines_are_left_out_with_a_note(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    library = PriorLibrary()
    quick = library.get("quick")
    library.add(replace(quick, name="foreign", engine="triton"))
    library.add(replace(quick, name="short", trials=quick.trials[:2]))
    library.add(replace(quick, name="bare", trials=tuple(replace(t, metrics={"latency": 1.0}) for t in quick.trials)))
    result, said = notices(server(make_study, "third", 70, 1))
    assert result.earlier == ("quick", "slow")
    assert any("short: left out" in text for text in said)
    assert any("bare: left out, it has no max_arrival_rate" in text for text in said)
    assert not any("foreign" in text for text in said)


def test_priors_that_cannot_be_read_are_left_out_with_a_remedy(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    folder = PriorLibrary().folder
    newer, damaged = folder / "quick.json", folder / "da maged.json"
    newer.write_text(json.dumps({**json.loads(newer.read_text()), "version": 99}))
    damaged.write_text('{"version": 1')
    result, said = notices(server(make_study, "third", 70, 1))
    assert result.earlier == ("slow",)
    assert any(f"prior quick: left out. {newer} holds a prior of version 99" in text for text in said)
    assert any(str(damaged) in text and "tune prior remove 'da maged'" in text for text in said)


def test_a_prior_that_the_study_names_must_be_readable(make_study: StudyMaker) -> None:
    with_two_remembered(make_study)
    path = PriorLibrary().folder / "quick.json"
    path.write_text("{")
    with pytest.raises(UsageError, match=r"quick\.json holds no prior"):
        Tuner(server(make_study, "third", 70, 1, priors=str(path)))


def test_a_study_is_remembered_beside_a_damaged_prior_of_its_name(make_study: StudyMaker) -> None:
    study = server(make_study, "encoder", 70, 1, priors="none", remember=True)
    library = PriorLibrary()
    library.folder.mkdir(parents=True)
    (library.folder / "encoder.json").write_text("{")
    assert library.names() == ("encoder",)
    result = tuner.tune(study)
    assert library.names() == ("encoder", f"encoder-{result.study_id[:8]}")


def test_devices_are_known_by_what_they_are_and_costs_are_those_of_today(make_study: StudyMaker) -> None:
    study = server(make_study, "cheap", 70, 3, priors="none", remember=True)
    tuner.tune(study)
    dear = DeviceType(name="box", cpus=4, price_per_hour=2.0)
    later = replace(
        study,
        name="dear",
        engine=AdapterChoice(name="fake"),
        task=replace(study.task, devices=(dear, DeviceType(name="cpu-4", cpus=8, price_per_hour=3.0))),
        objectives=(Objective(MetricRef.parse("cost_per_million_requests")),),
        slos=(Slo.parse("p99(latency) <= 70 ms"),),
        search=replace(study.search, priors="auto", budget=Budget(trials=1)),
    )
    made = Tuner(later)
    assert made.result().earlier == ("cheap",)
    task = usable(later, made.space, PriorLibrary().read().tasks).tasks[0]
    assert {row[0] for row in task.rows} == {"box"}
    trial = PriorLibrary().get("cheap").trials[1]
    assert task.objective[1] == pytest.approx(2.0 / 3600 * 1e6 / trial.metrics["max_arrival_rate"])


def test_a_device_type_never_tried_is_placed_by_what_it_is() -> None:
    shapes = {
        device.name: device_shape(device)
        for device in (
            DeviceType(name="a", kind=DeviceKind.GPU, gpus=1, gpu_model="A100", price_per_hour=2.0),
            DeviceType(name="h", kind=DeviceKind.GPU, gpus=2, gpu_model="H100", price_per_hour=5.0),
            DeviceType(name="cpu", cpus=4, price_per_hour=0.1),
            DeviceType(name="x", kind=DeviceKind.GPU, gpus=1, gpu_model="a maker's own", price_per_hour=1.0),
        )
    }
    found = device_descriptors(shapes)
    assert set(found) == {"a", "h", "cpu"}
    assert all(two > one for one, two in zip(found["a"][1:], found["h"][1:], strict=True))
    assert found["cpu"] == (4.0, 0.0, 0.0, 0.0, 0.0)


def test_what_the_model_is_made_of_is_kept_with_a_prior_and_told_to_the_search(
    make_study: StudyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Mapping[str, float]] = []

    class Noting(MetaSampler):
        def __init__(self, *arguments: Any, features: Mapping[str, float], **options: Any) -> None:
            told.append(features)
            super().__init__(*arguments, features=features, **options)

    monkeypatch.setattr("tuner.strategies.meta.MetaSampler", Noting)
    readable = AdapterChoice(name="fake", options={"predictions": "good"})
    first = replace(server(make_study, "first", 70, 3, priors="none", remember=True), engine=readable)
    tuner.tune(first)
    kept = PriorLibrary().get("first")
    assert kept.features["log_parameters"] > 0
    assert PriorTask.from_json(kept.to_json()) == kept
    second = replace(server(make_study, "second", 70, 1), engine=readable)
    tuner.tune(second)
    assert told == [kept.features]
    task = usable(second, Tuner(second).space, (kept,)).tasks[0]
    assert task.features == kept.features


def test_a_model_that_cannot_be_read_has_no_features_and_older_priors_none(make_study: StudyMaker) -> None:
    tuner.tune(server(make_study, "plain", 70, 3, priors="none", remember=True))
    kept = PriorLibrary().get("plain")
    assert kept.features == {}
    content = json.loads(kept.to_json())
    del content["features"]
    assert PriorTask.from_json(json.dumps(content)).features == {}
