"""Objectives: what the cheapest or best configuration is best at."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.metric import Direction, MetricRef


@dataclass(frozen=True, slots=True)
class Objective:
    """A metric to be made as good as possible; its direction is the metric's."""

    metric: MetricRef

    def __str__(self) -> str:
        return str(self.metric)

    @property
    def direction(self) -> Direction:
        """Which way is better."""
        return self.metric.metric.direction

    def gain(self, value: float) -> float:
        """`value`, signed so that more is better: what strategies maximise."""
        return value if self.direction is Direction.MAXIMIZE else -value

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better than `than`."""
        return self.gain(value) > self.gain(than)

    def ratio(self, value: float, baseline: float) -> float:
        """How many times better `value` is than `baseline`: above 1 is better, whichever the direction."""
        if self.direction is Direction.MAXIMIZE:
            return value / baseline if baseline else float("inf")
        return baseline / value if value else float("inf")
