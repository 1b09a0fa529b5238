"""What a strategy may know of the earlier tasks when a recorded task is replayed."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuner.bench.recorded_task import RecordedTask
from tuner.errors import UsageError
from tuner.strategies.listed_problem import EarlierTask, FloatArray


class HistoryKind(enum.Enum):
    """Whole tables, the logs of one's own studies, or nothing."""

    FULL = "full"
    LOGS = "logs"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class History:
    """A kind of history; `logs:15` keeps 15 trials of each earlier study."""

    kind: HistoryKind
    trials: int = 0

    def __str__(self) -> str:
        return f"logs:{self.trials}" if self.kind is HistoryKind.LOGS else self.kind.value

    @classmethod
    def parse(cls, text: str) -> History:
        """The history that `full`, `none` or `logs:15` names.

        Raises:
            UsageError: it is none of these.
        """
        match = re.fullmatch(r"(full|none)|logs:([1-9]\d{0,5})", text)
        if match is None:
            raise UsageError(f"{text!r} is no history. Write full, none or logs:15.")
        if match.group(1):
            return cls(HistoryKind(match.group(1)))
        return cls(HistoryKind.LOGS, int(match.group(2)))


def unlike_half(target: RecordedTask, earlier: Sequence[RecordedTask]) -> tuple[RecordedTask, ...]:
    """The half of the earlier tasks that is least similar to the target, at least one.

    Similarity is the rank correlation of the objective over shared configurations; the harness may look at
    the target for that, a strategy may not.
    """
    ranked = sorted(earlier, key=lambda task: rank_agreement(target, task))
    return tuple(ranked[: max(1, len(ranked) // 2)])


def rank_agreement(one: RecordedTask, other: RecordedTask) -> float:
    """Spearman's correlation of two tasks' objectives over shared configurations; 0 with fewer than three."""
    left, right = _medians(one), _medians(other)
    shared = [row for row in left if row in right]
    if len(shared) < 3:
        return 0.0
    first = _rank(np.array([left[row] for row in shared]))
    second = _rank(np.array([right[row] for row in shared]))
    spread = float(first.std() * second.std())
    return 0.0 if spread == 0.0 else float(((first - first.mean()) * (second - second.mean())).mean() / spread)


def _medians(task: RecordedTask) -> dict[tuple[object, ...], float]:
    found: dict[tuple[object, ...], float] = {}
    for configuration, rows in zip(task.configurations, task.repeats, strict=True):
        value = float(np.median(task.objective[list(rows)]))
        if np.isfinite(value):
            found[tuple(configuration)] = value
    return found


def _rank(values: FloatArray) -> FloatArray:
    return np.argsort(np.argsort(values)).astype(float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What is added to the recorded answers, of the target and of the earlier tasks alike.

    Attributes:
        noise: standard deviation of the logarithm of a factor on every metric.
        failures: probability that a trial fails for no reason of its configuration's.
    """

    noise: float = 0.0
    failures: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise < 10.0 or not 0.0 <= self.failures < 1.0:
            raise UsageError(
                f"noise {self.noise} and failures {self.failures} cannot be added. "
                "Write shares, for example 0.05 and 0.1."
            )

    def on_table(self, task: EarlierTask, generator: np.random.Generator) -> EarlierTask:
        """A disturbed copy of an earlier task's table."""
        if not self.noise and not self.failures:
            return task
        count, bounds = task.constraints.shape
        ran = task.ran & (generator.random(count) >= self.failures)
        objective = task.objective * np.exp(self.noise * generator.standard_normal(count))
        constraints = task.constraints * np.exp(self.noise * generator.standard_normal((count, bounds)))
        return EarlierTask(
            name=task.name,
            rows=task.rows,
            ran=ran,
            objective=np.where(ran, objective, np.nan),
            constraints=np.where(ran[:, None], constraints, np.nan),
            features=task.features,
        )
