"""The library of earlier tasks: what is stored comes back, bad files change nothing."""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.cli import prior as command
from tuner.errors import UnknownNameError, UsageError
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import DEVICE, Parameter, Scale
from tuner.priors.earlier_tasks import usable_priors
from tuner.priors.library import PriorLibrary, starter_tasks
from tuner.priors.prior_task import PriorTask, PriorTrial, read_prior
from tuner.slo import Slo
from tuner.space import Space

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,20}", fullmatch=True)
values = st.one_of(st.integers(-5, 5), st.booleans(), st.sampled_from(["fp8", "fp16"]))
numbers = st.floats(-1e9, 1e9, allow_nan=False)
trials = st.builds(
    PriorTrial,
    config=st.fixed_dictionaries({"batch": values}),
    metrics=st.dictionaries(st.sampled_from(["throughput", "p99(latency)"]), numbers),
)
tasks = st.builds(
    PriorTask,
    name=names,
    parameters=st.just({"batch": Scale.LOG}),
    trials=st.lists(trials, max_size=5).map(tuple),
)


BATCHES = Space(
    parameters=(
        Parameter(name=DEVICE, values=("gpu",), default="gpu"),
        Parameter(name="batch", values=(4, 16, 64), default=16, scale=Scale.LOG),
    )
)


def task(name: str = "one", **trial: float) -> PriorTask:
    return PriorTask(
        name=name,
        parameters={"batch": Scale.LOG, "old_knob": Scale.LINEAR},
        trials=(
            PriorTrial(config={"batch": 4, "old_knob": 1}, metrics=trial or {"throughput": 9.0, "p99(latency)": 0.1}),
            PriorTrial(config={"batch": 64, "old_knob": 1}),
        ),
    )


@given(tasks)
def test_reading_undoes_writing(task: PriorTask) -> None:
    assert PriorTask.from_json(task.to_json()) == task


def test_a_library_keeps_what_was_added(tmp_path: Path) -> None:
    library = PriorLibrary(tmp_path / "priors")
    assert library.read().tasks == ()
    library.add(task())
    assert library.get("one") == task()
    with pytest.raises(UsageError, match="already has"):
        library.add(task())
    library.add(task("two"))
    library.remove("one")
    assert library.names() == ("two",)
    with pytest.raises(UnknownNameError, match="two"):
        library.get("tow")


def test_a_prior_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    path.write_text(json.dumps({**json.loads(task().to_json()), "version": 2}))
    with pytest.raises(UsageError, match=r"version 2.*Update"):
        read_prior(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "name": "../x", "parameters": {}, "trials": []}'])
def test_what_is_no_prior_is_refused_and_changes_nothing(tmp_path: Path, text: str) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(task().to_json())
    bad.write_text(text)
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["prior", "--library", str(tmp_path / "lib"), "import", str(good), str(bad)])
    with pytest.raises(UsageError):
        arguments.run(arguments)
    assert not (tmp_path / "lib").exists()


def test_priors_with_other_parameters_are_used_where_they_overlap() -> None:
    objective = Objective(MetricRef.parse("throughput"))
    other = PriorTask(name="other", parameters={"nodes": Scale.LINEAR}, trials=())
    found = usable_priors([task(), other], BATCHES, objective, [Slo.parse("p99(latency) <= 1 s")])
    assert [each.name for each in found.tasks] == [("one",)]
    assert found.tasks[0].rows == (("gpu", 4), ("gpu", 64))
    assert found.tasks[0].ran.tolist() == [True, False]
    assert "old_knob ignored" in found.notes[0]
    assert "left out" in found.notes[1]


def test_the_starter_library_names_source_and_licence() -> None:
    shipped = starter_tasks()
    assert len(shipped) > 70
    assert all(each.source and each.licence and each.trials for each in shipped)
    assert len({each.name for each in shipped}) == len(shipped)


def test_a_damaged_prior_can_be_removed_and_none_is_lost_to_its_namesake(tmp_path: Path) -> None:
    library = PriorLibrary(tmp_path / "library")
    library.add(task("one", throughput=1.0))
    (library.folder / "one.json").write_text("{")
    library.remove("one")
    assert library.names() == ()
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(task("one", throughput=1.0).to_json())
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    arguments = parser.parse_args(
        ["prior", "--library", str(library.folder), "import", str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    )
    with pytest.raises(UsageError, match="More than one of the files holds a prior called one"):
        arguments.run(arguments)
    assert library.names() == ()


def test_a_damaged_archive_is_a_fault_of_the_file(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(bytes(range(256)) * 50))
    packed[20:40] = b"\x55" * 20
    (tmp_path / "one.json.gz").write_bytes(packed)
    with pytest.raises(UsageError, match="cannot be read"):
        read_prior(tmp_path / "one.json.gz")


def with_edit(**edit: object) -> str:
    return json.dumps(json.loads(task().to_json()) | edit)


def with_trial(**trial: object) -> str:
    return with_edit(trials=[{"config": {"batch": 4}, "metrics": {"throughput": 9.0}} | trial])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (with_trial(config={"batch": [1]}), r"sets batch to \[1\]"),
        (with_trial(config={"batch": None}), "sets batch to None"),
        (with_trial(config={"batch": math.nan}), "sets batch to nan"),
        (with_trial(config={"batch": 10**400}), "sets batch to a number of hundreds of digits"),
        (with_trial(metrics={"throughput": 1e308}), "measured 1e.308 of throughput"),
        (with_trial(metrics={"throughput": math.nan}), "measured nan of throughput"),
        (with_trial(metrics={"throughput": 10**400}), "holds no prior"),
        (with_edit(features={"log_parameters": math.inf}), "feature log_parameters is inf"),
        (with_edit(features={"log_parameters": 10**400}), "holds no prior"),
        (with_edit(devices={"cpu-4": {"cpus": [4]}}), r"device cpu-4: cpus is \[4\]"),
    ],
)
def test_a_prior_of_values_that_none_can_have_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        PriorTask.from_json(text)


def test_trials_that_set_a_word_where_the_space_has_numbers_are_left_out() -> None:
    other = PriorTask(
        name="other",
        parameters={"batch": Scale.CATEGORICAL},
        trials=tuple(PriorTrial(config={"batch": value}, metrics={"throughput": 9.0}) for value in ("auto", 4, 8)),
    )
    found = usable_priors([other], BATCHES, Objective(MetricRef.parse("throughput")), [])
    assert found.tasks[0].rows == (("gpu", 4), ("gpu", 8))
    assert "1 trials left out, batch=auto is no number" in found.notes[0]


@pytest.mark.parametrize(
    ("action", "words"), [("show", "Did you mean 'ibm_llm_usd-llama-7b'"), ("remove", "ships with")]
)
def test_what_ships_is_known_and_stays(tmp_path: Path, action: str, words: str) -> None:
    name = {"show": "ibm_llm_usd-lama-7b", "remove": "ibm_llm_usd-llama-7b"}[action]
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    arguments = parser.parse_args(["prior", "--library", str(tmp_path), action, name])
    with pytest.raises(UsageError, match=words):
        arguments.run(arguments)


def test_a_study_without_bounds_stands_on_priors_too() -> None:
    (found,) = usable_priors([task()], BATCHES, Objective(MetricRef.parse("throughput")), []).tasks
    assert found.constraints.shape == (2, 0)
