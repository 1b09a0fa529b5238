"""Which points fail to run, learned from those that did and those that did not.

A Gaussian process classifier on the grid with fixed hyperparameters, as failures are too few to learn them from.
The posterior is found by expectation propagation, not by Laplace's approximation, which leaves a point that has
failed once with a chance of one in four to run. Two kinds of failure:

* *exhausted*: some resource ran out. There is a trend: more of something needs more, along directions that
  the failures themselves reveal; the latent function has a linear part.
* *local*: everything else. Only points like the failed ones are suspect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from tuner.surrogates.acquisition import log_probability
from tuner.surrogates.compiled import compiled
from tuner.surrogates.kernel import Array, Covariance, Grid, Levels, Points

_BASE: Final = -2.5
"""Of the latent function where nothing is known."""
_BASE_VARIANCE: Final = 1.0
_LOCAL_VARIANCE: Final = 4.0
_TREND_VARIANCE: Final = 128.0
"""Of the latent slope along an axis: steep, as what runs out does so at a sharp edge."""
_LENGTH_SCALE: Final = 0.5
"""Of the local part on one axis; grows with the square root of the number of axes."""
_SWEEPS: Final = 20
_SETTLED: Final = 1e-3
_LOG_SQRT_TWO_PI: Final = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF: Final = math.sqrt(0.5)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FailureModel:
    """Probability that a point fails in one way; make one with `fit`.

    A point fails when a latent function plus standard normal noise is above zero.

    Attributes:
        covariance: of the latent function, between any points and what was tried.
        variances: table whose rows add up to its variance at a point, shape (R,).
        weights: posterior mean as a combination of covariances, shape (n,).
        whitener: the variance that is explained is the squared norm of covariances times this, shape (n, n).
    """

    covariance: Covariance
    variances: Array
    weights: Array
    whitener: Array

    @classmethod
    def fit(cls, grid: Grid, levels: Levels, failed: npt.NDArray[np.bool_], *, trend: bool) -> FailureModel:
        """Learns from what was tried.

        Args:
            grid: the axes.
            levels: shape (n, d), n >= 1.
            failed: shape (n,), which of them failed in this way.
            trend: whether there is a resource that runs out.
        """
        latent = _latent(grid, levels, trend)
        covariance = latent.at(Points(grid, levels))[0]
        precisions, shifts = _sites(covariance, np.where(failed, 1.0, -1.0))
        root, factor = _factor(covariance, precisions)
        solved = scipy.linalg.cho_solve((factor, True), root * (covariance @ shifts))
        whitener = scipy.linalg.solve_triangular(factor, np.diag(root), lower=True).T
        return cls(
            covariance=latent,
            variances=_variances(grid, trend),
            weights=shifts - root * solved,
            whitener=whitener,
        )

    def log_success(self, points: Points) -> torch.Tensor:
        """Logarithm of the probability of not failing in this way, shape (N,)."""
        means, explained = self.covariance.projected(
            points, self.weights[None], self.whitener[None], np.zeros((1, len(self.weights)))
        )
        variances = np.maximum(points.sums(self.variances) - explained[0], 0.0)
        return log_probability(torch.from_numpy(-(means[0] + _BASE) / np.sqrt(1.0 + variances)))


@compiled
def _sites(covariance: Any, signs: Any) -> Any:
    """Expectation propagation (Rasmussen and Williams 2006, Algorithm 3.5).

    Args:
        covariance: of the latent function, shape (n, n).
        signs: 1 where the latent function was above zero, -1 where below, shape (n,).

    Returns:
        Precisions of the sites, and precisions times means, shape (n,) each.
    """
    n = signs.shape[0]
    precisions, shifts = np.zeros(n), np.zeros(n)
    posterior = covariance.copy()
    for _ in range(_SWEEPS):
        before = shifts.copy()
        for i in range(n):
            cavity_precision = 1.0 / posterior[i, i] - precisions[i]
            cavity_shift = np.dot(posterior[i], shifts) / posterior[i, i] - shifts[i]
            variance, center = 1.0 / cavity_precision, cavity_shift / cavity_precision
            z = signs[i] * (center + _BASE) / math.sqrt(1.0 + variance)
            hazard = _hazard(z)
            moment = center + signs[i] * variance * hazard / math.sqrt(1.0 + variance)
            matched = variance - variance**2 * hazard * (z + hazard) / (1.0 + variance)
            change = max(1.0 / matched - cavity_precision, 0.0) - precisions[i]
            precisions[i] += change
            shifts[i] = moment / matched - cavity_shift
            column = posterior[:, i].copy()
            share = change / (1.0 + change * column[i])
            for a in range(n):
                for b in range(n):
                    posterior[a, b] -= share * column[a] * column[b]
        # Afresh, as the updates' rounding errors add up: K - K S^1/2 (I + S^1/2 K S^1/2)^-1 S^1/2 K.
        root = np.sqrt(precisions)
        inner = np.eye(n) + covariance * root.reshape(n, 1) * root
        posterior = covariance - np.dot(covariance * root, np.linalg.solve(inner, covariance * root.reshape(n, 1)))
        if np.abs(shifts - before).max() < _SETTLED:
            break
    return precisions, shifts


@compiled
def _hazard(z: Any) -> Any:
    """phi(z) / Phi(z); where Phi would underflow, its leading order."""
    if z < -30.0:
        return -z - 1.0 / z
    return math.exp(-0.5 * z * z - _LOG_SQRT_TWO_PI) / (0.5 * math.erfc(-z * _SQRT_HALF))


def _factor(covariance: Array, precisions: Array) -> tuple[Array, Array]:
    """Square roots S^1/2 of the precisions, and the Cholesky factor of I + S^1/2 K S^1/2."""
    root = np.sqrt(precisions)
    factor: Array = scipy.linalg.cholesky(np.eye(len(root)) + np.outer(root, root) * covariance, lower=True)
    return root, factor


def _latent(grid: Grid, levels: Levels, trend: bool) -> Covariance:
    """Covariance of the latent function between any points and a few."""
    local = grid.tables(levels, np.full((1, grid.dimensions), _LENGTH_SCALE * math.sqrt(grid.dimensions)))
    trends = _TREND_VARIANCE * grid.linear_tables(levels)[None] if trend else np.zeros_like(local)
    # What is the same everywhere joins product and sum once, with the first axis.
    local[:, : grid.axes[0].size] *= _LOCAL_VARIANCE
    trends[:, : grid.axes[0].size] += _BASE_VARIANCE
    return Covariance(products=local, sums=trends)


def _variances(grid: Grid, trend: bool) -> Array:
    """Table of the latent function's variance, shape (R,)."""
    table = _TREND_VARIANCE * grid.squared_norm_table() if trend else np.zeros(len(grid.owners))
    # What is the same everywhere joins the sum once, with the first axis.
    table[: grid.axes[0].size] += _LOCAL_VARIANCE + _BASE_VARIANCE
    return table
