"""What earlier tasks say of a new one: Gaussian priors on its configurations.

The model is that of `tuner.surrogates.hierarchical_fit`. Its exact posterior given all earlier tasks, mean
and covariance, becomes the new task's prior under one of three kinds of hypothesis:

* `own`: y = level + mu + a deviation of the task's own,
* `following(s)`: y = level + mu + the deviation of the earlier task s + a smaller one of its own,
* `alone`: nothing is known but how smooth such surfaces are.

With P and b as there and W = (K + P^-1)^-1, mu has at any configurations the mean K W P^-1 b and the covariance
K - K W K, in which nothing is inverted that may be singular.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from tuner.surrogates.hierarchical_fit import Hyperparameters, TaskData
from tuner.surrogates.hierarchical_kernel import FloatArray, GridEncoding, IntArray
from tuner.surrogates.listed_covariance import listed_covariance

_JITTER = 1e-4
"""Least variance of a measurement: a hundredth of the metric's spread."""
_TINY = 1e-14


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A joint normal distribution of one metric on n configurations.

    Attributes:
        mean: shape (n,).
        covariance: shape (n, n), of the noiseless metric.
        noise: variance of one measurement.
    """

    mean: FloatArray
    covariance: FloatArray
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Configurations:
    """What is believed at n configurations; m is the size of the grid.

    Attributes:
        mean: posterior mean of mu, shape (n,).
        smooth: prior covariance of mu, shape (n, n).
        shared, shared_to_grid: posterior covariance of mu, shapes (n, n) and (n, m).
        own, own_to_grid: prior covariance of a deviation, shapes (n, n) and (n, m).
    """

    mean: FloatArray
    smooth: FloatArray
    shared: FloatArray
    shared_to_grid: FloatArray
    own: FloatArray
    own_to_grid: FloatArray


class HierarchicalModel:
    """The posterior of one metric's shared part, given the earlier tasks."""

    def __init__(
        self,
        encoding: GridEncoding,
        codes: IntArray,
        tasks: Sequence[TaskData],
        hyperparameters: Hyperparameters,
    ) -> None:
        """Computes the posterior.

        Args:
            encoding: of every configuration that will be asked about.
            codes: of the grid, the distinct configurations of the earlier tasks, shape (m, p).
            tasks: earlier tasks; their indices are rows of the grid.
            hyperparameters: of this metric.
        """
        self._encoding = encoding
        self._hyperparameters = hyperparameters
        self._codes = codes
        self._tasks = tuple(tasks)
        self._level = float(np.exp(2.0 * hyperparameters.level))
        self._noise = float(np.exp(2.0 * hyperparameters.noise))
        self._latest: tuple[IntArray, _Configurations] | None = None
        size = len(codes)
        shared, own = self._shared_covariance(codes, codes), self._own_covariance(codes, codes)
        precision, projected = np.zeros((size, size)), np.zeros(size)
        self._inverses: list[FloatArray] = []
        for task in self._tasks:
            inverse = self._remainder_inverse(task, own)
            self._inverses.append(inverse)
            precision[np.ix_(task.index, task.index)] += inverse
            projected[task.index] += inverse @ task.values
        # W = R (I + R^T K R)^-1 R^T with P = R R^T: without the cancellation that P - P S P suffers from.
        spectrum, vectors = np.linalg.eigh(precision)
        root = vectors * np.sqrt(np.maximum(spectrum, 0.0))
        inner = cholesky(np.eye(size) + root.T @ shared @ root, lower=True)
        self._whitener: FloatArray = solve_triangular(inner, root.T, lower=True)
        # b lies in the range of P = R R^T, so that W applied to P^-1 b is R (I + R^T K R)^-1 R^+ b.
        inverse_root = np.where(spectrum > _TINY * spectrum.max(), 1.0 / np.sqrt(np.maximum(spectrum, _TINY)), 0.0)
        self._weights: FloatArray = self._whitener.T @ solve_triangular(
            inner, inverse_root * (vectors.T @ projected), lower=True
        )
        self._grid_prior = shared
        grid_explained = shared @ self._whitener.T
        self._grid_shared: FloatArray = shared - grid_explained @ grid_explained.T
        self._grid_mean: FloatArray = shared @ self._weights

    def own(self, codes: IntArray, *, spread: float = 1.0) -> Gaussian:
        """The prior of a new task with a deviation of its own, on configurations of shape (n, p).

        Args:
            codes: configurations.
            spread: standard deviation of that deviation, relative to the earlier tasks'.
        """
        at = self._at(codes)
        return Gaussian(at.mean, at.shared + spread**2 * at.own + self._target_level, self._noise)

    def alone(self, codes: IntArray) -> Gaussian:
        """The prior of a new task to which nothing but the covariances transfers."""
        at = self._at(codes)
        return Gaussian(np.zeros(len(codes)), at.smooth + at.own + self._target_level, self._noise)

    def following(self, codes: IntArray, *, deviation: float) -> list[Gaussian]:
        """For each earlier task, the prior of a new task that deviates as that one does.

        Args:
            codes: configurations.
            deviation: standard deviation of what is left to the new task alone, as a share of a
                task's own deviation.
        """
        at = self._at(codes)
        rest = self._target_level + (1.0 + deviation**2) * at.own
        followed = []
        for task, inverse in zip(self._tasks, self._inverses, strict=True):
            cross = at.own_to_grid[:, task.index]
            gain = cross @ inverse
            lifted = at.shared_to_grid[:, task.index] @ gain.T
            there = self._grid_shared[np.ix_(task.index, task.index)]
            covered = at.shared - lifted - lifted.T + gain @ there @ gain.T
            followed.append(
                Gaussian(
                    at.mean + gain @ (task.values - self._grid_mean[task.index]),
                    covered - gain @ cross.T + rest,
                    self._noise,
                )
            )
        return followed

    @property
    def _target_level(self) -> float:
        # The spread of few tasks' levels is known badly.
        return self._level * (1.0 + 3.0 / len(self._tasks)) if self._tasks else self._level

    def _at(self, codes: IntArray) -> _Configurations:
        """What all hypotheses need to know of some configurations, kept for the next one."""
        if self._latest is None or not np.array_equal(self._latest[0], codes):
            smooth, to_grid = self._shared_covariance(codes, codes), self._shared_covariance(codes, self._codes)
            explained, grid_explained = to_grid @ self._whitener.T, self._grid_prior @ self._whitener.T
            found = _Configurations(
                mean=to_grid @ self._weights,
                smooth=smooth,
                shared=smooth - explained @ explained.T,
                shared_to_grid=to_grid - explained @ grid_explained.T,
                own=self._own_covariance(codes, codes),
                own_to_grid=self._own_covariance(codes, self._codes),
            )
            self._latest = (codes, found)
        return self._latest[1]

    def _shared_covariance(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._covariance(self._hyperparameters.shared, left, right)

    def _own_covariance(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._covariance(self._hyperparameters.own, left, right)

    def _covariance(self, theta: FloatArray, left: IntArray, right: IntArray) -> FloatArray:
        return listed_covariance(theta, self._hyperparameters.embedding, self._encoding, left, right)

    def _remainder_inverse(self, task: TaskData, own: FloatArray) -> FloatArray:
        remainder = own[np.ix_(task.index, task.index)] + self._level
        remainder = remainder + np.diag(self._noise / task.repeats + _JITTER)
        return np.asarray(cho_solve(cho_factor(remainder, lower=True), np.eye(len(task.index))))
