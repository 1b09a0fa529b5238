"""Ways in which one run may have gone that its row does not tell apart, and the point forecast under that doubt.

In benchmarks of requests of one length an engine has a place for every client or one less
(`tuner/performance/steady_state.py`); times differ several times over. The forecast y with the least expected
relative error E|y / Y - 1| is the median of the density p(Y) / Y: of k ways with probabilities p_c and times m_c,
each as uncertain as a lognormal of deviation sigma,

    sum_c (p_c / m_c) Phi((log y - log m_c) / sigma) = 1/2 sum_c p_c / m_c

With one way it is that way's time. Where ways are equally likely it leans to the shorter time: too long a
forecast may be off by any factor, too short a one by no more than all of it (Gneiting 2011, Making and
evaluating point forecasts, Theorem 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import ndtr

from tuner.performance.grid import Array

_BLUR: Final = 0.05
"""Sigma above; it only smooths the change from one way to the other."""

_BISECTIONS: Final = 40

_UNLIKELY: Final = 0.05
"""A way of less probability does not widen a 90 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One way in which a run may have gone; times in s.

    Attributes:
        probability: of it.
        ttft_s, tpot_s: means under it.
    """

    probability: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ways:
    """Of n runs, each with the same number of ways.

    Attributes:
        odds: probabilities, shape (ways, n).
        ttft_s, tpot_s: means under each way, the same shape, s.
    """

    odds: Array
    ttft_s: Array
    tpot_s: Array

    def range(self, times: Array) -> Array:
        """Shortest and longest of `times` under the ways that are not unlikely, shape (2, n)."""
        likely = self.odds >= _UNLIKELY
        return np.array([np.where(likely, times, np.inf).min(axis=0), np.where(likely, times, 0.0).max(axis=0)])

    def told(self) -> list[tuple[Behaviour, ...]]:
        """Each run's ways."""
        columns = zip(self.odds.T.tolist(), self.ttft_s.T.tolist(), self.tpot_s.T.tolist(), strict=True)
        return [
            tuple(Behaviour(probability=odds, ttft_s=ttft, tpot_s=tpot) for odds, ttft, tpot in zip(*each, strict=True))
            for each in columns
        ]


def forecast(times: Array, probabilities: Array) -> Array:
    """The time with the least expected relative error.

    Args:
        times: under each way, shape (ways, n), > 0.
        probabilities: of the ways, the same shape.

    Returns:
        Shape (n,), between the shortest and the longest time.
    """
    centres = np.log(times)
    weights = probabilities / times
    weights = weights / weights.sum(axis=0)
    low, high = centres.min(axis=0), centres.max(axis=0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        below = (weights * ndtr((middle - centres) / _BLUR)).sum(axis=0) < 0.5
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.asarray(np.exp((low + high) / 2.0))
