"""Trials: what is asked of a runner, and what it answers.

A trial ends as a `Measurement`, or as `Infeasible` with its reason. A fault of our own is neither: it
is raised as `tuner.errors.TrialFault`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.early_end import EarlyEnd, Limit
from tuner.errors import UsageError
from tuner.metric import MetricRef
from tuner.slo import Slo
from tuner.workload import Workload


class Origin(enum.Enum):
    """Where a number comes from."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PREDICTED = "predicted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """How a configuration is measured.

    Attributes:
        workload: the traffic.
        slos: bounds that decide goodput, and the highest rate where it is searched.
        metrics: what must be reported beside the standard statistics (a `p99.9(latency)`).
        warmup_s: load before anything counts, s.
        windows: number of steady windows.
        window_s: length of one, s.
        request_timeout_s: an answer later than this is a miss, s.
        max_error_rate: above this share of failed requests the trial is infeasible.
        start_deadline_s: the server must be ready within, s.
        stop_deadline_s: the server must be gone within, s; then it is killed.
        seed: of arrivals and request contents; the same for every trial, so that all see one traffic.
        limits: beyond which a trial cannot matter, so that its load may end early; none measures to the end.
    """

    workload: Workload
    slos: tuple[Slo, ...] = ()
    metrics: tuple[MetricRef, ...] = ()
    warmup_s: float = 2.0
    windows: int = 5
    window_s: float = 2.0
    request_timeout_s: float = 30.0
    max_error_rate: float = 0.05
    start_deadline_s: float = 300.0
    stop_deadline_s: float = 20.0
    seed: int = 0
    limits: tuple[Limit, ...] = ()

    def __post_init__(self) -> None:
        if self.windows < 1 or not self.window_s > 0 or self.warmup_s < 0:
            raise UsageError(
                f"A trial of {self.windows} windows of {self.window_s} s after {self.warmup_s} s measures nothing. "
                "Write windows: 1 or more, window: above 0 s."
            )
        for name in ("request_timeout_s", "start_deadline_s", "stop_deadline_s"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}. Write a time above 0 s.")
        if not 0 <= self.max_error_rate <= 1:
            raise UsageError(f"max_error_rate is {self.max_error_rate}. Write a share from 0% to 100%.")

    @property
    def load_s(self) -> float:
        """Length of the load at one arrival rate, warm-up included, s."""
        return self.warmup_s + self.windows * self.window_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        value: the number, over all windows together.
        low, high: 95 % confidence interval.
        std_error: standard error, from the spread between windows; 0 with a single window.
    """

    value: float
    low: float
    high: float
    std_error: float = 0.0

    @classmethod
    def exact(cls, value: float) -> Estimate:
        """A number without uncertainty (a price)."""
        return cls(value=value, low=value, high=value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One steady window: start in seconds after the load began, length, and its metrics by name."""

    start_s: float
    duration_s: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateProbe:
    """One step of the search for the highest arrival rate.

    Attributes:
        rate_rps: offered.
        held: whether every SLO held and nothing queued up without end.
        excess: the largest `Slo.excess`.
    """

    rate_rps: float
    held: bool
    excess: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Where a trial's wall time went, s."""

    start_s: float = 0.0
    load_s: float = 0.0
    stop_s: float = 0.0

    @property
    def total_s(self) -> float:
        """All of it."""
        return self.start_s + self.load_s + self.stop_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a configuration did under the workload.

    Attributes:
        metrics: by `str(MetricRef)`: the standard statistics of every population that had values,
            every scalar, and what the plan asked for beside.
        windows: the steady windows, each with the same names.
        sent, completed, failed, timed_out: requests that were due inside the windows.
        lateness_p99_s: how late the generator itself was, 99th percentile, s.
        probes: steps of the rate search, in order; empty without one.
        errors: some distinct error texts.
        phases: where the wall time went.
        origin: measured, simulated or predicted.
        ended_early: that the load was ended before its end; `metrics` then are those of the windows until then, and no
            substitute for a measurement. `None` where it was not.
    """

    metrics: Mapping[str, Estimate]
    windows: tuple[Window, ...] = ()
    sent: int = 0
    completed: int = 0
    failed: int = 0
    timed_out: int = 0
    lateness_p99_s: float = 0.0
    probes: tuple[RateProbe, ...] = ()
    errors: tuple[str, ...] = ()
    phases: Phases = field(default_factory=Phases)
    origin: Origin = Origin.MEASURED
    ended_early: EarlyEnd | None = None

    def value(self, ref: MetricRef) -> float | None:
        """The number for `ref`, its bound where the load was ended early for it, or `None` where there is neither."""
        bound = None if self.ended_early is None else self.ended_early.bounds.get(str(ref))
        if bound is not None:
            return bound.value
        estimate = self.metrics.get(str(ref))
        return None if estimate is None else estimate.value

    def values(self) -> dict[MetricRef, float]:
        """Every number, or its bound, by reference."""
        found = {MetricRef.parse(name): estimate.value for name, estimate in self.metrics.items()}
        bounds = {} if self.ended_early is None else self.ended_early.bounds
        return found | {MetricRef.parse(name): bound.value for name, bound in bounds.items()}


class Reason(enum.Enum):
    """Why a configuration has no measurement."""

    DID_NOT_START = "did not start"
    INVALID = "invalid combination"
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    DIED = "died under load"
    ERRORS = "errors above the limit"
    GENERATOR_BOUND = "generator-bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class Infeasible:
    """A configuration that could not be measured: a result, not an error.

    Attributes:
        reason: which kind.
        message: what happened, with values, for people.
        log_tail: the server's last log lines.
        phases: where the wall time went.
        partial: what was measured before it failed, where anything was.
    """

    reason: Reason
    message: str
    log_tail: tuple[str, ...] = ()
    phases: Phases = field(default_factory=Phases)
    partial: Measurement | None = None


Outcome = Measurement | Infeasible


class Phase(enum.Enum):
    """What a running trial is doing."""

    STARTING = "starting"
    WARMING_UP = "warming up"
    LOADING = "measuring"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A sign of life of a running trial.

    Attributes:
        phase: what it is doing.
        elapsed_s: since the phase began, s.
        expected_s: how long the phase should take, where known, s.
        note: a short text: the rate being probed, the requests in flight.
    """

    phase: Phase
    elapsed_s: float = 0.0
    expected_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """Identity of one attempt at one trial; whatever it starts is labelled with it.

    Attributes:
        study_id: unique id of the study (not its name).
        trial: the trial's number in the study.
        token: unique to this attempt: of two attempts at one trial, only the current one counts.
    """

    study_id: str
    trial: int
    token: str
