"""Which points fail to run, learned from those that did and those that did not.

A Gaussian process classifier on the grid (Laplace's approximation; Rasmussen and Williams 2006, section 3.4)
with fixed hyperparameters, as failures are too few to learn them from. Two kinds of failure:

* *exhausted*: some resource ran out. There is a trend: more of something needs more, along directions that
  the failures themselves reveal; the latent function has a linear part.
* *local*: everything else. Only points like the failed ones are suspect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.special
import torch

from tuner.surrogates.kernel import Array, Grid, Levels

_BASE_RATE: Final = -2.5
"""Log odds of failure where nothing is known: one point in thirteen."""
_BASE_VARIANCE: Final = 1.0
_LOCAL_VARIANCE: Final = 4.0
_TREND_VARIANCE: Final = 64.0
"""Of the latent slope along an axis: steep, as running out has a sharp edge; the odds change by e^8 from end to end."""
_LENGTH_SCALE: Final = 0.5
"""Of the local part on one axis; grows with the square root of the number of axes."""
_NEWTON_STEPS: Final = 50
_LEAST_STEP: Final = 1e-4
_SETTLED: Final = 1e-9

_CHUNK: Final = 1 << 14
"""Points asked about at a time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FailureModel:
    """Probability that a point fails in one way; make one with `fit`.

    Attributes:
        grid: the axes.
        levels: what was tried, shape (n, d).
        trend: whether the latent function has a linear part.
        slopes: gradient of the log likelihood at the mode, shape (n,).
        factor: Cholesky factor of I + W^1/2 K W^1/2, shape (n, n).
        root_weights: W^1/2, shape (n,).
    """

    grid: Grid
    levels: Levels
    trend: bool
    slopes: Array
    factor: Array
    root_weights: Array

    @classmethod
    def fit(cls, grid: Grid, levels: Levels, failed: npt.NDArray[np.bool_], *, trend: bool) -> FailureModel:
        """Learns from what was tried.

        Args:
            grid: the axes.
            levels: shape (n, d), n >= 1.
            failed: shape (n,), which of them failed in this way.
            trend: whether there is a resource that runs out.
        """
        covariance = _covariance(grid, grid.points(levels), levels, trend, torch.float64).numpy()
        target = failed.astype(np.float64)
        latent = covariance @ _mode(covariance, target)
        chance = scipy.special.expit(_BASE_RATE + latent)
        root = np.sqrt(chance * (1.0 - chance))
        return cls(
            grid=grid,
            levels=levels,
            trend=trend,
            slopes=target - chance,
            factor=_factor(covariance, root),
            root_weights=root,
        )

    def log_success(self, points: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Logarithm of the probability of not failing in this way, shape (N,), computed in `dtype`.

        Args:
            points: from `grid.points`.
            dtype: to compute in.
        """
        result = torch.empty(len(points), dtype=dtype)
        whitener = scipy.linalg.solve_triangular(self.factor, np.diag(self.root_weights), lower=True).T
        whiten, slopes = torch.from_numpy(whitener).to(dtype), torch.from_numpy(self.slopes).to(dtype)
        for start in range(0, len(points), _CHUNK):
            part = slice(start, start + _CHUNK)
            cross = _covariance(self.grid, points[part], self.levels, self.trend, dtype)
            mean = torch.mv(cross, slopes).add_(_BASE_RATE)
            prior = _prior_variance(self.grid, points[part], self.trend, dtype)
            variance = (prior - torch.mm(cross, whiten).square_().sum(dim=1)).clamp(min=0.0)
            # The logistic function averaged over a normal (MacKay 1992).
            result[part] = torch.nn.functional.logsigmoid(-mean / torch.sqrt(1.0 + math.pi / 8.0 * variance))
        return result.to(torch.float64)


def _mode(covariance: Array, target: Array) -> Array:
    """Inverse covariance times the most probable latent values, by Newton's method with halved steps."""

    def log_density(a: Array) -> float:
        latent = covariance @ a
        odds = _BASE_RATE + latent
        return float(target @ odds - np.logaddexp(0.0, odds).sum() - 0.5 * a @ latent)

    a = np.zeros(len(target))
    reached = log_density(a)
    for _ in range(_NEWTON_STEPS):
        latent = covariance @ a
        chance = scipy.special.expit(_BASE_RATE + latent)
        root = np.sqrt(chance * (1.0 - chance))
        b = root**2 * latent + target - chance
        step = b - root * scipy.linalg.cho_solve((_factor(covariance, root), True), root * (covariance @ b)) - a
        size = 1.0
        while size > _LEAST_STEP and log_density(a + size * step) < reached:
            size *= 0.5
        a = a + size * step
        gained, reached = log_density(a) - reached, log_density(a)
        if gained < _SETTLED:
            break
    return a


def _factor(covariance: Array, root: Array) -> Array:
    """Cholesky factor of I + W^1/2 K W^1/2, which is well conditioned whatever W."""
    factor: Array = scipy.linalg.cholesky(np.eye(len(root)) + np.outer(root, root) * covariance, lower=True)
    return factor


def _covariance(grid: Grid, points: torch.Tensor, levels: Levels, trend: bool, dtype: torch.dtype) -> torch.Tensor:
    """Of the latent function between many points and a few, shape (N, n)."""
    length_scales = np.full(grid.dimensions, _LENGTH_SCALE * math.sqrt(grid.dimensions))
    covariance = grid.product(points, levels, length_scales, dtype).mul_(_LOCAL_VARIANCE).add_(_BASE_VARIANCE)
    return covariance.add_(grid.linear(points, levels, dtype), alpha=_TREND_VARIANCE) if trend else covariance


def _prior_variance(grid: Grid, points: torch.Tensor, trend: bool, dtype: torch.dtype) -> torch.Tensor | float:
    constant = _LOCAL_VARIANCE + _BASE_VARIANCE
    return constant + _TREND_VARIANCE * grid.squared_norms(points, dtype) if trend else constant
