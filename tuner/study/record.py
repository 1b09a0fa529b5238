"""Trials of a study as they were recorded."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tuner.early_end import EarlyEnd
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.slo import Slo, excesses
from tuner.strategies.history import Kind
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Phases


class State(enum.Enum):
    """How far a recorded trial has come."""

    RUNNING = "running"
    DONE = "done"
    INTERRUPTED = "interrupted"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """One trial.

    Attributes:
        number: in the study, from 0.
        kind: search, or a repeat that confirms.
        state: only `DONE` trials have an outcome.
        config: what was tried.
        outcome: what came of it.
        started, ended: wall clock, where known.
        fault: what went wrong on our side, for `FAULT`; that the machine went down, for `INTERRUPTED`.
        predicted: what was predicted of it by name, uncalibrated, with 90 % intervals; `None` where nothing was.
    """

    number: int
    kind: Kind
    state: State
    config: Config
    outcome: Outcome | None = None
    started: datetime | None = None
    ended: datetime | None = None
    fault: str = ""
    predicted: Mapping[str, Estimate] | None = None

    @property
    def observed(self) -> Measurement | None:
        """The outcome where anything was measured to speak of, be the load ended early."""
        return self.outcome if isinstance(self.outcome, Measurement) else None

    @property
    def measurement(self) -> Measurement | None:
        """The outcome where it is a measurement to its end."""
        return self.observed if self.ended_early is None else None

    @property
    def ended_early(self) -> EarlyEnd | None:
        """That its load was ended early, as it could not matter any more."""
        return None if self.observed is None else self.observed.ended_early

    @property
    def failure(self) -> Infeasible | None:
        """The outcome where the configuration is infeasible."""
        return self.outcome if isinstance(self.outcome, Infeasible) else None

    @property
    def phases(self) -> Phases:
        """Where its wall time went."""
        return self.outcome.phases if self.outcome is not None else Phases()

    def objective_values(self, objectives: Sequence[Objective]) -> list[float] | None:
        """The objectives' values, or bounds where the load was ended early; `None` unless it has every one of them."""
        measurement = self.observed
        if measurement is None:
            return None
        values = [measurement.value(objective.metric) for objective in objectives]
        return [value for value in values if value is not None] if None not in values else None

    def excess(self, slos: Iterable[Slo]) -> dict[str, float]:
        """`Slo.excess` by bound, at least that where the load was ended early; empty where nothing was measured."""
        measurement = self.observed
        return {} if measurement is None else excesses(slos, measurement.values())

    def holds(self, slos: Iterable[Slo]) -> bool:
        """Whether it was measured and every bound held."""
        return self.measurement is not None and all(value <= 0 for value in self.excess(slos).values())
