"""What `tune predict` and `tune simulate` promise, on the fakes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.tuner.study.conftest import StudyMaker
from tuner.errors import StudyFileError, UnpredictableError
from tuner.metric import MetricRef
from tuner.study.predictions import predict
from tuner.study.simulated import configured, simulate
from tuner.trial import Origin
from tuner.workload import OpenLoop

THROUGHPUT = MetricRef.parse("throughput")


def test_the_best_predicted_come_first_with_intervals(make_study: StudyMaker) -> None:
    found = predict(make_study(predictions="good"), count=4)
    prospects = found.best["cpu-4"]
    assert len(prospects) == 4
    assert prospects[0].holds
    values = [each.metrics["throughput"].value for each in prospects]
    assert values[0] == max(values)
    for each in prospects:
        for estimate in each.metrics.values():
            assert estimate.low <= estimate.value <= estimate.high
    assert found.looked_at == found.valid


def test_configurations_predicted_alike_are_listed_once(make_study: StudyMaker) -> None:
    prospects = predict(make_study(predictions="good"), count=6).best["cpu-4"]
    told = {(f"{p.metrics['throughput'].value:.3g}", f"{p.metrics['p99(latency)'].value:.3g}") for p in prospects}
    assert len(told) == len(prospects)


def test_what_does_not_fit_is_ruled_out_and_counted(make_study: StudyMaker) -> None:
    found = predict(make_study(predictions="good", memory_bytes=700 * 2**20))
    surely = [each for each in found.exclusions if each.surely]
    assert sum(each.count for each in surely) > 0
    assert all("exceed the 700 MiB" in each.reason for each in surely)
    assert all(int(each.example["instance_count"]) >= 3 for each in surely)
    assert all(int(p.config["instance_count"]) <= 2 for p in found.best["cpu-4"])


def test_missed_bounds_are_reasons_with_counts(make_study: StudyMaker) -> None:
    found = predict(make_study(predictions="good", slos=("p99(latency) <= 30 ms",)))
    missed = [each for each in found.exclusions if not each.surely]
    assert [each.reason for each in missed] == ["predicted to miss p99(latency) <= 30 ms"]
    assert 0 < missed[0].count <= found.looked_at


def test_an_engine_that_says_nothing_is_told_so(make_study: StudyMaker) -> None:
    with pytest.raises(UnpredictableError, match="told to be unpredictable"):
        predict(make_study())


def test_a_simulated_configuration_is_labelled_and_keeps_little_s_law(make_study: StudyMaker) -> None:
    study = make_study(predictions="good", clients=16)
    config = configured(study, {"dynamic_batching": "true", "max_batch_size": "8"})
    measured = simulate(study, config)
    assert measured.origin is Origin.SIMULATED
    throughput, latency = (measured.value(MetricRef.parse(name)) for name in ("throughput", "mean(latency)"))
    assert throughput is not None
    assert latency is not None
    assert throughput * latency == pytest.approx(16, rel=0.05)
    assert measured.completed > 0


def test_prediction_and_simulation_agree(make_study: StudyMaker) -> None:
    study = make_study(predictions="good")
    best = predict(study, count=1).best["cpu-4"][0]
    simulated = simulate(study, best.config).value(THROUGHPUT)
    assert simulated is not None
    assert abs(math.log(simulated / best.metrics["throughput"].value)) < 0.1


def test_faults_of_settings_are_told_together(make_study: StudyMaker) -> None:
    study = make_study(predictions="good")
    with pytest.raises(StudyFileError) as caught:
        configured(study, {"instance_cont": "2", "threads": "many", "precision": "fp99"})
    told = str(caught.value)
    assert "3 faults" in told
    assert "Did you mean 'instance_count'" in told
    assert "'many' is no number" in told
    assert "'fp99' is none of its values" in told


def test_a_setting_without_effect_and_an_invalid_combination_are_faults(make_study: StudyMaker) -> None:
    study = make_study(predictions="good")
    with pytest.raises(StudyFileError, match="no effect unless dynamic_batching"):
        configured(study, {"max_batch_size": "16"})
    with pytest.raises(StudyFileError, match="must be at most 16"):
        configured(study, {"instance_count": "4", "threads": "8"})


def test_values_beyond_the_domain_can_be_simulated(make_study: StudyMaker) -> None:
    study = make_study(predictions="good")
    assert configured(study, {"dynamic_batching": "true", "max_batch_size": "24"})["max_batch_size"] == 24


@pytest.mark.parametrize("windows", [2, 40])
def test_closed_loop_is_simulated_as_long_as_a_trial_loads_it(make_study: StudyMaker, windows: int) -> None:
    study = make_study(predictions="good", clients=8)
    study = replace(study, plan=replace(study.plan, windows=windows, window_s=0.5))
    found = simulate(study, configured(study, {}))
    rate = found.metrics["throughput"].value
    assert found.completed == pytest.approx(rate * windows * 0.5)
    assert abs(found.sent - found.completed) <= 8


def test_arrivals_beyond_what_is_predicted_at_most_do_not_make_a_server_seem_slow(make_study: StudyMaker) -> None:
    study = make_study(predictions="good")
    workload = replace(study.task.workload, arrival=OpenLoop(rate_rps=90_000.0))
    study = replace(study, task=replace(study.task, workload=workload), plan=replace(study.plan, workload=workload))
    config = configured(study, {})
    limit = simulate(replace(study, plan=replace(study.plan, windows=1, window_s=0.1, warmup_s=0.1)), config)
    assert limit.sent == pytest.approx(9_000, rel=0.1)
