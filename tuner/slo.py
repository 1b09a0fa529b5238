"""Service-level objectives: bounds on metrics, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tuner.errors import UnitError
from tuner.metric import Direction, MetricRef
from tuner.units import Dimension, parse_quantity

_LINE = re.compile(r"^(.*?)(<=|>=|<|>|==|=|≤|≥)(.*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """A bound on a metric: `p99(latency) <= 50 ms`.

    Attributes:
        metric: what is bounded.
        bound: in the metric's base unit (seconds, requests/s, a ratio…).
        at_most: true for `<=`, false for `>=`.
    """

    metric: MetricRef
    bound: float
    at_most: bool = True

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.at_most else '>='} {self.metric.format(self.bound)}"

    @classmethod
    def parse(cls, text: str) -> Slo:
        """The bound that a line such as `p95(ttft) <= 300 ms` states.

        Raises:
            UnitError: the line does not parse, or its unit does not fit the metric.
            UnknownNameError: no metric has that name.
        """
        match = _LINE.match(text)
        if match is None:
            raise UnitError(f"{text!r} states no bound. Write for example p99(latency) <= 50 ms.")
        left, sign, right = match.groups()
        if sign not in ("<=", ">=", "≤", "≥"):
            raise UnitError(f"{text!r} uses {sign!r}. Write <= or >=.")
        metric = MetricRef.parse(left)
        at_most = sign in ("<=", "≤")
        if at_most != (metric.metric.direction is Direction.MINIMIZE):
            better = "<=" if metric.metric.direction is Direction.MINIMIZE else ">="
            raise UnitError(f"{text!r} bounds {metric} from the wrong side. Write {metric} {better} {right.strip()}.")
        bound = parse_quantity(right.strip(), metric.metric.dimension)
        if bound < 0 or (bound == 0 and metric.metric.dimension is not Dimension.SHARE):
            raise UnitError(f"{text!r} bounds {metric} by {right.strip()}. Write a bound above 0.")
        return cls(metric=metric, bound=bound, at_most=at_most)

    def excess(self, value: float) -> float:
        """How far `value` is beyond the bound, relative to it; the constraint holds when this is <= 0."""
        scale = abs(self.bound) if self.bound else 1.0
        return (value - self.bound) / scale if self.at_most else (self.bound - value) / scale


def excesses(slos: Iterable[Slo], values: Mapping[MetricRef, float]) -> dict[str, float]:
    """`Slo.excess` of every bound whose metric is in `values`, by the bound's text.

    A metric without a value (no request was answered) counts as missed by its whole bound.
    """
    return {str(slo): slo.excess(values[slo.metric]) if slo.metric in values else 1.0 for slo in slos}
