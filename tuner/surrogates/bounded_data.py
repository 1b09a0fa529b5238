"""Training data of a Gaussian process in which some values are bounds."""

from __future__ import annotations

from typing import Final

import numpy as np

from tuner.surrogates.censoring import Sides, pseudo_observations
from tuner.surrogates.gaussian_process import GaussianProcess, Mean
from tuner.surrogates.kernel import Array, Grid, Levels

_NOISE: Final = 0.05**2
"""Variance of the logarithm of what a bound bounds."""
_SILENT: Final = 100.0
"""Variance of a pseudo-observation, in units of the belief's, above which it says nothing."""


def with_bounds(
    grid: Grid, levels: Levels, values: Array, variances: Array, sides: Sides, mean: Mean | None = None
) -> tuple[Levels, Array, Array]:
    """The data with Gaussian pseudo-observations in place of bounds; those that say nothing are left out.

    They are what the bounds make of a process with the most probable hyperparameters of the exact values. Where there
    is no exact value, bounds are taken at their word.

    Args:
        grid, mean: of the process.
        levels: shape (n, d).
        values, variances: shape (n,), logarithms and the variances of their noise.
        sides: 0 exact, 1 at least the value, -1 at most, shape (n,).
    """
    exact, bound = sides == 0, np.flatnonzero(sides)
    if not len(bound) or not exact.any():
        return levels, values, variances
    process = GaussianProcess.fit(grid, levels[exact], values[exact], variances[exact], mean=mean)
    means, covariances = (each[0].numpy() for each in process.joint_posterior(levels[bound]))
    found = pseudo_observations(means, covariances, values[bound], np.full(len(bound), _NOISE), sides[bound])
    telling = found.variances < _SILENT * np.diag(covariances)
    kept = np.concatenate([np.flatnonzero(exact), bound[telling]])
    return (
        levels[kept],
        np.concatenate([values[exact], found.values[telling]]),
        np.concatenate([variances[exact], found.variances[telling]]),
    )
