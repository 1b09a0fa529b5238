"""Observations of which nothing around them knows, and which therefore say nothing of what is around them.

A server that breaks down under a load, or a run that something else disturbed, is far from what its neighbours were. A
smooth process takes that for news of them all, and what lies between it and a good configuration is given up. So an
observation may be off by itself,

    y_i = f_i + c_i + e_i,     c_i = 0, but with a probability of 1/50 c_i ~ N(0, 1),

in units of the metric's spread: a contaminated normal error (Tukey 1960), but c_i is a part of the configuration, which
is as it was seen. Which c_i are not 0 is decided one after another, as long as that makes what was observed likelier.

| symbol | shape | meaning |
| --- | --- | --- |
| t | | observations |
| R | (t, t) | Cholesky factor of their covariance C |
| a | (t,) | R^-1 (y - m) |

With P = C^-1 and r = P (y - m), a variance of 1 more at i changes the log density by

    r_i^2 / (2 (1 + P_ii)) - log(1 + P_ii) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.linalg.lapack import dtrtri

from tuner.surrogates.hierarchical_kernel import FloatArray

VARIANCE: Final = 1.0
"""Of what an outlier is off by."""
LOG_ODDS: Final = math.log(0.02 / 0.98)
"""Of being one."""
_LEAST: Final = 3
"""Observations among which one may be an outlier: of two that disagree, nothing says which."""


def most_outliers(observations: int) -> int:
    """How many may be outliers: hardly more than a third, or they are the rule."""
    return observations // 3 + 1 if observations >= _LEAST else 0


def likeliest_outlier(root: FloatArray, whitened: FloatArray, side: int, known: Sequence[int]) -> int | None:
    """The observation that is likeliest one more outlier, or `None` where none is likelier one than not.

    Args:
        root, whitened: R and a, with what was added to the variances of those known.
        side: 1 where only one above what is expected of it is an outlier, -1 below, 0 either; one on the other side is
            believed, rather than those that it contradicts set apart.
        known: outliers found before.
    """
    inverse, _ = dtrtri(root, lower=True)
    precision = 1.0 + VARIANCE * np.einsum("ij,ij->j", inverse, inverse)
    pull = whitened @ inverse
    gain = 0.5 * VARIANCE * pull**2 / precision - 0.5 * np.log(precision) + LOG_ODDS
    gain[list(known)] = -np.inf
    likeliest = int(np.argmax(gain))
    return likeliest if gain[likeliest] > 0.0 and side * pull[likeliest] >= 0.0 else None
