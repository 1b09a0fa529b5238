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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special
import torch

from tuner.surrogates.kernel import Array, Grid, Levels, Points, tensor

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FailureModel:
    """Probability that a point fails in one way; make one with `fit`.

    A point fails when a latent function plus standard normal noise is above zero.

    Attributes:
        grid: the axes.
        levels: what was tried, shape (n, d).
        trend: whether the latent function has a linear part.
        weights: posterior mean as a combination of covariances, shape (n,).
        whitener: the variance that is explained is the squared norm of covariances times this, shape (n, n).
    """

    grid: Grid
    levels: Levels
    trend: bool
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
        covariance = _Latent(grid, levels, trend, torch.float64).at(Points(grid, levels)).numpy()
        precisions, shifts = _sites(covariance, np.where(failed, 1.0, -1.0))
        root, factor = _factor(covariance, precisions)
        solved = scipy.linalg.cho_solve((factor, True), root * (covariance @ shifts))
        whitener = scipy.linalg.solve_triangular(factor, np.diag(root), lower=True).T
        return cls(grid=grid, levels=levels, trend=trend, weights=shifts - root * solved, whitener=whitener)

    def log_success(self, chunks: Sequence[Points]) -> torch.Tensor:
        """Logarithm of the probability of not failing in this way, shape (N,); `chunks` hold the N points."""
        dtype = chunks[0].dtype
        latent = _Latent(self.grid, self.levels, self.trend, dtype)
        whitener, weights = tensor(self.whitener, dtype), tensor(self.weights, dtype)
        parts = []
        for points in chunks:
            cross = latent.at(points)
            mean = torch.mv(cross, weights).add_(_BASE)
            variance = (latent.variance(points) - torch.mm(cross, whitener).square_().sum(dim=1)).clamp_(min=0.0)
            parts.append(-mean / torch.sqrt(1.0 + variance))
        log_success: torch.Tensor = torch.special.log_ndtr(torch.cat(parts).to(torch.float64))
        return log_success


def _sites(covariance: Array, signs: Array) -> tuple[Array, Array]:
    """Expectation propagation (Rasmussen and Williams 2006, Algorithm 3.5).

    Args:
        covariance: of the latent function, shape (n, n).
        signs: 1 where the latent function was above zero, -1 where below, shape (n,).

    Returns:
        Precisions of the sites, and precisions times means, shape (n,) each.
    """
    precisions, shifts = np.zeros(len(signs)), np.zeros(len(signs))
    posterior, mean = covariance.copy(), np.zeros(len(signs))
    for _ in range(_SWEEPS):
        before = shifts.copy()
        for i, sign in enumerate(signs):
            cavity_precision = 1.0 / posterior[i, i] - precisions[i]
            cavity_shift = mean[i] / posterior[i, i] - shifts[i]
            variance, center = 1.0 / cavity_precision, cavity_shift / cavity_precision
            z = sign * (center + _BASE) / math.sqrt(1.0 + variance)
            # The hazard phi(z) / Phi(z), stable far below zero.
            hazard = math.exp(-0.5 * z * z - _LOG_SQRT_TWO_PI - float(scipy.special.log_ndtr(z)))
            moment = center + sign * variance * hazard / math.sqrt(1.0 + variance)
            matched = variance - variance**2 * hazard * (z + hazard) / (1.0 + variance)
            change = max(1.0 / matched - cavity_precision, 0.0) - precisions[i]
            precisions[i] += change
            shifts[i] = moment / matched - cavity_shift
            column = posterior[:, i].copy()
            posterior -= change / (1.0 + change * column[i]) * np.outer(column, column)
            mean = posterior @ shifts
        root, factor = _factor(covariance, precisions)
        half = scipy.linalg.solve_triangular(factor, root[:, None] * covariance, lower=True)
        posterior = covariance - half.T @ half
        mean = posterior @ shifts
        if np.abs(shifts - before).max() < _SETTLED:
            break
    return precisions, shifts


def _factor(covariance: Array, precisions: Array) -> tuple[Array, Array]:
    """Square roots S^1/2 of the precisions, and the Cholesky factor of I + S^1/2 K S^1/2."""
    root = np.sqrt(precisions)
    factor: Array = scipy.linalg.cholesky(np.eye(len(root)) + np.outer(root, root) * covariance, lower=True)
    return root, factor


class _Latent:
    """Covariance of the latent function between any points and a few."""

    def __init__(self, grid: Grid, levels: Levels, trend: bool, dtype: torch.dtype) -> None:
        scales = np.full(grid.dimensions, _LENGTH_SCALE * math.sqrt(grid.dimensions))
        self._local = tensor(grid.log_tables(levels, scales), dtype)
        self._trend = tensor(_TREND_VARIANCE * grid.linear_tables(levels), dtype) if trend else None
        self._norms = tensor(_TREND_VARIANCE * grid.squared_norm_table(), dtype)

    def at(self, points: Points) -> torch.Tensor:
        """Shape (N, n)."""
        covariance = points.sums(self._local).exp_().mul_(_LOCAL_VARIANCE).add_(_BASE_VARIANCE)
        return covariance if self._trend is None else covariance.add_(points.sums(self._trend))

    def variance(self, points: Points) -> torch.Tensor | float:
        """Of the latent function itself, shape (N,), or one number for all points."""
        constant = _LOCAL_VARIANCE + _BASE_VARIANCE
        return constant if self._trend is None else points.sums(self._norms)[:, 0] + constant
