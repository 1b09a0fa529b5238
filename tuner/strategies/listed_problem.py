"""Search over a list of configurations: what a strategy is told, asked and answered.

A recorded grid, or the candidates of a real study, is a list; a strategy names the row it wants next and
is told what that configuration did. Nothing else of the target is visible to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError
from tuner.metric import Direction
from tuner.parameter import Scale, Value

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class ListedParameter:
    """A column of the list: its name, and how distances between its values are measured.

    Attributes:
        values: that it may have in a list which is a part of a space; they span the scale.
    """

    name: str
    scale: Scale
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A constraint: the metric `name` must be at most, or at least, `limit`."""

    name: str
    limit: float
    at_most: bool = True

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound; NaN is not."""
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a configuration did.

    Attributes:
        ran: false when there is only the fact that it failed.
        objective: in the metric's own unit and direction; `None` when it did not run.
        constraints: one value per bound; empty when it did not run.
        noise: standard error of the logarithm of the metrics, where the trial knows it.
        sides: of the objective and each constraint, 1 where the number is at least what is said (the trial ended
            early), -1 where it is at most that, else 0; empty where all are exact.
    """

    ran: bool
    objective: float | None = None
    constraints: tuple[float, ...] = ()
    noise: float | None = None
    sides: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierTask:
    """What an earlier task left behind: its whole table, or the trials of one study.

    Attributes:
        name: of the task.
        rows: one tuple of values per trial, in the order of the problem's parameters; repeats allowed.
        ran: shape (n,).
        objective: shape (n,), NaN where it did not run.
        constraints: shape (n, bounds), NaN where unknown.
        features: numbers that describe the task (size of its model…), by name.
    """

    name: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    ran: BoolArray
    objective: FloatArray
    constraints: FloatArray
    features: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.rows)
        if not (len(self.ran) == len(self.objective) == len(self.constraints) == count):
            raise UsageError(
                f"Earlier task {'/'.join(self.name)!r} has {count} rows, {len(self.ran)} outcomes, "
                f"{len(self.objective)} objectives and {len(self.constraints)} constraint rows. "
                "Give one of each per row."
            )

    @property
    def compares(self) -> bool:
        """Whether it tells one configuration from another; of two measured ones or more, all may have been the same."""
        measured = self.objective[self.ran & np.isfinite(self.objective)]
        return len(measured) < 2 or float(np.ptp(measured)) > _ROUNDING * float(np.abs(measured).max())

    def holds(self, bounds: Sequence[Bound]) -> BoolArray:
        """Which rows ran and were within every bound."""
        held = self.ran & np.isfinite(self.objective)
        for column, bound in enumerate(bounds):
            values = self.constraints[:, column]
            with np.errstate(invalid="ignore"):
                held = held & (values <= bound.limit if bound.at_most else values >= bound.limit)
        return held

    def gains(self, direction: Direction, bounds: Sequence[Bound]) -> FloatArray:
        """The objective signed so that more is better; minus infinity where the row does not hold."""
        signed = self.objective if direction is Direction.MAXIMIZE else -self.objective
        return np.where(self.holds(bounds), signed, -np.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedProblem:
    """Everything that a strategy may know before its first trial.

    Attributes:
        parameters: the columns.
        rows: the configurations, distinct.
        direction: of the objective.
        bounds: all must hold.
        earlier: what earlier tasks left behind; may be empty.
        features: numbers that describe the target, by name, as in `EarlierTask.features`.
        descriptors: by parameter name, by value: numbers that describe the value (a GPU type's memory,
            bandwidth, price), the same length for every described value of one parameter.
    """

    parameters: tuple[ListedParameter, ...]
    rows: tuple[tuple[Value, ...], ...]
    direction: Direction
    bounds: tuple[Bound, ...] = ()
    earlier: tuple[EarlierTask, ...] = ()
    features: Mapping[str, float] = field(default_factory=dict)
    descriptors: Mapping[str, Mapping[Value, tuple[float, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("The problem lists no configuration. Give at least one.")
        if any(len(row) != len(self.parameters) for row in self.rows):
            raise UsageError(f"A configuration does not have {len(self.parameters)} values, one per parameter.")

    def gain(self, answer: Answer) -> float:
        """The answered objective signed so that more is better; minus infinity where it does not hold or is a bound."""
        if (
            any(answer.sides)
            or not answer.ran
            or answer.objective is None
            or len(answer.constraints) != len(self.bounds)
        ):
            return -float("inf")
        if not all(bound.holds(value) for bound, value in zip(self.bounds, answer.constraints, strict=True)):
            return -float("inf")
        return answer.objective if self.direction is Direction.MAXIMIZE else -answer.objective


class ListedStrategy(Protocol):
    """Names the row to try next, and learns from the answer.

    Worked example: `ask()` -> 4; `tell(4, answer)`; `ask()` -> 9; `ask()` -> 2 (two trials in flight);
    `tell(2, …)`; `tell(9, …)`. Answers may arrive in any order; every asked row is told once.
    """

    def ask(self) -> int:
        """Index of the row to try next."""
        ...

    def tell(self, row: int, answer: Answer) -> None:
        """What the configuration of an asked row did."""
        ...
