"""Exact Gaussian-process regression on a grid, averaged over hyperparameters.

y_i = m(x_i) + level + f(x_i) + noise_i,  f ~ GP(0, s^2 product + a^2 additive),  noise_i ~ N(0, v_i + sigma^2)

`m` is a given prior mean, `v_i` the known variance of a value, and the level is unknown with a wide normal prior.
Every posterior comes per hypothesis about the hyperparameters, the most probable one first.

| symbol | meaning |
| --- | --- |
| `n` | training points |
| `N` | points asked about |
| `h` | hypotheses |
| `u` | distinct hypotheses |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from tuner.surrogates.hyperparameters import MarginalLikelihood, Priors, additive_scales, product_scales
from tuner.surrogates.kernel import Array, Covariance, Floats, Grid, Levels, Points
from tuner.surrogates.pairs import JITTER

Mean = Callable[[Levels], Array]
"""A prior mean: levels (N, d) to values (N,)."""

_LEAST_VARIANCE: Final = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianProcess:
    """A fitted process; make one with `fit`.

    Attributes:
        grid: the axes.
        levels: training points, each as far as any from those before it, shape (n, d).
        thetas: distinct hyperparameters, shape (u, d + 3).
        copies: which of them each hypothesis has, shape (h,), the most probable first.
        whiteners: inverse Cholesky factors of the training covariances, shape (u, n, n).
        covariance: of any points with the training points, without the level.
        alphas: inverse covariances times centred values, shape (u, n).
        center: what was subtracted from the values beside the prior mean.
        level_variance: of the unknown level.
        mean: the prior mean, or `None` for zero.
    """

    grid: Grid
    levels: Levels
    thetas: Array
    copies: npt.NDArray[np.int64]
    covariance: Covariance
    whiteners: Array
    alphas: Array
    center: float
    level_variance: float
    mean: Mean | None = None

    @classmethod
    def fit(
        cls,
        grid: Grid,
        levels: Levels,
        values: Array,
        noise_variances: Array | None = None,
        *,
        hypotheses: int = 0,
        priors: Priors | None = None,
        mean: Mean | None = None,
        seed: int = 0,
    ) -> GaussianProcess:
        """Fits hyperparameters to values; works from one value on, and with repeats and constants.

        Args:
            grid: the axes.
            levels: shape (n, d), n >= 1.
            values: shape (n,), finite.
            noise_variances: known variances of the values, shape (n,); zero by default.
            hypotheses: how many draws of the hyperparameters to keep beside the most probable ones.
            priors: of the hyperparameters.
            mean: prior mean.
            seed: of the draws.
        """
        priors = priors or Priors()
        # The first few then explain most of the variance anywhere (see `posterior`).
        order = grid.spread_order(levels)
        levels, values = levels[order], values[order]
        residuals = values if mean is None else values - mean(levels)
        center = float(residuals.mean())
        noise = np.zeros(len(values)) if noise_variances is None else noise_variances[order]
        likelihood = MarginalLikelihood(grid, levels, residuals - center, noise, priors)
        best = likelihood.best()
        drawn = likelihood.sample(best, hypotheses, seed) if hypotheses else best[None]
        thetas, copies = np.unique(drawn, axis=0, return_inverse=True)
        whiteners = likelihood.whiteners(thetas)
        return cls(
            grid=grid,
            levels=levels,
            thetas=thetas,
            copies=copies.reshape(-1),
            covariance=_covariance(grid, levels, thetas),
            whiteners=whiteners,
            alphas=(whiteners.mT @ (whiteners @ (residuals - center))[..., None])[..., 0],
            center=center,
            level_variance=priors.level_sd**2,
            mean=mean,
        )

    @property
    def most_probable(self) -> GaussianProcess:
        """The same with the first hypothesis only."""
        first = self.copies[:1]
        return replace(
            self,
            thetas=self.thetas[first],
            copies=np.zeros(1, dtype=np.int64),
            covariance=Covariance(products=self.covariance.products[first], sums=self.covariance.sums[first]),
            whiteners=self.whiteners[first],
            alphas=self.alphas[first],
        )

    def posterior(self, points: Points, explaining: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the noise-free function, each of shape (h, N).

        Args:
            points: N of them; their precision is what is computed in.
            explaining: how many training points, the first ones, reduce the variance: with fewer than all, which is
                quicker, it is an upper bound.
        """
        # The level's part of the covariance with the training points is constant: it is added at the end.
        whiteners = self.whiteners[:, :explaining, :explaining]
        means, explained = self.covariance.projected(
            points, self.alphas, whiteners.mT, self.level_variance * whiteners.sum(axis=2)
        )
        shift = self.center + self.level_variance * self.alphas.sum(axis=1)
        means += shift.astype(means.dtype)[:, None]
        if self.mean is not None:
            means += self.mean(points.levels).astype(means.dtype)
        variances = np.maximum(self._prior_variances.astype(means.dtype)[:, None] - explained, _LEAST_VARIANCE)
        return torch.from_numpy(means[self.copies]), torch.from_numpy(variances[self.copies])

    def joint_posterior(self, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, shape (h, N), and covariance, shape (h, N, N), of the noise-free function; for N in the hundreds."""
        cross, prior = self._covariances(levels)
        half = cross @ self.whiteners.mT
        mean = (cross @ self.alphas[..., None])[..., 0] + self.center
        if self.mean is not None:
            mean += self.mean(levels)
        covariance = prior - half @ half.mT
        return torch.from_numpy(mean[self.copies]), torch.from_numpy(covariance[self.copies])

    def believing(self, levels: Levels) -> GaussianProcess:
        """The same as if `levels`, shape (p, d), had been measured and had shown exactly their means.

        Means stay, variances shrink around the new points: what keeps parallel suggestions apart (kriging
        believer, Ginsbourger et al. 2010).
        """
        if not len(levels):
            return self
        cross, prior = self._covariances(levels)
        below = cross @ self.whiteners.mT
        noise = (np.exp(2 * self.thetas[:, -1]) + JITTER)[:, None, None] * np.eye(len(levels))
        corner = np.linalg.inv(np.linalg.cholesky(prior + noise - below @ below.mT))
        distinct, known, added = len(self.thetas), len(self.levels), len(levels)
        whiteners = np.zeros((distinct, known + added, known + added))
        whiteners[:, :known, :known] = self.whiteners
        whiteners[:, known:, :known] = -corner @ below @ self.whiteners
        whiteners[:, known:, known:] = corner
        all_levels = np.concatenate([self.levels, levels])
        return replace(
            self,
            levels=all_levels,
            covariance=_covariance(self.grid, all_levels, self.thetas),
            whiteners=whiteners,
            alphas=np.concatenate([self.alphas, np.zeros((distinct, added))], axis=1),
        )

    @property
    def _prior_variances(self) -> Array:
        """Of the noise-free function, its level included, shape (u,)."""
        return np.asarray(np.exp(2 * self.thetas[:, -3:-1]).sum(axis=1) + self.level_variance)

    def _covariances(self, levels: Levels) -> tuple[Floats, Floats]:
        """Of points with the training points, shape (u, N, n), and among themselves, shape (u, N, N)."""
        points = Points(self.grid, levels)
        return (
            self.covariance.at(points) + self.level_variance,
            _covariance(self.grid, levels, self.thetas).at(points) + self.level_variance,
        )


def _covariance(grid: Grid, levels: Levels, thetas: Array) -> Covariance:
    """Of the function without its level, with some points."""
    scales = (product_scales(thetas), additive_scales(thetas))
    return Covariance.of(grid, levels, scales, (np.exp(thetas[:, -3]), np.exp(thetas[:, -2])))
