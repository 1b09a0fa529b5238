"""Metrics: what is measured of a server, by name, unit and better direction.

Definitions (a request's clock starts at its *intended* send time):

* `latency`: until the last byte of the answer, s.
* `ttft`: until the first token (or first piece of a streamed answer), queueing included, s.
* `tpot`: (end-to-end - TTFT) / (output tokens - 1), one number per request, undefined below two tokens, s.
* `itl`: the population of single gaps between successive pieces that carry tokens, s.
* `throughput`: completed requests/s; `goodput`: completed requests/s that met every per-request SLO bound.
* `error_rate`: requests that failed or timed out, of all sent.
* `max_arrival_rate`: the highest open-loop rate at which the SLO still held.
* `cost_per_million_requests`, `cost_per_million_tokens`: price of the device over what it served
  (output tokens; at the highest rate that holds the SLO where that is searched).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.errors import UnitError, UnknownNameError, did_you_mean
from tuner.units import Dimension, format_seconds


class Direction(enum.Enum):
    """Which way is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


class Metric(enum.Enum):
    """A metric by the name users write."""

    LATENCY = "latency"
    TTFT = "ttft"
    TPOT = "tpot"
    ITL = "itl"
    THROUGHPUT = "throughput"
    GOODPUT = "goodput"
    OUTPUT_THROUGHPUT = "output_throughput"
    TOTAL_THROUGHPUT = "total_throughput"
    ERROR_RATE = "error_rate"
    MAX_ARRIVAL_RATE = "max_arrival_rate"
    COST_PER_HOUR = "cost_per_hour"
    COST_PER_MILLION_REQUESTS = "cost_per_million_requests"
    COST_PER_MILLION_TOKENS = "cost_per_million_tokens"

    @property
    def dimension(self) -> Dimension:
        """What its values measure."""
        return _DIMENSIONS.get(self, Dimension.TIME)

    @property
    def is_population(self) -> bool:
        """Whether it has one value per request (or gap), so that a statistic must be named."""
        return self in POPULATIONS

    @property
    def direction(self) -> Direction:
        """Which way is better."""
        return Direction.MAXIMIZE if self in _MAXIMIZED else Direction.MINIMIZE


POPULATIONS = frozenset({Metric.LATENCY, Metric.TTFT, Metric.TPOT, Metric.ITL})
TOKEN_METRICS = frozenset(
    {
        Metric.TTFT,
        Metric.TPOT,
        Metric.ITL,
        Metric.OUTPUT_THROUGHPUT,
        Metric.TOTAL_THROUGHPUT,
        Metric.COST_PER_MILLION_TOKENS,
    }
)
"""Metrics that only an engine with streamed tokens reports."""

_MAXIMIZED = frozenset(
    {Metric.THROUGHPUT, Metric.GOODPUT, Metric.OUTPUT_THROUGHPUT, Metric.TOTAL_THROUGHPUT, Metric.MAX_ARRIVAL_RATE}
)
_DIMENSIONS = {
    Metric.THROUGHPUT: Dimension.RATE,
    Metric.GOODPUT: Dimension.RATE,
    Metric.MAX_ARRIVAL_RATE: Dimension.RATE,
    Metric.OUTPUT_THROUGHPUT: Dimension.TOKEN_RATE,
    Metric.TOTAL_THROUGHPUT: Dimension.TOKEN_RATE,
    Metric.ERROR_RATE: Dimension.SHARE,
    Metric.COST_PER_HOUR: Dimension.PRICE,
    Metric.COST_PER_MILLION_REQUESTS: Dimension.MONEY,
    Metric.COST_PER_MILLION_TOKENS: Dimension.MONEY,
}

STANDARD_STATISTICS = ("mean", "p50", "p90", "p95", "p99")
"""Statistics that every measurement reports of every population."""

_TERM = re.compile(r"^\s*(?:([a-zA-Z_][\w.]*)\s*\(\s*([a-zA-Z_]\w*)\s*\)|([a-zA-Z_]\w*))\s*$")
_PERCENTILE = re.compile(r"^p(\d{1,2}(?:\.\d+)?)$")


@dataclass(frozen=True, slots=True)
class MetricRef:
    """A metric, and the statistic of it where it is a population: `p99(latency)`, `throughput`.

    Attributes:
        metric: which.
        statistic: `mean`, `p50`, `p99.9`…; `None` exactly for metrics that are no population.
    """

    metric: Metric
    statistic: str | None = None

    def __post_init__(self) -> None:
        if self.metric.is_population:
            if self.statistic is None:
                raise UnitError(f"{self.metric.value!r} needs a statistic. Write for example p99({self.metric.value}).")
            if self.statistic != "mean" and self.percentile is None:
                raise UnitError(
                    f"{self.statistic!r} is no statistic. Write mean, p50, p99 or p99.9: p99({self.metric.value})."
                )
        elif self.statistic is not None:
            raise UnitError(f"{self.metric.value!r} is one number per trial. Write it without {self.statistic}(...).")

    def __str__(self) -> str:
        return self.metric.value if self.statistic is None else f"{self.statistic}({self.metric.value})"

    @property
    def percentile(self) -> float | None:
        """99.0 for `p99`; `None` for the mean and for metrics that are no population."""
        match = _PERCENTILE.match(self.statistic or "")
        if match is None or not 0.0 < float(match.group(1)) < 100.0:
            return None
        return float(match.group(1))

    @classmethod
    def parse(cls, text: str) -> MetricRef:
        """The metric that `text` names.

        Raises:
            UnitError: it is no metric expression, or lacks or should not have a statistic.
            UnknownNameError: no metric has that name.
        """
        match = _TERM.match(text)
        if match is None:
            raise UnitError(f"{text!r} names no metric. Write for example p99(latency) or throughput.")
        statistic, inner, plain = match.groups()
        name = inner or plain
        try:
            metric = Metric(name)
        except ValueError:
            raise UnknownNameError("metric", name, [known.value for known in Metric]) from None
        return cls(metric, statistic)

    def format(self, value: float) -> str:
        """A value of this metric for a person, with its unit."""
        dimension = self.metric.dimension
        if dimension is Dimension.TIME:
            return format_seconds(value)
        if dimension is Dimension.SHARE:
            return f"{100 * value:.3g}%" if value >= 1e-6 else "0%"
        if dimension in (Dimension.MONEY, Dimension.PRICE):
            per_hour = "/h" if dimension is Dimension.PRICE else ""
            return f"${value:.4g}{per_hour}"
        unit = "rps" if dimension is Dimension.RATE else "tokens/s"
        return f"{value:.4g} {unit}"


def unreported(refs: Iterable[MetricRef], reported: frozenset[Metric], engine: str) -> list[tuple[MetricRef, str]]:
    """The metrics of `refs` that an engine does not report, each with what to write instead."""
    names = [metric.value for metric in reported]
    return [
        (ref, f"Engine {engine!r} does not report {ref.metric.value!r}. {did_you_mean(ref.metric.value, names)}")
        for ref in refs
        if ref.metric not in reported
    ]
