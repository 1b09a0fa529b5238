"""Observations that are bounds, as Gaussian ones: expectation propagation.

Of some observations y_i = f_i + e_i, e_i ~ N(0, v_i), only a bound is known: y_i >= b_i (side 1) or y_i <= b_i (side
-1). Its likelihood, Phi(s_i (f_i - b_i) / sqrt(v_i)), is replaced by a Gaussian *site* N(f_i; value_i, variance_i) such
that the posterior's mean and variance at i are what the exact likelihood makes of the belief without it (Minka 2001;
Rasmussen & Williams 2006, 3.6). Whoever can use Gaussian observations can then use bounds.

| symbol | shape | meaning |
| --- | --- | --- |
| n, c | | observations, those of them that are bounds |
| tau, nu | (c,) | precision of a site, and precision times value |
| m, K | (c,), (c, c) | belief given everything exact |
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import log_ndtr

FloatArray = npt.NDArray[np.float64]
Sides = npt.NDArray[np.int8]

_SWEEPS: Final = 30
_SETTLED: Final = 1e-6
"""Relative change of a posterior mean, in standard deviations, below which sweeps end."""
_LEAST_PRECISION: Final = 1e-9
"""Of a site, in units of the belief's precision: less says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PseudoObservations:
    """Gaussian observations that stand for exact ones and bounds.

    Attributes:
        values, variances: shape (n,); exact observations are as they were.
        log_probability: logarithm of the probability of all bounds given the exact observations.
    """

    values: FloatArray
    variances: FloatArray
    log_probability: float


def pseudo_observations(
    mean: FloatArray, covariance: FloatArray, values: FloatArray, variances: FloatArray, sides: Sides
) -> PseudoObservations:
    """The observations with Gaussian ones in place of the bounds among them.

    Args:
        mean, covariance: of the belief about the noise-free values before any observation, shapes (n,), (n, n).
        values: what was observed, or bounds, shape (n,).
        variances: of the noise, shape (n,), positive.
        sides: 0 exact, 1 the observation is at least the value, -1 at most, shape (n,).
    """
    bound = np.flatnonzero(sides)
    if not len(bound):
        return PseudoObservations(values=values, variances=variances, log_probability=0.0)
    exact = np.flatnonzero(sides == 0)
    given, spread = mean[bound], covariance[np.ix_(bound, bound)]
    if len(exact):
        block = covariance[np.ix_(exact, exact)] + np.diag(variances[exact])
        gain = cho_solve(cho_factor(block, lower=True), covariance[np.ix_(exact, bound)]).T
        given = given + gain @ (values[exact] - mean[exact])
        spread = spread - gain @ covariance[np.ix_(exact, bound)]
    sites = _Sites(given, spread, values[bound], variances[bound], sides[bound].astype(np.float64))
    sites.propagate()
    found, found_variances = values.copy(), variances.copy()
    found[bound], found_variances[bound] = sites.values, 1.0 / sites.tau
    return PseudoObservations(
        values=found, variances=found_variances, log_probability=min(sites.log_probability(), 0.0)
    )


class _Sites:
    """Sites of c bounds under the belief N(m, K)."""

    def __init__(self, m: FloatArray, k: FloatArray, bounds: FloatArray, noise: FloatArray, sides: FloatArray) -> None:
        scale = np.diag(k).copy()
        # A belief that is all but certain still has a little room, or precisions would overflow.
        floor = 1e-9 * max(float(scale.max()), float(noise.max()))
        self._m, self._k = m, k + np.diag(np.maximum(floor - scale, 0.0) + 1e-3 * floor)
        self._bounds, self._noise, self._sides = bounds, noise, sides
        self._least = _LEAST_PRECISION / np.diag(self._k)
        self.tau = self._least.copy()
        self.nu = self._least * m
        self._mean, self._covariance = self._posterior()

    @property
    def values(self) -> FloatArray:
        """Where the sites are centred."""
        return self.nu / self.tau

    def propagate(self) -> None:
        """Updates one site after the other until nothing changes."""
        for _ in range(_SWEEPS):
            before = self._mean
            for i in range(len(self.tau)):
                self._update(i)
            self._mean, self._covariance = self._posterior()
            if np.all(np.abs(self._mean - before) <= _SETTLED * np.sqrt(np.diag(self._k))):
                return

    def log_probability(self) -> float:
        """Logarithm of the probability of all bounds (Rasmussen & Williams 2006, Eq. 3.65)."""
        cavity_mean, cavity_variance = self._cavities()
        spread = np.diag(1.0 / self.tau)
        factor = cho_factor(self._k + spread, lower=True)
        gap = self.values - self._m
        between = cavity_variance + 1.0 / self.tau
        logs = log_ndtr(self._z(cavity_mean, cavity_variance, slice(None)))
        return float(
            logs.sum()
            - np.log(np.diag(factor[0])).sum()
            - 0.5 * gap @ cho_solve(factor, gap)
            + 0.5 * np.log(between).sum()
            + 0.5 * ((cavity_mean - self.values) ** 2 / between).sum()
        )

    def _update(self, i: int) -> None:
        variance = self._covariance[i, i]
        cavity_precision = max(1.0 / variance - self.tau[i], self._least[i])
        cavity_variance = 1.0 / cavity_precision
        cavity_mean = (self._mean[i] / variance - self.nu[i]) * cavity_variance
        z = float(self._z(cavity_mean, cavity_variance, i))
        ratio = math.exp(-0.5 * z * z - 0.5 * math.log(2 * math.pi) - float(log_ndtr(z)))
        total = self._noise[i] + cavity_variance
        mean = cavity_mean + self._sides[i] * cavity_variance * ratio / math.sqrt(total)
        shrunk = cavity_variance * (1.0 - cavity_variance / total * ratio * (z + ratio))
        tau = max(1.0 / max(shrunk, 1e-12 * cavity_variance) - cavity_precision, self._least[i])
        change = tau - self.tau[i]
        self.nu[i] = mean * (cavity_precision + tau) - cavity_mean * cavity_precision
        self.tau[i] = tau
        column = self._covariance[:, i]
        self._covariance = self._covariance - np.outer(column, column) * (change / (1.0 + change * variance))
        self._mean = self._m + self._covariance @ (self.nu - self.tau * self._m)

    def _posterior(self) -> tuple[FloatArray, FloatArray]:
        root = np.sqrt(self.tau)
        factor = cho_factor(np.eye(len(root)) + root[:, None] * self._k * root[None, :], lower=True)
        half = root[:, None] * self._k
        covariance = self._k - half.T @ cho_solve(factor, half)
        return self._m + covariance @ (self.nu - self.tau * self._m), covariance

    def _cavities(self) -> tuple[FloatArray, FloatArray]:
        variances = np.diag(self._covariance)
        precision = np.maximum(1.0 / variances - self.tau, self._least)
        return (self._mean / variances - self.nu) / precision, 1.0 / precision

    def _z(self, mean: FloatArray | float, variance: FloatArray | float, at: int | slice) -> FloatArray:
        """How far the belief is on the bound's side, in standard deviations."""
        return np.asarray(self._sides[at] * (mean - self._bounds[at]) / np.sqrt(self._noise[at] + variance))
