"""Predicted metrics of many configurations, with how far each may be off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.metric import MetricRef
from tuner.performance.grid import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMetrics:
    """Of n configurations.

    Attributes:
        values: by metric, shape (n,), in base units; NaN where a configuration has none.
        spreads: by metric, half the width of the 90 % interval as a logarithm, shape (n,).
        refusals: per configuration why it cannot run, empty where it can.
        origin: where the numbers come from, for people.
    """

    values: Mapping[MetricRef, Array]
    spreads: Mapping[MetricRef, Array]
    refusals: tuple[str, ...]
    origin: str
