"""History: what a strategy reads from the trials of an Optuna study, and how they are written there.

A trial in the storage:

* `params`: every parameter (`Space.complete`), so that inactive ones stand at their default;
* user attribute `outcome`: the outcome as JSON text; `kind`: `search` or `confirm`;
* constraints: `Slo.excess` by the bound's text;
* COMPLETE with the objectives' values in their own units when it was measured; FAIL when it was
  infeasible, since a complete trial needs values and none are invented; RUNNING while it is pending.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from pydantic import ConfigDict, TypeAdapter

from tuner.early_end import Side
from tuner.errors import SpaceError, UnknownNameError
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Parameter, Scale
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.candidates import Rows, row_of
from tuner.trial import Infeasible, Measurement, Outcome, Reason

OUTCOME: Final = "outcome"
"""User attribute that holds a trial's outcome."""

KIND: Final = "kind"
"""User attribute that says what a trial was for."""


class Kind(enum.Enum):
    """What a trial is for."""

    SEARCH = "search"
    CONFIRM = "confirm"


# JSON has no infinity; they travel as the strings "Infinity" and "NaN".
_OUTCOME: Final[TypeAdapter[Measurement | Infeasible]] = TypeAdapter(
    Measurement | Infeasible, config=ConfigDict(ser_json_inf_nan="strings")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What has been tried, as arrays.

    Attributes:
        metrics: the objectives' and the SLOs' metrics, each once, objectives first.
        rows: shape (n, d), measured configurations, repeats included, oldest first (see `candidates`).
        values: shape (n, len(metrics)), in each metric's own unit; NaN where a trial has none.
        std_errors: shape (n, len(metrics)), standard errors of `values`, 0 where unknown.
        sides: shape (n, len(metrics)), 1 where a trial that ended early says that the number is at least the value, -1
            where it is at most that, else 0.
        failed_rows: shape (f, d), configurations that could not be measured.
        reasons: why, shape (f,).
        pending_rows: shape (p, d), configurations that are running.
        numbers, failed_numbers: of the trials behind `rows` and `failed_rows`.
    """

    metrics: tuple[MetricRef, ...]
    rows: Rows
    values: npt.NDArray[np.float64]
    std_errors: npt.NDArray[np.float64]
    sides: npt.NDArray[np.int8]
    failed_rows: Rows
    reasons: tuple[Reason, ...]
    pending_rows: Rows
    numbers: tuple[int, ...]
    failed_numbers: tuple[int, ...]

    def __len__(self) -> int:
        """Number of trials told, infeasible ones included."""
        return len(self.rows) + len(self.failed_rows)

    @property
    def tried_rows(self) -> Rows:
        """Everything that need not be asked again: measured, failed and pending, shape (m, d)."""
        return np.concatenate([self.rows, self.failed_rows, self.pending_rows])

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Which of `rows` were measured to their end, shape (n,); of others nothing but bounds may be known."""
        return np.asarray((self.sides == 0).all(axis=1))

    def column(self, metric: MetricRef) -> int:
        """Which column of `values` a metric is."""
        return self.metrics.index(metric)


class TrialRows:
    """The configurations of trials as rows; each is read once, as a study's trials are looked at before every question.

    Args:
        space: of the study.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._known: dict[tuple[tuple[str, object], ...], Rows | None] = {}

    def of(self, trial: FrozenTrial) -> Rows | None:
        """The configuration of a trial, shape (d,); `None` when its parameters are incomplete or not of this space."""
        key = tuple(trial.params.items())
        if key not in self._known:
            try:
                self._known[key] = row_of(self.space, self.space.config(trial.params))
            except (SpaceError, UnknownNameError):
                self._known[key] = None
        return self._known[key]


def observations(
    trials: Iterable[FrozenTrial], rows: TrialRows, objectives: Sequence[Objective], slos: Sequence[Slo]
) -> History:
    """The trials of a study as arrays.

    Trials without an outcome (cancelled, or of someone else's making) and trials whose parameters are not of
    this space are left out. A measurement without a finite value of every objective counts as failed by errors.
    """
    metrics = tuple(dict.fromkeys([objective.metric for objective in objectives] + [slo.metric for slo in slos]))
    needed = [objective.metric for objective in objectives]
    measured: list[tuple[int, Rows, Measurement]] = []
    failed: list[tuple[int, Rows, Reason]] = []
    pending: list[Rows] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        row = rows.of(trial)
        if row is None:
            continue
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            pending.append(row)
            continue
        outcome = outcome_of_trial(trial)
        if isinstance(outcome, Infeasible):
            failed.append((trial.number, row, outcome.reason))
        elif outcome is not None:
            values = [outcome.value(metric) for metric in needed]
            if not all(value is not None and math.isfinite(value) for value in values):
                failed.append((trial.number, row, Reason.ERRORS))
            else:
                measured.append((trial.number, row, outcome))
    estimates = [[_told(outcome, metric) for metric in metrics] for _, _, outcome in measured]
    shape = (len(measured), len(metrics))
    return History(
        metrics=metrics,
        rows=_stack([row for _, row, _ in measured], rows.space),
        values=np.array(
            [[np.nan if one is None else one[0] for one in line] for line in estimates], dtype=np.float64
        ).reshape(shape),
        std_errors=np.array(
            [[0.0 if one is None else one[1] for one in line] for line in estimates], dtype=np.float64
        ).reshape(shape),
        sides=np.array([[0 if one is None else one[2] for one in line] for line in estimates], dtype=np.int8).reshape(
            shape
        ),
        failed_rows=_stack([row for _, row, _ in failed], rows.space),
        reasons=tuple(reason for _, _, reason in failed),
        pending_rows=_stack(pending, rows.space),
        numbers=tuple(number for number, _, _ in measured),
        failed_numbers=tuple(number for number, _, _ in failed),
    )


def _told(measurement: Measurement, metric: MetricRef) -> tuple[float, float, int] | None:
    """A metric's value, its standard error, and on which side of it the number lies; `None` where there is none."""
    name = str(metric)
    if measurement.ended_early is not None and (bound := measurement.ended_early.bounds.get(name)) is not None:
        return bound.value, 0.0, 1 if bound.side is Side.AT_LEAST else -1
    estimate = measurement.metrics.get(name)
    return None if estimate is None else (estimate.value, estimate.std_error, 0)


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna knows it, for the storage and its dashboard.

    Numeric parameters become ranges on their scale, so that plots have sensible axes; their listed values
    are a subset of the range, and `Candidates` alone knows which.
    """
    return {parameter.name: _distribution(parameter) for parameter in space.parameters}


def outcome_of_trial(trial: FrozenTrial) -> Outcome | None:
    """The outcome of a trial, or `None` when it has none."""
    text = trial.user_attrs.get(OUTCOME)
    return None if text is None else outcome_from_json(str(text))


def kind_of_trial(trial: FrozenTrial) -> Kind:
    """What a trial was for; a search where nothing is said."""
    return Kind(trial.user_attrs.get(KIND, Kind.SEARCH.value))


def outcome_to_json(outcome: Outcome) -> str:
    """An outcome as JSON text; `outcome_from_json` undoes it."""
    return _OUTCOME.dump_json(outcome).decode()


@functools.lru_cache(maxsize=4096)
def outcome_from_json(text: str) -> Outcome:
    """The outcome that `outcome_to_json` wrote."""
    return _OUTCOME.validate_json(text)


def _stack(rows: Sequence[Rows], space: Space) -> Rows:
    return np.array(rows, dtype=np.int16).reshape(len(rows), len(space.parameters))


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.scale is Scale.CATEGORICAL:
        return CategoricalDistribution(parameter.values)
    low, high = parameter.values[0], parameter.values[-1]
    logarithmic = parameter.scale is Scale.LOG and float(low) > 0
    if all(isinstance(value, int) for value in parameter.values):
        return IntDistribution(int(low), int(high), log=logarithmic)
    return FloatDistribution(float(low), float(high), log=logarithmic)
