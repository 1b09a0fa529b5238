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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from tuner.surrogates.hyperparameters import JITTER, MarginalLikelihood, Priors, additive_scales, product_scales
from tuner.surrogates.kernel import Array, Covariance, Grid, Levels, Points

Mean = Callable[[Levels], Array]
"""A prior mean: levels (N, d) to values (N,)."""

_CHUNK: Final = 1 << 14
"""Points asked about at a time: few enough for the intermediate results to stay in the cache."""

_LEAST_VARIANCE: Final = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianProcess:
    """A fitted process; make one with `fit`.

    Attributes:
        grid: the axes.
        levels: training points, shape (n, d).
        thetas: distinct hyperparameters, shape (u, d + 3).
        copies: which of them each hypothesis has, shape (h,), the most probable first.
        factors: Cholesky factors of the training covariances, shape (u, n, n).
        alphas: inverse covariances times centred values, shape (u, n).
        center: what was subtracted from the values beside the prior mean.
        level_variance: of the unknown level.
        mean: the prior mean, or `None` for zero.
    """

    grid: Grid
    levels: Levels
    thetas: Array
    copies: npt.NDArray[np.int64]
    factors: torch.Tensor
    alphas: torch.Tensor
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
        residuals = values if mean is None else values - mean(levels)
        center = float(residuals.mean())
        noise = np.zeros(len(values)) if noise_variances is None else noise_variances
        likelihood = MarginalLikelihood(grid, levels, residuals - center, noise, priors)
        best = likelihood.best()
        drawn = likelihood.sample(best, hypotheses, seed) if hypotheses else best[None]
        thetas, copies = np.unique(drawn, axis=0, return_inverse=True)
        factors = torch.linalg.cholesky(torch.from_numpy(likelihood.covariances(thetas)))
        centred = torch.from_numpy(residuals - center)[None, :, None].expand(len(thetas), -1, -1)
        return cls(
            grid=grid,
            levels=levels,
            thetas=thetas,
            copies=copies.reshape(-1),
            factors=factors,
            alphas=torch.cholesky_solve(centred, factors)[..., 0],
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
            factors=self.factors[first],
            alphas=self.alphas[first],
        )

    def posterior(self, levels: Levels, chunks: Sequence[Points] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the noise-free function, each of shape (h, N).

        Args:
            levels: shape (N, d).
            chunks: `chunked(grid, levels)`, where it is at hand; its precision is what is computed in.
        """
        chunks = chunked(self.grid, levels) if chunks is None else chunks
        dtype = chunks[0].dtype
        means = torch.empty(len(self.thetas), len(levels), dtype=dtype)
        variances = torch.empty_like(means)
        for u, theta in enumerate(self.thetas):
            prior_variance = float(np.exp(2 * theta[-3:-1]).sum()) + self.level_variance
            alpha = self.alphas[u]
            whitener = self._inverse_factor(u).mT
            # The level's part of the covariance with the training points is constant: it is added at the end.
            mean_shift = self.center + self.level_variance * float(alpha.sum())
            shift = (self.level_variance * whitener.sum(dim=0)).to(dtype)
            cast_alpha, cast_whitener = alpha.to(dtype), whitener.to(dtype)
            covariance = self._covariance(self.levels, theta, dtype)
            start = 0
            for points in chunks:
                part = slice(start, start := start + len(points))
                cross = covariance.at(points)
                means[u, part] = torch.mv(cross, cast_alpha).add_(mean_shift)
                explained = torch.addmm(shift, cross, cast_whitener).square_().sum(dim=1)
                variances[u, part] = prior_variance - explained
        if self.mean is not None:
            means += torch.from_numpy(self.mean(levels)).to(dtype)
        variances.clamp_(min=_LEAST_VARIANCE)
        return means.to(torch.float64)[self.copies], variances.to(torch.float64)[self.copies]

    def joint_posterior(self, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, shape (h, N), and covariance, shape (h, N, N), of the noise-free function; for N in the hundreds."""
        means, covariances = [], []
        for u, theta in enumerate(self.thetas):
            cross, prior = self._covariances(levels, theta)
            half = cross @ self._inverse_factor(u).mT
            means.append(cross @ self.alphas[u] + self.center)
            covariances.append(prior - half @ half.T)
        mean = torch.stack(means)
        if self.mean is not None:
            mean += torch.from_numpy(self.mean(levels))
        return mean[self.copies], torch.stack(covariances)[self.copies]

    def believing(self, levels: Levels) -> GaussianProcess:
        """The same as if `levels`, shape (p, d), had been measured and had shown exactly their means.

        Means stay, variances shrink around the new points: what keeps parallel suggestions apart (kriging
        believer, Ginsbourger et al. 2010).
        """
        if not len(levels):
            return self
        factors, alphas = [], []
        for u, theta in enumerate(self.thetas):
            cross, prior = self._covariances(levels, theta)
            below = cross @ self._inverse_factor(u).mT
            noise = math.exp(2 * theta[-1]) + JITTER
            corner = torch.linalg.cholesky(prior + noise * torch.eye(len(levels), dtype=prior.dtype) - below @ below.T)
            right = torch.zeros(len(self.levels), len(levels), dtype=prior.dtype)
            factors.append(torch.cat([torch.cat([self.factors[u], right], 1), torch.cat([below, corner], 1)]))
            alphas.append(torch.cat([self.alphas[u], torch.zeros(len(levels), dtype=prior.dtype)]))
        return replace(
            self,
            levels=np.concatenate([self.levels, levels]),
            factors=torch.stack(factors),
            alphas=torch.stack(alphas),
        )

    def _covariances(self, levels: Levels, theta: Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Of points with the training points, shape (N, n), and among themselves, shape (N, N)."""
        points = Points(self.grid, levels)
        return (
            self._covariance(self.levels, theta).at(points).add_(self.level_variance),
            self._covariance(levels, theta).at(points).add_(self.level_variance),
        )

    def _covariance(self, levels: Levels, theta: Array, dtype: torch.dtype = torch.float64) -> Covariance:
        """Of the function without its level, with some points."""
        deviations = (math.exp(theta[-3]), math.exp(theta[-2]))
        return Covariance(self.grid, levels, (product_scales(theta), additive_scales(theta)), deviations, dtype)

    def _inverse_factor(self, u: int) -> torch.Tensor:
        """Inverse of a factor, shape (n, n): a product with it is quicker than solving."""
        eye = torch.eye(self.factors.shape[-1], dtype=self.factors.dtype)
        inverse: torch.Tensor = torch.linalg.solve_triangular(self.factors[u], eye, upper=False)
        return inverse


def chunked(grid: Grid, levels: Levels, dtype: torch.dtype = torch.float64) -> list[Points]:
    """Points prepared for `posterior`, in chunks that fit the cache; to be made once for several processes."""
    return [Points(grid, levels[start : start + _CHUNK], dtype) for start in range(0, max(len(levels), 1), _CHUNK)]
