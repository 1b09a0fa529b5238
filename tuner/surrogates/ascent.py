"""The most probable hyperparameters of a Gaussian process on a grid, compiled: the way there is many short steps.

| symbol | shape | meaning |
| --- | --- | --- |
| theta | (d + 3,) | hyperparameters, see `hyperparameters` |
| f, g | , (d + 3,) | minus the log density, up to a constant, and its gradient |
| B | (d + 3, d + 3) | approximation of the inverse Hessian: the prior's to begin with |
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tuner.surrogates.compiled import compiled
from tuner.surrogates.pairs import log_likelihood

_ENOUGH: Final = 1e-4
"""Share of the decrease that the gradient promises for which a step is taken (Nocedal and Wright 2006, Eq. 3.4)."""
_HALVINGS: Final = 20


@compiled
def negative(pairs: Any, values: Any, center: Any, deviation: Any, theta: Any) -> Any:
    """f and g.

    Args:
        pairs: `Pairs.arrays` of the points.
        values: measured there, centred.
        center, deviation: of theta's normal prior.
        theta: hyperparameters.
    """
    value, gradient = log_likelihood(*pairs, theta, values)
    standard = (theta - center) / deviation
    return 0.5 * np.sum(standard * standard) - value, standard / deviation - gradient


@compiled
def descend(pairs: Any, values: Any, center: Any, deviation: Any, farthest: Any, settled: Any, steps: Any) -> Any:
    """Theta of a local minimum of f that quasi-Newton steps from the prior's centre lead to.

    (Broyden, Fletcher, Goldfarb and Shanno; Nocedal and Wright 2006, Algorithm 6.1.)

    Args:
        pairs, values, center, deviation: as of `negative`.
        farthest: prior deviations that theta may stray from the prior's centre.
        settled: relative decrease below which it ends.
        steps: at most.
    """
    count = center.shape[0]
    low, high = center - farthest * deviation, center + farthest * deviation
    prior = np.diag(deviation * deviation)
    theta, inverse = center.copy(), prior.copy()
    f, g = negative(pairs, values, center, deviation, theta)
    for _ in range(steps):
        step = -np.dot(inverse, g)
        if np.sum(step * g) >= 0.0:
            inverse = prior.copy()
            step = -np.dot(inverse, g)
        # Far from the prior's centre its curvature is no guide: one deviation at a time.
        step *= min(1.0, 1.0 / np.max(np.abs(step) / deviation))
        reached, f_there, g_there = theta, f, g
        for _ in range(_HALVINGS):
            reached = np.minimum(np.maximum(theta + step, low), high)
            f_there, g_there = negative(pairs, values, center, deviation, reached)
            if f_there <= f + _ENOUGH * np.sum(g * (reached - theta)):
                break
            step *= 0.5
        if f_there > f:
            break
        moved, turned = reached - theta, g_there - g
        gained, theta, f, g = f - f_there, reached, f_there, g_there
        if gained <= settled * max(abs(f), abs(f + gained), 1.0):
            break
        curvature = np.sum(moved * turned)
        if curvature > 0.0:
            left = np.eye(count) - np.outer(moved, turned) / curvature
            inverse = np.dot(np.dot(left, inverse), left.T) + np.outer(moved, moved) / curvature
    return theta
