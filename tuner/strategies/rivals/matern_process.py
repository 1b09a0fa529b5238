"""A plain Gaussian process for the rivals: Matern 5/2, one length scale per feature, maximum likelihood."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from tuner.strategies.listed_problem import FloatArray


class MaternProcess:
    """Fitted to standardised values; hyperparameters have wide log-normal priors, so that few points suffice."""

    def __init__(self, points: FloatArray, values: FloatArray) -> None:
        """Fits; points of shape (n, d) in the unit cube, n >= 1."""
        self._points = points
        self._centre = float(values.mean())
        self._scale = float(values.std()) or 1.0
        self._values: FloatArray = (values - self._centre) / self._scale
        start = np.concatenate([np.full(points.shape[1], math.log(0.5)), [math.log(1e-2)]])
        found: Any = minimize(
            self._loss,
            start,
            args=(start,),
            method="L-BFGS-B",
            bounds=[(math.log(0.05), math.log(10.0))] * points.shape[1] + [(math.log(1e-4), 0.0)],
            options={"maxiter": 25},
        )
        self._lengths: FloatArray = np.exp(found.x[:-1])
        self._factor = cho_factor(self._covariance(self._lengths, float(np.exp(found.x[-1]))), lower=True)
        self._alpha: FloatArray = cho_solve(self._factor, self._values)

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation, each of shape (N,), in the units of the values."""
        cross = matern(points / self._lengths, self._points / self._lengths)
        mean = cross @ self._alpha
        variance = 1.0 - np.einsum("ij,ji->i", cross, cho_solve(self._factor, cross.T))
        return mean * self._scale + self._centre, np.sqrt(np.maximum(variance, 1e-10)) * self._scale

    def _covariance(self, lengths: FloatArray, noise: float) -> FloatArray:
        scaled = self._points / lengths
        return matern(scaled, scaled) + (noise + 1e-8) * np.eye(len(scaled))

    def _loss(self, packed: FloatArray, centre: FloatArray) -> float:
        try:
            factor = cho_factor(self._covariance(np.exp(packed[:-1]), float(np.exp(packed[-1]))), lower=True)
        except LinAlgError:
            return 1e10
        fit = 0.5 * self._values @ cho_solve(factor, self._values) + np.log(np.diag(factor[0])).sum()
        return float(fit + 0.5 * (((packed - centre) / 1.5) ** 2).sum())


def matern(left: FloatArray, right: FloatArray) -> FloatArray:
    """Matern 5/2 correlations of scaled points (Rasmussen & Williams, Eq. 4.17)."""
    distance = math.sqrt(5.0) * cdist(left, right)
    return np.asarray((1.0 + distance + distance**2 / 3.0) * np.exp(-distance))
