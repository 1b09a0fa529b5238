"""Prospects: what more trials may bring, as a strategy believes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tuner.parameter import Config

MOST_GAIN: Final = 5.0
"""Largest logarithm of a gain that a draw counts for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What more trials may bring, for one objective.

    Attributes:
        best: the incumbent, a measured configuration.
        expected_gain: what one more trial gains, as a share of the incumbent: the largest of exp(E[L]) - 1 over the
            untried configurations, where L = log(value / incumbent), better being more, is 0 where a draw is no better
            or does not hold the SLOs, and at most `MOST_GAIN`. A mean of ratios would be led by the few largest draws:
            of a wide belief it says how wide it is. (Of an objective that may be 0 or less, the mean of differences.)
        within: probability that no configuration that holds the SLOs is better than `best` by more than `tolerance`.
        tolerance: relative.
        weights: by earlier task, the probability that this one goes as that one did; empty without any.
    """

    best: Config
    expected_gain: float
    within: float
    tolerance: float
    weights: Mapping[str, float] = field(default_factory=dict)
