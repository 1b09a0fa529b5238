"""The public fakes answer like a server that could exist."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.device import DeviceType
from tuner.errors import OptionsError, TrialFault, UnavailableError
from tuner.launch import CompletionRequest, HealthCheck, LaunchSpec, Target, TemplateRequest
from tuner.metric import Metric, MetricRef
from tuner.parameter import Config
from tuner.ports import ModelSource, ServingTask
from tuner.slo import Slo
from tuner.testing.fakes import FakeLoadDriver, FakeRunner, FakeSearchSpace
from tuner.trial import Attempt, Infeasible, Measurement, Phase, Progress, Reason, TrialPlan
from tuner.workload import ClosedLoop, Lengths, OpenLoop, RateBracket, TemplateShapes, TokenShapes, Workload

DEVICE = DeviceType(name="cpu-4", cpus=4, price_per_hour=0.2)
ENGINE = FakeSearchSpace({})
P99 = MetricRef(Metric.LATENCY, "p99")


def _task(arrival: OpenLoop | ClosedLoop, device: DeviceType = DEVICE) -> ServingTask:
    workload = Workload(arrival=arrival, requests=TemplateShapes())
    return ServingTask(model=ModelSource(name="model"), devices=(device,), workload=workload)


TASK = _task(ClosedLoop(clients=16))
SPACE = ENGINE.space(TASK)
VALID = [
    config
    for values in itertools.product(*(parameter.values for parameter in SPACE.parameters))
    if not SPACE.violations(config := SPACE.config(dict(zip(SPACE.names, values, strict=True))))
]
CONFIGS = st.sampled_from(VALID)


def _run(
    config: Config, task: ServingTask = TASK, runner: FakeRunner | None = None, trial: int = 0, **plan: object
) -> Measurement | Infeasible:
    whole = replace(TrialPlan(workload=task.workload), **plan)  # type: ignore[arg-type]
    attempt = Attempt(study_id="study", trial=trial, token="token")
    spec = ENGINE.launch(task, config, Target.PROCESS)
    return (runner or FakeRunner({"noise": 0})).run(spec, task.devices[0], whole, attempt, lambda progress: None)


def test_there_are_as_many_configurations_as_documented() -> None:
    assert len(set(VALID)) == 1132
    assert "1,132 valid" in str(FakeSearchSpace.__doc__)


@given(config=CONFIGS, trial=st.integers(0, 50))
def test_a_repeated_trial_sees_the_same_numbers_and_another_one_does_not(config: Config, trial: int) -> None:
    noisy = FakeRunner({"noise": 0.05})
    first, again, other = (_run(config, runner=noisy, trial=number) for number in (trial, trial, trial + 1))
    assert first == again
    if isinstance(first, Measurement):
        assert first != other


@given(config=CONFIGS, rate=st.floats(1, 500), more=st.floats(1.1, 4))
def test_latency_rises_with_the_rate(config: Config, rate: float, more: float) -> None:
    slow, fast = (_run(config, _task(OpenLoop(rate_rps=r)), max_error_rate=1.0) for r in (rate, rate * more))
    if isinstance(slow, Measurement) and isinstance(fast, Measurement):
        assert slow.metrics["p50(latency)"].value <= fast.metrics["p50(latency)"].value
        assert slow.metrics["error_rate"].value <= fast.metrics["error_rate"].value


@given(config=CONFIGS)
def test_percentiles_are_ordered_and_costs_follow_from_throughput(config: Config) -> None:
    outcome = _run(config)
    if isinstance(outcome, Infeasible):
        assert outcome.reason is Reason.OUT_OF_MEMORY
        return
    quantiles = [outcome.metrics[f"{statistic}(latency)"].value for statistic in ("p50", "p90", "p95", "p99")]
    assert quantiles == sorted(quantiles)
    cost = outcome.metrics["cost_per_million_requests"].value
    assert cost == pytest.approx(DEVICE.price_per_second * 1e6 / outcome.metrics["throughput"].value)


@given(config=CONFIGS, bound=st.floats(0.02, 0.5))
def test_the_highest_rate_holds_the_bound_and_a_higher_one_does_not(config: Config, bound: float) -> None:
    slos = (Slo(metric=P99, bound=bound),)
    outcome = _run(config, _task(OpenLoop(rate_rps=RateBracket(low=1, high=2000))), slos=slos, max_error_rate=1.0)
    if not isinstance(outcome, Measurement) or "max_arrival_rate" not in outcome.metrics:
        return
    rate = outcome.metrics["max_arrival_rate"].value
    assert outcome.metrics["p99(latency)"].value <= bound * (1 + 1e-9)
    assert all(probe.held == (probe.rate_rps <= rate * (1 + 1e-9)) for probe in outcome.probes)


def test_a_small_device_runs_out_of_memory_where_a_large_one_does_not() -> None:
    config = Config({**SPACE.default.values, "instance_count": 4})
    small = _task(ClosedLoop(clients=4), replace(DEVICE, memory_bytes=2**29))
    outcome = _run(config, small)
    assert isinstance(outcome, Infeasible)
    assert outcome.reason is Reason.OUT_OF_MEMORY
    large = _task(ClosedLoop(clients=4), replace(DEVICE, memory_bytes=2**33))
    assert isinstance(_run(config, large), Measurement)


def test_trials_fail_as_they_are_told() -> None:
    runner = FakeRunner({"failures": {1: "timed out", 2: "fault", 3: "unavailable"}})
    outcome = _run(SPACE.default, runner=runner, trial=1)
    assert isinstance(outcome, Infeasible)
    assert outcome.reason is Reason.TIMED_OUT
    with pytest.raises(TrialFault):
        _run(SPACE.default, runner=runner, trial=2)
    with pytest.raises(UnavailableError):
        _run(SPACE.default, runner=runner, trial=3)
    assert [attempt.trial for attempt, _ in runner.ran] == [1, 2, 3]
    assert runner.reap("study") == 0


def test_token_streams_are_reported_where_tokens_are_asked_for() -> None:
    shapes = TokenShapes(input_tokens=Lengths.constant(100), output_tokens=Lengths.constant(11))
    task = replace(TASK, workload=Workload(arrival=ClosedLoop(clients=4), requests=shapes))
    assert Metric.TTFT in FakeSearchSpace({"streams_tokens": True}).reports
    assert Metric.TTFT not in ENGINE.reports
    assert isinstance(ENGINE.launch(task, SPACE.default, Target.PROCESS).request, CompletionRequest)
    outcome = _run(SPACE.default, task)
    assert isinstance(outcome, Measurement)
    values = {name: outcome.metrics[name].value for name in ("p50(latency)", "p50(ttft)", "throughput")}
    assert values["p50(latency)"] > values["p50(ttft)"]
    assert outcome.metrics["output_throughput"].value == pytest.approx(11 * values["throughput"])


def test_the_load_driver_shows_signs_of_life() -> None:
    seen: list[Progress] = []
    plan = TrialPlan(workload=TASK.workload, windows=3)
    request = TemplateRequest(shapes=TemplateShapes())
    measurement = FakeLoadDriver().drive("http://127.0.0.1:1", request, plan, seen.append)
    assert [progress.phase for progress in seen] == [Phase.WARMING_UP, Phase.LOADING]
    assert len(measurement.windows) == 3


def test_the_runner_starts_nothing_but_the_fake_engine() -> None:
    request = TemplateRequest(shapes=TemplateShapes())
    stranger = LaunchSpec(argv=("sh",), health=HealthCheck(path="/"), request=request)
    with pytest.raises(UnavailableError, match="engine: fake"):
        FakeRunner({}).check(stranger, DEVICE)
    FakeRunner({}).check(ENGINE.launch(TASK, SPACE.default, Target.CONTAINER), DEVICE)


def test_unknown_reasons_are_refused() -> None:
    with pytest.raises(OptionsError, match="failures"):
        FakeRunner({"failures": {1: "boredom"}})
