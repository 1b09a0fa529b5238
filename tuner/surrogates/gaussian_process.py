"""Exact Gaussian-process regression on a grid, averaged over hyperparameters.

y_i = m(x_i) + level + f(x_i) + noise_i,  f ~ GP(0, s^2 k),  noise_i ~ N(0, v_i + sigma^2): `m` is a given prior
mean, `v_i` the known variance of a value, and the level is unknown with a wide normal prior. Every posterior comes
per hypothesis about the hyperparameters, the most probable one first.

| symbol | meaning |
| --- | --- |
| `n` | training points |
| `N` | points asked about |
| `h` | hypotheses |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from tuner.surrogates.hyperparameters import MarginalLikelihood, Priors
from tuner.surrogates.kernel import Array, Grid, Levels

Mean = Callable[[Levels], Array]
"""A prior mean: levels (N, d) to values (N,)."""

_CHUNK: Final = 1 << 16
"""Points asked about at a time: with 100 training points, 50 MB."""

_LEAST_VARIANCE: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GaussianProcess:
    """A fitted process; make one with `fit`.

    Attributes:
        grid: the axes.
        levels: training points, shape (n, d).
        thetas: hyperparameters per hypothesis, shape (h, d + 2), the most probable first.
        factors: Cholesky factors of the training covariance, shape (h, n, n).
        alphas: covariance inverse times centred values, shape (h, n).
        center: what was subtracted from the values beside the prior mean.
        level_variance: of the unknown level.
        mean: the prior mean, or `None` for zero.
    """

    grid: Grid
    levels: Levels
    thetas: Array
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
        start: Array | None = None,
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
            start: hyperparameters to start the fit from, as of an earlier fit.
            seed: of the draws.
        """
        priors = priors or Priors()
        residuals = values if mean is None else values - mean(levels)
        center = float(residuals.mean())
        noise = np.zeros(len(values)) if noise_variances is None else noise_variances
        likelihood = MarginalLikelihood(grid, grid.pairwise_distances(levels), residuals - center, noise, priors)
        best = likelihood.best(start)
        thetas = likelihood.sample(best, hypotheses, seed) if hypotheses else best[None]
        covariances = torch.from_numpy(np.stack([likelihood.covariance(theta) for theta in thetas]))
        factors = torch.linalg.cholesky(covariances)
        centred = torch.from_numpy(residuals - center)[None, :, None].expand(len(thetas), -1, -1)
        return cls(
            grid=grid,
            levels=levels,
            thetas=thetas,
            factors=factors,
            alphas=torch.cholesky_solve(centred, factors)[..., 0],
            center=center,
            level_variance=priors.level_sd**2,
            mean=mean,
        )

    @property
    def most_probable(self) -> GaussianProcess:
        """The same with the first hypothesis only."""
        return replace(self, thetas=self.thetas[:1], factors=self.factors[:1], alphas=self.alphas[:1])

    def posterior(self, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of the noise-free function, each of shape (h, N)."""
        index = self.grid.index(levels)
        means = torch.empty(len(self.thetas), len(levels), dtype=torch.float64)
        variances = torch.empty_like(means)
        inverses = self._inverse_factors()
        prior_mean = 0.0 if self.mean is None else torch.from_numpy(self.mean(levels))
        for part in _chunks(len(levels)):
            for h, theta in enumerate(self.thetas):
                cross = self._cross(index[part], theta)
                means[h, part] = cross @ self.alphas[h]
                explained = (cross @ inverses[h]).square_().sum(dim=1)
                variances[h, part] = self._prior_variance(theta) - explained
        return means + self.center + prior_mean, variances.clamp_(min=_LEAST_VARIANCE)

    def joint_posterior(self, levels: Levels) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean, shape (h, N), and covariance, shape (h, N, N), of the noise-free function; for N in the hundreds."""
        index = self.grid.index(levels)
        inverses = self._inverse_factors()
        means, covariances = [], []
        for h, theta in enumerate(self.thetas):
            cross = self._cross(index, theta)
            half = cross @ inverses[h]
            prior = np.exp(2 * theta[-2]) * self.grid.correlations(index, levels, np.exp(theta[:-2]))
            covariances.append(prior + self.level_variance - half @ half.T)
            means.append(cross @ self.alphas[h])
        prior_mean = 0.0 if self.mean is None else torch.from_numpy(self.mean(levels))
        return torch.stack(means) + self.center + prior_mean, torch.stack(covariances)

    def believing(self, levels: Levels) -> GaussianProcess:
        """The same as if `levels`, shape (p, d), had been measured and had shown exactly their means.

        Means stay, variances shrink around the new points: what keeps parallel suggestions apart (kriging
        believer, Ginsbourger et al. 2010).
        """
        if not len(levels):
            return self
        index = self.grid.index(levels)
        factors, alphas = [], []
        for h, theta in enumerate(self.thetas):
            cross = self._cross(index, theta)
            below = torch.linalg.solve_triangular(self.factors[h], cross.T, upper=False).T
            prior = np.exp(2 * theta[-2]) * self.grid.correlations(index, levels, np.exp(theta[:-2]))
            own = (
                prior
                + self.level_variance
                + (np.exp(2 * theta[-1]) + 1e-8) * torch.eye(len(levels), dtype=torch.float64)
            )
            corner = torch.linalg.cholesky(own - below @ below.T)
            above = torch.zeros(len(self.factors[h]), len(levels), dtype=torch.float64)
            factors.append(torch.cat([torch.cat([self.factors[h], above], 1), torch.cat([below, corner], 1)]))
            alphas.append(torch.cat([self.alphas[h], torch.zeros(len(levels), dtype=torch.float64)]))
        return replace(
            self,
            levels=np.concatenate([self.levels, levels]),
            factors=torch.stack(factors),
            alphas=torch.stack(alphas),
        )

    def _cross(self, index: torch.Tensor, theta: Array) -> torch.Tensor:
        """Covariance of points with the training points, shape (N, n)."""
        cross = self.grid.correlations(index, self.levels, np.exp(theta[:-2]))
        return cross.mul_(float(np.exp(2 * theta[-2]))).add_(self.level_variance)

    def _prior_variance(self, theta: Array) -> float:
        return float(np.exp(2 * theta[-2])) + self.level_variance

    def _inverse_factors(self) -> torch.Tensor:
        """Transposed inverses of the factors, shape (h, n, n): a product with them is quicker than solving."""
        eye = torch.eye(self.factors.shape[-1], dtype=torch.float64)
        inverse: torch.Tensor = torch.linalg.solve_triangular(self.factors, eye.expand_as(self.factors), upper=False)
        return inverse.mT


def _chunks(size: int) -> Iterator[slice]:
    for start in range(0, size, _CHUNK):
        yield slice(start, min(start + _CHUNK, size))
