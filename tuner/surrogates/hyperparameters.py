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
import scipy.special
import scipy.stats

from tuner.surrogates.ascent import descend, negative
from tuner.surrogates.kernel import Array, Grid, Levels
from tuner.surrogates.pairs import Pairs

_SETTLED: Final = 1e-5
"""Relative gain in log density below which the search for the best theta ends; it then lay within 0.001 of where a
search to the last digit ended, in 24 fits to 5 to 50 values."""
_BITS: Final = 16
"""Of the numbers that draws are made of: scrambling costs as many steps."""
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
        self._pairs = Pairs(grid, levels, noise_variances, priors.level_sd**2)
        self._values = values
        self.center = priors.center(grid.dimensions)
        self.deviation = priors.deviation(grid.dimensions)
        self._posterior = (self._pairs.arrays, self._values, self.center, self.deviation)
        self._low = self.center - _BOUNDS * self.deviation
        self._high = self.center + _BOUNDS * self.deviation

    def whiteners(self, thetas: Array) -> Array:
        """Inverse Cholesky factors of the values' covariances, noise included, shape (m, n, n).

        Args:
            thetas: shape (m, d + 3).
        """
        return self._pairs.whiteners(thetas)

    def log_densities(self, thetas: Array) -> Array:
        """Shape (m,), for `thetas` of shape (m, d + 3)."""
        standard = (thetas - self.center) / self.deviation
        return self._pairs.log_likelihoods(thetas, self._values) - 0.5 * np.asarray((standard**2).sum(axis=1))

    def negative(self, theta: Array) -> tuple[float, Array]:
        """Minus the log density, and its gradient."""
        found: tuple[float, Array] = negative(*self._posterior, theta)
        return found

    def best(self, steps: int = 60) -> Array:
        """Theta of the highest density that is found from the prior's centre, shape (d + 3,)."""
        found: Array = descend(*self._posterior, _BOUNDS, _SETTLED, steps)
        return found

    def sample(self, best: Array, count: int, seed: int) -> Array:
        """`best` and `count` draws of theta that together stand for its posterior, shape (1 + count, d + 3).

        Draws from an equal mixture of the prior and of Laplace's approximation around `best` are weighted by
        density over mixture density, and resampled: with few values the prior's draws carry the weight, with
        many Laplace's. The same draw may come several times.
        """
        curvature = self._curvature(best)
        uniform = scipy.stats.qmc.Sobol(len(best), bits=_BITS, seed=seed).random(4 * count)
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

    def _curvature(self, best: Array) -> Array:
        """Fisher information of the values and of the prior: the expected Hessian, shape (d + 3, d + 3).

        Unlike the Hessian at hand, it is positive definite wherever the search has stopped.
        """
        return self._pairs.information(best) + np.diag(self.deviation**-2)
