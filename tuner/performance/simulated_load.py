"""What a simulated load showed."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.metric import MetricRef


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedLoad:
    """What a load showed between warm-up and end.

    Attributes:
        metrics: every one that can be told, without costs.
        sent, completed: requests that arrived, and that were answered, in that time.
        preemptions: requests thrown out of the cache and computed again.
        refused: requests that can never fit.
    """

    metrics: dict[MetricRef, float]
    sent: int
    completed: int
    preemptions: int = 0
    refused: int = 0
