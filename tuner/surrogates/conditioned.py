"""A hypothesis about one metric, given what was observed of it.

| symbol | shape | meaning |
| --- | --- | --- |
| n, k, t | | configurations, some of them, observations |
| R | (t, t) | Cholesky factor of the observations' covariance, noise included |
| a | (t,) | R^-1 (y - m), what was observed less its mean |
| H | (t, k) | R^-1 times the covariance of observations and some configurations |

Their mean becomes m + H^T a, their covariance K - H^T H (Rasmussen & Williams 2006, Eq. 2.25 and 2.26).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtrs
from scipy.special import log_ndtr

from tuner.surrogates.censoring import PseudoObservations, pseudo_observations
from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray
from tuner.surrogates.listed_gaussian import Gaussian, cholesky_root

_JITTER = 1e-4
"""Added to every variance of an observation: a hundredth of the metric's spread, below any real difference."""


@dataclass(slots=True)
class Observations:
    """What was observed of one metric; its noise has a least variance."""

    least_noise: float
    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)

    @property
    def arrays(self) -> tuple[IntArray, FloatArray, FloatArray, npt.NDArray[np.int8]]:
        """Rows, values, variances and sides, shape (t,) each."""
        return (
            np.array(self.rows, dtype=np.int64),
            np.array(self.values),
            np.array(self.noise),
            np.array(self.sides, dtype=np.int8),
        )


class Conditioned:
    """A Gaussian given observations.

    Args:
        gaussian: before them.
        rows, values, noise, sides: of the observations, shape (t,) each; `noise` is the variance beyond the usual one.
        least_noise: of the metric.
    """

    def __init__(
        self,
        gaussian: Gaussian,
        rows: IntArray,
        values: FloatArray,
        noise: FloatArray,
        sides: npt.NDArray[np.int8],
        least_noise: float,
    ) -> None:
        self._gaussian = gaussian
        self._rows = rows
        self._values = values
        self._sides = sides
        self._variances = max(gaussian.noise, least_noise) + _JITTER + noise

    def log_evidence(self) -> float:
        """Logarithm of the probability density of what was observed, and of the probability of bounds."""
        bounds = self._observed.log_probability
        exact = self._sides == 0
        root, whitened = self._factors
        if not exact.all():
            if not exact.any():
                return bounds
            mean, covariance = self._prior
            root = cholesky_root(covariance[np.ix_(exact, exact)] + np.diag(self._variances[exact]))
            whitened = dtrtrs(root, (self._values - mean)[exact], lower=True)[0]
        return float(-0.5 * whitened @ whitened - np.log(root.diagonal()).sum() + bounds)

    def log_sign_evidence(self) -> float:
        """Sum of the log probabilities of the signs, each given those before it.

        The mean of y_i given those before it is y_i - R_ii a_i, and R_ii its deviation.
        """
        root, whitened = self._factors
        deviations = root.diagonal()
        expected = self._values - deviations * whitened
        return float(log_ndtr(np.sign(self._values) * expected / deviations).sum())

    def joint(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of the noiseless metric at some configurations, shapes (k,) and (k, k)."""
        count = len(self._rows)
        mean, covariance = self._gaussian.at(np.concatenate([self._rows, rows]))
        if not count:
            return mean, covariance
        root, whitened = self._factors
        half = dtrtrs(root, covariance[:count, count:], lower=True)[0]
        return mean[count:] + whitened @ half, covariance[count:, count:] - half.T @ half

    def everywhere(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation at all configurations, shape (n,); the latter may be a little too large."""
        outline = self._gaussian.outlined(self._rows)
        mean, variances = outline.mean, outline.variances
        if len(self._rows):
            root, whitened = self._factors
            half = dtrtrs(root, outline.columns.T, lower=True)[0]
            mean = mean + whitened @ half
            variances = variances - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variances, _JITTER))

    @cached_property
    def _prior(self) -> tuple[FloatArray, FloatArray]:
        return self._gaussian.at(self._rows)

    @cached_property
    def _observed(self) -> PseudoObservations:
        """Bounds as the Gaussian observations that stand for them."""
        return pseudo_observations(*self._prior, self._values, self._variances, self._sides)

    @cached_property
    def _factors(self) -> tuple[FloatArray, FloatArray]:
        """R and a."""
        mean, covariance = self._prior
        root = cholesky_root(covariance + np.diag(self._observed.variances))
        whitened, _ = dtrtrs(root, self._observed.values - mean, lower=True)
        return root, whitened
