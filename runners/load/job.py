"""What the driver and its generator process say to each other: one JSON value per line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from runners.load.rate_search import RateSearch
from tuner.launch import RequestSpec
from tuner.trial import Measurement, Progress, TrialPlan

_START_S: Final = 30.0
"""An interpreter on a busy machine takes its time to import numpy."""

_SLACK: Final = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to load, with what, how."""

    url: str
    request: RequestSpec
    plan: TrialPlan

    @property
    def deadline_s(self) -> float:
        """The generator's process must have ended after this, s."""
        plan = self.plan
        # Within a load, what is due last is answered or timed out; between loads the queue drains.
        one = plan.load_s + 2 * plan.request_timeout_s
        loads = 1
        if (bracket := plan.workload.rate_bracket) is not None:
            loads = RateSearch(bracket).max_probes
        return _START_S + _SLACK * loads * one


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """A sign of life."""

    kind: Literal["advanced"] = "advanced"
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The result."""

    kind: Literal["measured"] = "measured"
    measurement: Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """There is no result; `error` names a class of `tuner.errors`."""

    kind: Literal["refused"] = "refused"
    error: Literal["UnavailableError", "GeneratorBoundError", "UsageError", "TrialFault"]
    message: str


Report = Annotated[Advanced | Measured | Refused, Field(discriminator="kind")]

_FINITE_OR_NAMED: Final = ConfigDict(ser_json_inf_nan="constants")
_JOBS: Final[TypeAdapter[tuple[Job]]] = TypeAdapter(tuple[Job], config=_FINITE_OR_NAMED)
_REPORTS: Final[TypeAdapter[tuple[Report]]] = TypeAdapter(tuple[Report], config=_FINITE_OR_NAMED)


def dump_job(job: Job) -> bytes:
    """One line."""
    return _JOBS.dump_json((job,)) + b"\n"


def load_job(line: bytes) -> Job:
    """What `dump_job` wrote; raises pydantic's ValidationError otherwise."""
    return _JOBS.validate_json(line)[0]


def dump_report(report: Advanced | Measured | Refused) -> bytes:
    """One line."""
    return _REPORTS.dump_json((report,)) + b"\n"


def load_report(line: bytes) -> Advanced | Measured | Refused:
    """What `dump_report` wrote; raises pydantic's ValidationError otherwise."""
    return _REPORTS.validate_json(line)[0]
