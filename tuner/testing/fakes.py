"""Public fakes of the seams: a study without a server, in no time, with answers that make sense.

Installed like anyone's adapters, by entry point, so that nothing needs patching::

    with installed():
        study = tuner.load_study("study.yaml")      # engine: fake, runner: fake
        result = tuner.tune(study)
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tuner.adapter_options import option_faults
from tuner.cost import with_costs
from tuner.device import DeviceKind, DeviceType
from tuner.early_end import EarlyEnd, predicted_end
from tuner.errors import ModelError, OptionsError, TrialFault, UnavailableError, UnpredictableError
from tuner.launch import CompletionRequest, HealthCheck, LaunchSpec, RequestSpec, Target, TemplateRequest
from tuner.launch_texts import container_texts
from tuner.metric import TOKEN_METRICS, Metric, MetricRef
from tuner.model_graph import ModelGraph
from tuner.operators import Embedding
from tuner.parameter import DEVICE, Condition, Config, Parameter, Scale
from tuner.ports import ServingTask
from tuner.serving import DynamicBatching, ServedModel
from tuner.slo import excesses
from tuner.space import Rule, Space
from tuner.step import NumberFormat, OperatorKind
from tuner.testing.fake_server import WEIGHTS_BYTES, FakeServer
from tuner.traced_operators import Extent, TracedWork
from tuner.trial import (
    Attempt,
    Estimate,
    Infeasible,
    Measurement,
    Outcome,
    Phase,
    Phases,
    Progress,
    RateProbe,
    Reason,
    TrialPlan,
    Window,
)
from tuner.workload import RateBracket, TemplateShapes, TokenShapes

_CONFIG: Final = "FAKE_SERVER_CONFIG"
_ENTRY_POINTS: Final = """\
[tuner.search_spaces]
fake = tuner.testing.fakes:FakeSearchSpace

[tuner.runners]
fake = tuner.testing.fakes:FakeRunner

[tuner.load_drivers]
fake = tuner.testing.fakes:FakeLoadDriver

[tuner.model_readers]
fake = tuner.testing.fakes:FakeModelReader
"""
FAULT: Final = "fault"
UNAVAILABLE: Final = "unavailable"


@contextlib.contextmanager
def installed(entry_points: str = _ENTRY_POINTS) -> Iterator[Path]:
    """The fakes (or other adapters), found by entry point while the context lasts.

    Args:
        entry_points: text of an `entry_points.txt`.

    Yields:
        A folder that does the same for another process when it is put on its PYTHONPATH.
    """
    with tempfile.TemporaryDirectory(prefix="tuner-fakes-") as folder:
        name = Path(folder).name.replace("-", "_")  # of its own: of two distributions of one name, one is seen
        metadata = Path(folder, f"{name}-1.0.dist-info")
        metadata.mkdir()
        metadata.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        metadata.joinpath("entry_points.txt").write_text(entry_points)
        sys.path.append(folder)
        importlib.invalidate_caches()
        try:
            yield Path(folder)
        finally:
            sys.path.remove(folder)
            importlib.invalidate_caches()


def _known_failure(text: str) -> str:
    known = (FAULT, UNAVAILABLE, *(reason.value for reason in Reason))
    if text not in known:
        raise ValueError(f"{text!r} is no way to fail. Choose one of {', '.join(known)}")
    return text


class FakeEngineOptions(BaseModel):
    """Options of the fake engine."""

    model_config = ConfigDict(extra="forbid")

    streams_tokens: bool = Field(default=False, description="Report the metrics of token streams too.")
    predictions: Literal["none", "good", "wrong"] = Field(
        default="none", description="What the performance model is told of a configuration."
    )


class FakeRunnerOptions(BaseModel):
    """Options of the fake runner."""

    model_config = ConfigDict(extra="forbid")

    noise: float = Field(default=0.02, ge=0, description="Standard deviation of the log of each window's metrics.")
    seconds: float = Field(default=0.0, ge=0, description="How long a trial really takes.")
    failures: dict[int, Annotated[str, AfterValidator(_known_failure)]] = Field(
        default_factory=dict,
        description="By trial number: a reason such as 'timed out', or 'fault', or 'unavailable'.",
    )


_Options = TypeVar("_Options", bound=BaseModel)


def _parsed(kind: type[_Options], name: str, options: Mapping[str, object]) -> _Options:
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        raise OptionsError(name, option_faults(kind.model_fields, error.errors())) from error


class FakeSearchSpace:
    """An engine with six parameters, conditions and rules: 1,132 valid configurations on each device type.

    Any path is a model of it, unless its name ends in `.broken`.
    """

    formats: ClassVar[tuple[str, ...]] = ("fake",)

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = _parsed(FakeEngineOptions, "fake", options)

    @property
    def reports(self) -> frozenset[Metric]:
        """All metrics; those of token streams only when asked for."""
        return frozenset(Metric) if self.options.streams_tokens else frozenset(Metric) - TOKEN_METRICS

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of the options."""
        return FakeEngineOptions.model_json_schema()

    def space(self, task: ServingTask) -> Space:
        """The parameters and rules; they depend on the devices only."""
        if task.model.name.endswith(".broken"):
            raise ModelError(f"{task.model.name} is no model. Name a file that does not end in .broken.")
        batching = (Condition(parameter="dynamic_batching", values=(True,)),)
        devices = tuple(device.name for device in task.devices)
        return Space(
            parameters=(
                Parameter(name=DEVICE, values=devices, default=devices[0], says="device type"),
                Parameter(name="dynamic_batching", values=(False, True), default=False, says="form batches"),
                Parameter(
                    name="max_batch_size",
                    values=(2, 4, 8, 16, 32, 64, 128),
                    default=8,
                    scale=Scale.LOG,
                    active_when=batching,
                    says="requests in one batch, at most",
                ),
                Parameter(
                    name="queue_delay_us",
                    values=(0, 100, 500, 1000, 2000, 5000),
                    default=0,
                    scale=Scale.LOG,
                    active_when=batching,
                    says="how long a request waits for others, us",
                ),
                Parameter(name="instance_count", values=(1, 2, 3, 4), default=1, scale=Scale.LINEAR, says="copies"),
                Parameter(name="threads", values=(1, 2, 4, 8), default=1, scale=Scale.LOG, says="threads of a copy"),
                Parameter(name="precision", values=("fp32", "fp16"), default="fp32", says="number format"),
            ),
            rules=(
                Rule(
                    over=("instance_count", "threads"),
                    holds=lambda instance_count, threads: instance_count * threads <= 16,
                    says="instance_count x threads must be at most 16",
                ),
                Rule(
                    over=("max_batch_size", "instance_count"),
                    holds=lambda max_batch_size, instance_count: max_batch_size != 128 or instance_count <= 2,
                    says="max_batch_size 128 allows at most 2 instances",
                ),
            ),
        )

    def served_model(self, task: ServingTask) -> ServedModel:
        """A model that takes about as long as the fake server says; told the wrong way round, large is small."""
        if self.options.predictions == "none":
            raise UnpredictableError("The fake engine was told to be unpredictable. Write predictions: good.")
        wrong = self.options.predictions == "wrong"

        def serving(config: Config) -> DynamicBatching:
            batch, delay = int(config.get("max_batch_size", 1) or 1), int(config.get("queue_delay_us", 0) or 0)
            return DynamicBatching(
                max_batch_size=max(128 // batch, 1) if wrong else batch,
                max_queue_delay_s=(5000 - delay if wrong else delay) * 1e-6,
                instances=5 - int(config["instance_count"]) if wrong else int(config["instance_count"]),
                threads=8 // int(config["threads"]) if wrong else int(config["threads"]),
            )

        return ServedModel(reader="fake", path=task.model.path or Path(task.model.name), serving=serving)

    def launch(self, task: ServingTask, config: Config, target: Target) -> LaunchSpec:
        """A server that only `FakeRunner` can start: the configuration travels in its environment."""
        shapes = task.workload.requests
        request: RequestSpec = TemplateRequest(
            shapes=shapes if isinstance(shapes, TemplateShapes) else TemplateShapes(path="/infer")
        )
        if isinstance(shapes, TokenShapes):
            request = CompletionRequest(model_name="fake", shapes=shapes, token_ids=(1, 1000))
        return LaunchSpec(
            argv=("fake-server", "--port", "{port}"),
            environment={_CONFIG: config.to_json().replace("{", "{{").replace("}", "}}")},
            image="fake-server:1" if target is Target.CONTAINER else None,
            health=HealthCheck(path="/health", deadline_s=10.0),
            request=request,
        )

    def export(self, task: ServingTask, config: Config, form: str) -> Mapping[str, str]:
        """One file of `key=value` lines."""
        return {"fake.conf": "".join(f"{name}={value}\n" for name, value in config.values.items())}


class FakeModelReader:
    """Reads any path as a model of 300 MiB whose pass takes 4 ms, and 1.5 ms for every request in it."""

    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
        """The model; it is never looked at."""
        work = TracedWork(
            name="all", count=1, traced_kind=OperatorKind.ELEMENTWISE, operation="Fake", work=Extent(),
            moved=Extent(fixed=13e6, per_sequence=5e6),
        )  # fmt: skip
        table = Embedding(name="table", count=1, entries=WEIGHTS_BYTES // 2048, width=1024)
        return ModelGraph(
            name=path.name,
            family="fake",
            operators=(table, work),
            layers=1,
            hidden=1,
            max_context=None,
            generates=False,
        )


class FakeRunner:
    """Answers like a batching server (`tuner.testing.fake_server`), at once.

    The noise of a trial follows from the plan's seed, the configuration and the trial's number, so that
    a replayed study sees the same numbers and a repeated configuration other ones.

    Attributes:
        target: process.
        ran: every attempt made, with its configuration, in order.
    """

    target: ClassVar[Target] = Target.PROCESS

    def __init__(self, options: Mapping[str, object]) -> None:
        self.options = _parsed(FakeRunnerOptions, "fake", options)
        self.ran: list[tuple[Attempt, Config]] = []

    @classmethod
    def options_schema(cls) -> Mapping[str, object]:
        """JSON Schema of the options."""
        return FakeRunnerOptions.model_json_schema()

    def answers(self) -> bool:
        """Always."""
        return True

    def check(self, spec: LaunchSpec, device: DeviceType) -> None:
        """Accepts what `FakeSearchSpace` launches, and nothing else."""
        if _CONFIG not in spec.environment:
            raise UnavailableError("The fake runner starts the fake engine only. Write engine: fake.")

    def run(
        self,
        spec: LaunchSpec,
        device: DeviceType,
        plan: TrialPlan,
        attempt: Attempt,
        watch: Callable[[Progress], None],
    ) -> Outcome:
        """The outcome of one configuration, after `seconds`."""
        config = Config.from_json(container_texts(spec).environment[_CONFIG])
        self.ran.append((attempt, config))
        for phase in (Phase.STARTING, Phase.WARMING_UP, Phase.LOADING):
            watch(Progress(phase=phase, expected_s=self.options.seconds / 3))
            time.sleep(self.options.seconds / 3)
        watch(Progress(phase=Phase.STOPPING))
        phases = Phases(start_s=0.5, load_s=plan.load_s, stop_s=0.1)
        failure = self.options.failures.get(attempt.trial)
        if failure == FAULT:
            raise TrialFault(f"Trial {attempt.trial} was told to fail by a fault of our own.")
        if failure == UNAVAILABLE:
            raise UnavailableError(f"Trial {attempt.trial} was told that the daemon has gone. Start it again.")
        if failure is not None:
            return Infeasible(reason=Reason(failure), message=f"told to be: {failure}", phases=phases)
        server = FakeServer.of(config, device)
        memory = _memory_bytes(device)
        if server.memory_bytes > memory:
            return Infeasible(
                reason=Reason.OUT_OF_MEMORY,
                message=f"needs {server.memory_bytes} bytes, {device.name} has {memory}",
                log_tail=("fake-server: cannot allocate memory",),
                phases=phases,
            )
        digest = hashlib.sha256(f"{plan.seed} {attempt.trial} {device.name} {config.to_json()}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        measurement = _measure(server, plan, random, self.options.noise)
        error_rate = measurement.metrics[Metric.ERROR_RATE.value].value
        if error_rate > plan.max_error_rate:
            return Infeasible(
                reason=Reason.ERRORS,
                message=f"{error_rate:.1%} of the requests failed, above {plan.max_error_rate:.1%}",
                phases=phases,
                partial=measurement,
            )
        return with_costs(_cut(measurement, plan, phases), device)

    def reap(self, study_id: str) -> int:
        """Leaves nothing behind, so finds nothing."""
        return 0


class FakeLoadDriver:
    """Answers for any URL like the fake server's defaults on four cores, without noise."""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        """The measurement; `url` and `request` are not looked at."""
        watch(Progress(phase=Phase.WARMING_UP, expected_s=plan.warmup_s))
        watch(Progress(phase=Phase.LOADING, expected_s=plan.windows * plan.window_s))
        server = FakeServer(max_batch=8, delay_s=0.0, instances=1, threads=4, half=False, cores=4.0)
        return _measure(server, plan, np.random.default_rng(plan.seed), 0.0)


def _cut(measurement: Measurement, plan: TrialPlan, phases: Phases) -> Measurement:
    """The measurement as far as its load would have gone under the plan's limits."""
    for seen in range(1, plan.windows):
        windows = measurement.windows[:seen]
        passed = predicted_end(plan.limits, [window.metrics for window in windows], plan.windows)
        if passed:
            after_s = plan.warmup_s + seen * plan.window_s
            bounds = {str(limit.slo.metric): bound for limit, bound in passed.items()}
            return replace(
                measurement,
                metrics={name: _estimate([window.metrics[name] for window in windows]) for name in measurement.metrics},
                windows=windows,
                phases=replace(phases, load_s=after_s),
                ended_early=EarlyEnd(after_s=after_s, bounds=bounds, limits=tuple(passed)),
            )
    return replace(measurement, phases=phases)


def _memory_bytes(device: DeviceType) -> int:
    if device.kind is DeviceKind.GPU:
        return (device.gpu_memory_bytes or 16 * 2**30) * device.gpus
    return device.memory_bytes or 2**30


def _measure(server: FakeServer, plan: TrialPlan, random: np.random.Generator, noise: float) -> Measurement:
    probes: tuple[RateProbe, ...] = ()
    rate: float | None = None
    if (bracket := plan.workload.rate_bracket) is not None:
        probes = _probe(server, plan, bracket)
        rate = max((probe.rate_rps for probe in probes if probe.held), default=bracket.low)
    metrics = server.respond(plan, rate)
    if rate is not None and any(probe.held for probe in probes):
        metrics[Metric.MAX_ARRIVAL_RATE.value] = rate
    windows = tuple(
        Window(
            start_s=plan.warmup_s + index * plan.window_s,
            duration_s=plan.window_s,
            metrics={name: value * math.exp(noise * random.standard_normal()) for name, value in metrics.items()},
        )
        for index in range(plan.windows)
    )
    sent = round(metrics[Metric.THROUGHPUT.value] / (1 - metrics[Metric.ERROR_RATE.value] + 1e-9) * plan.windows)
    timed_out = round(sent * metrics[Metric.ERROR_RATE.value])
    return Measurement(
        metrics={name: _estimate([window.metrics[name] for window in windows]) for name in metrics},
        windows=windows,
        sent=sent,
        completed=sent - timed_out,
        timed_out=timed_out,
        probes=probes,
        phases=Phases(load_s=plan.load_s),
    )


def _probe(server: FakeServer, plan: TrialPlan, bracket: RateBracket) -> tuple[RateProbe, ...]:
    """Bisects the bracket geometrically."""
    probes: list[RateProbe] = []

    def held(rate: float) -> bool:
        metrics = server.respond(plan, rate)
        values = {MetricRef.parse(name): value for name, value in metrics.items()}
        excess = max(excesses(plan.slos, values).values(), default=rate / server.capacity_rps - 1)
        probes.append(RateProbe(rate_rps=rate, held=excess <= 0, excess=excess))
        return excess <= 0

    low, high = bracket.low, bracket.high
    if not held(low) or held(high):
        return tuple(probes)
    while high / low > 1 + bracket.resolution:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if held(middle) else (low, middle)
    return tuple(probes)


def _estimate(values: list[float]) -> Estimate:
    mean = float(np.mean(values))
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
    return Estimate(value=mean, low=mean - 1.96 * error, high=mean + 1.96 * error, std_error=error)
