"""Prospects: what more trials may bring, as a strategy believes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tuner.parameter import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospects:
    """What more trials may bring, for one objective.

    Attributes:
        best: the incumbent, a measured configuration.
        expected_gain: largest expected improvement over it of any untried configuration, as a share of it, its
            probability of holding the SLOs taken into account.
        within: probability that no configuration that holds the SLOs is better than `best` by more than `tolerance`.
        tolerance: relative.
        weights: by earlier task, the probability that this one goes as that one did; empty without any.
    """

    best: Config
    expected_gain: float
    within: float
    tolerance: float
    weights: Mapping[str, float] = field(default_factory=dict)
