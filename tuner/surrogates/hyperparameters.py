"""Hyperparameters of a Gaussian process on a grid: their priors, their best values, and a sample of them.

theta = (log l_1 .. log l_d, log s, log a, log sigma): length scales, deviations of the product part, of the additive
part, and of the extra noise. The additive part's length scales are l_j / sqrt(d): one axis alone has to explain what
the product explains with all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
import scipy.stats

from tuner.surrogates.kernel import Array, Grid, Levels, Pairs

JITTER: Final = 1e-8
"""Added to every variance of a value, so that repeats of a noiseless value can be factored."""

_BOUNDS: Final = 4.0
"""Prior deviations that theta may stray from the prior's centre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """Normal priors of theta, and the fixed variance of the unknown level.

    Length scales grow with the square root of the number of axes, so that the a-priori wiggliness of the
    function does not depend on it (Hvarfner et al. 2024, "Vanilla Bayesian optimization performs great in high
    dimensions"); coordinates lie in [0, 1].

    Attributes:
        length_scale: centre of log l_j for one axis; 0.5 log d is added.
        length_scale_sd: its deviation.
        product, product_sd: of log s, in the units of the values.
        additive, additive_sd: of log a, likewise.
        noise, noise_sd: of log sigma, in the units of the values.
        level_sd: deviation of the constant level around the mean of the values.
    """

    length_scale: float = 0.0
    length_scale_sd: float = 1.0
    product: float = math.log(0.5)
    product_sd: float = 0.7
    additive: float = math.log(0.5)
    additive_sd: float = 0.7
    noise: float = math.log(0.03)
    noise_sd: float = 1.0
    level_sd: float = 2.0

    def center(self, dimensions: int) -> Array:
        """Prior mean of theta, shape (d + 3,)."""
        length_scale = self.length_scale + 0.5 * math.log(dimensions)
        return np.array([length_scale] * dimensions + [self.product, self.additive, self.noise])

    def deviation(self, dimensions: int) -> Array:
        """Prior deviation of theta, shape (d + 3,)."""
        return np.array([self.length_scale_sd] * dimensions + [self.product_sd, self.additive_sd, self.noise_sd])


def product_scales(thetas: Array) -> Array:
    """Length scales of the product part, shape (..., d)."""
    return np.exp(thetas[..., :-3])


def additive_scales(thetas: Array) -> Array:
    """Length scales of the additive part, shape (..., d)."""
    return np.exp(thetas[..., :-3]) / math.sqrt(thetas.shape[-1] - 3)


class MarginalLikelihood:
    """Log posterior density of theta, up to a constant, with its gradient.

    Args:
        grid: the axes.
        levels: training points, shape (n, d).
        values: shape (n,), centred.
        noise_variances: shape (n,), known parts of the noise.
        priors: of theta.
    """

    def __init__(self, grid: Grid, levels: Levels, values: Array, noise_variances: Array, priors: Priors) -> None:
        self._pairs = Pairs(grid, levels)
        self._values = values
        self._noise_variances = noise_variances
        self._level_variance = priors.level_sd**2
        self.center = priors.center(grid.dimensions)
        self.deviation = priors.deviation(grid.dimensions)
        self._low = self.center - _BOUNDS * self.deviation
        self._high = self.center + _BOUNDS * self.deviation

    def covariances(self, thetas: Array) -> Array:
        """Of the values, noise included, shape (m, n, n), for `thetas` of shape (m, d + 3)."""
        variances = np.exp(2 * thetas[:, -3:-1, None, None])
        product = self._pairs.product(self._pairs.tables(product_scales(thetas))[0])
        additive = self._pairs.additive(self._pairs.tables(additive_scales(thetas))[0])
        return self._with_noise(variances[:, 0] * product + variances[:, 1] * additive, thetas)

    def log_densities(self, thetas: Array) -> Array:
        """Shape (m,), for `thetas` of shape (m, d + 3)."""
        factors = np.linalg.cholesky(self.covariances(thetas))
        whitened = np.linalg.solve(factors, np.broadcast_to(self._values[:, None], (*factors.shape[:2], 1)))[..., 0]
        log_determinants = 2.0 * np.log(np.diagonal(factors, axis1=1, axis2=2)).sum(axis=1)
        standard = (thetas - self.center) / self.deviation
        return np.asarray(-0.5 * ((whitened**2).sum(axis=1) + log_determinants + (standard**2).sum(axis=1)))

    def negative(self, theta: Array) -> tuple[float, Array]:
        """Minus the log density, and its gradient."""
        product, additive, product_slopes, additive_slopes = self._parts(theta)
        factor = scipy.linalg.cholesky(self._with_noise(product + additive, theta), lower=True, check_finite=False)
        inverse = scipy.linalg.cho_solve((factor, True), np.eye(len(factor)), check_finite=False)
        alpha = inverse @ self._values
        standard = (theta - self.center) / self.deviation
        value = 0.5 * (float(self._values @ alpha) + float(standard @ standard)) + float(np.log(np.diag(factor)).sum())
        weights = 0.5 * (inverse - np.outer(alpha, alpha))
        weighted = weights * product
        by_length_scale = self._pairs.slope(weighted, product_slopes, weights, additive_slopes)
        by_deviation = [weighted.sum(), (weights * additive).sum(), math.exp(2 * theta[-1]) * np.trace(weights)]
        gradient = np.concatenate([by_length_scale, 2.0 * np.array(by_deviation)])
        return value, gradient + standard / self.deviation

    def best(self, iterations: int = 60) -> Array:
        """Theta of the highest density that L-BFGS finds from the prior's centre, shape (d + 3,)."""
        found = scipy.optimize.minimize(
            self.negative,
            self.center,
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(self._low, self._high, strict=True)),
            options={"maxiter": iterations, "ftol": 1e-7},
        )
        return np.asarray(found.x, dtype=np.float64)

    def sample(self, best: Array, count: int, seed: int) -> Array:
        """`best` and `count` draws of theta that together stand for its posterior, shape (1 + count, d + 3).

        Draws from an equal mixture of the prior and of Laplace's approximation around `best` are weighted by
        density over mixture density, and resampled: with few values the prior's draws carry the weight, with
        many Laplace's. The same draw may come several times.
        """
        curvature = self._curvature(best)
        uniform = scipy.stats.qmc.Sobol(len(best), seed=seed).random(4 * count)
        normal = scipy.special.ndtri(np.clip(uniform, 1e-6, 1 - 1e-6))
        spread = np.linalg.cholesky(np.linalg.inv(curvature))
        laplace, prior = best + normal[: 2 * count] @ spread.T, self.center + self.deviation * normal[2 * count :]
        draws = np.clip(np.concatenate([laplace, prior]), self._low, self._high)
        from_best = draws - best
        log_laplace = -0.5 * np.einsum("ij,jk,ik->i", from_best, curvature, from_best)
        log_laplace += 0.5 * np.linalg.slogdet(curvature)[1]
        standard = (draws - self.center) / self.deviation
        log_prior = -0.5 * (standard**2).sum(axis=1) - np.log(self.deviation).sum()
        log_weights = self.log_densities(draws) - np.logaddexp(log_laplace, log_prior)
        weights = np.exp(log_weights - log_weights.max())
        cumulative = np.cumsum(weights / weights.sum())
        # Systematic resampling: the number of copies differs from its expectation by less than one.
        chosen = np.searchsorted(cumulative, (np.arange(count) + 0.5) / count)
        return np.concatenate([best[None], draws[np.minimum(chosen, len(draws) - 1)]])

    def _parts(self, theta: Array) -> tuple[Array, Array, Array, Array]:
        """Product and additive part, shape (n, n) each, and their derivatives per pair of levels, shape (E,) each.

        The product part's derivatives are of its logarithm, the additive part's of d times itself.
        """
        variances = np.exp(2 * theta[-3:-1])
        both = self._pairs.tables(np.stack([product_scales(theta), additive_scales(theta)]))
        (log_product, log_additive), (product_slopes, additive_slopes) = both
        product = variances[0] * self._pairs.product(log_product)
        additive = variances[1] * self._pairs.additive(log_additive)
        return product, additive, product_slopes, variances[1] * np.exp(log_additive) * additive_slopes

    def _with_noise(self, signals: Array, thetas: Array) -> Array:
        """Adds level and noise to signal covariances, shape (..., n, n)."""
        covariances = signals + self._level_variance
        extra = np.exp(2 * thetas[..., -1])
        diagonal = np.arange(covariances.shape[-1])
        covariances[..., diagonal, diagonal] += self._noise_variances + extra[..., None] + JITTER
        return covariances

    def _curvature(self, best: Array) -> Array:
        """Fisher information of theta about the values, and of its prior: the expected Hessian, shape (d + 3, d + 3).

        Half the traces of K^-1 dK/dtheta_i K^-1 dK/dtheta_j (Rasmussen and Williams 2006, Eq. 5.9): unlike the
        Hessian at hand, it is positive definite wherever the search has stopped.
        """
        product, additive, product_slopes, additive_slopes = self._parts(best)
        slopes = [
            *self._pairs.slopes(product, product_slopes, additive_slopes),
            2.0 * product,
            2.0 * additive,
            2.0 * math.exp(2 * best[-1]) * np.eye(len(product)),
        ]
        factor = scipy.linalg.cho_factor(self._with_noise(product + additive, best), lower=True)
        solved = np.stack([scipy.linalg.cho_solve(factor, slope) for slope in slopes])
        information: Array = 0.5 * np.einsum("iab,jba->ij", solved, solved, optimize=True)
        return information + np.diag(self.deviation**-2)
