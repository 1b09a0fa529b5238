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

import functools
import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from tuner.surrogates.hierarchical_fit import Hyperparameters, TaskData
from tuner.surrogates.hierarchical_kernel import FloatArray, GridEncoding, IntArray
from tuner.surrogates.listed_covariance import ListedCovariance
from tuner.surrogates.listed_gaussian import Gaussian, Lessened, LessenedSurface, Surface, WholeSurface

_JITTER = 1e-4
"""Least variance of a measurement: a hundredth of the metric's spread."""
_TINY = 1e-14


class _Configurations:
    """What is believed at n configurations, each part computed when it is first needed; m is the size of the grid.

    Args:
        model: that believes it.
        codes: shape (n, p).
    """

    def __init__(self, model: HierarchicalModel, codes: IntArray) -> None:
        self._model = model
        self.codes = codes

    @cached_property
    def smooth(self) -> FloatArray:
        """Prior covariance of mu, shape (n, n)."""
        return self._model.shared_covariance(self.codes, self.codes)

    @cached_property
    def own(self) -> FloatArray:
        """Prior covariance of a deviation, shape (n, n)."""
        return self._model.own_covariance(self.codes, self.codes)

    @cached_property
    def from_grid(self) -> FloatArray:
        """Prior covariance of mu, shape (m, n)."""
        return self._model.shared_covariance(self._model.codes, self.codes)

    @cached_property
    def own_from_grid(self) -> FloatArray:
        """Prior covariance of a deviation, shape (m, n)."""
        return self._model.own_covariance(self._model.codes, self.codes)

    @cached_property
    def explained(self) -> FloatArray:
        """Root of what the tasks explain of the covariance of mu, shape (m, n)."""
        return np.asarray(self._model.whitener @ self.from_grid)

    @cached_property
    def mean(self) -> FloatArray:
        """Posterior mean of mu, shape (n,)."""
        return np.asarray(self._model.weights @ self.from_grid)

    @cached_property
    def shared(self) -> FloatArray:
        """Posterior covariance of mu, shape (n, n)."""
        return self.smooth - self.explained.T @ self.explained


class HierarchicalModel:
    """The posterior of one metric's shared part, given the earlier tasks.

    Attributes:
        codes: of the grid, shape (m, p).
        whitener: V with V^T V = W, shape (m, m).
        weights: W P^-1 b, shape (m,).
    """

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
        self._shared = ListedCovariance(hyperparameters.shared, hyperparameters.embedding, encoding)
        self._own = ListedCovariance(hyperparameters.own, hyperparameters.embedding, encoding)
        self.codes = codes
        self._tasks = tuple(tasks)
        self._level = float(np.exp(2.0 * hyperparameters.level))
        self._noise = float(np.exp(2.0 * hyperparameters.noise))
        self._latest: _Configurations | None = None
        size = len(codes)
        shared, own = self.shared_covariance(codes, codes), self.own_covariance(codes, codes)
        precision, projected = np.zeros((size, size)), np.zeros(size)
        remainders: list[FloatArray] = []
        self._inverses: list[FloatArray] = []
        for task in self._tasks:
            remainder = self._remainder(task, own)
            inverse = cho_solve(cho_factor(remainder, lower=True), np.eye(len(task.index)))
            remainders.append(remainder)
            self._inverses.append(inverse)
            precision[np.ix_(task.index, task.index)] += inverse
            projected[task.index] += inverse @ task.values
        # W = R (I + R^T K R)^-1 R^T with P = R R^T: without the cancellation that P - P S P suffers from.
        spectrum, vectors = np.linalg.eigh(precision)
        root = vectors * np.sqrt(np.maximum(spectrum, 0.0))
        inner = cholesky(np.eye(size) + root.T @ shared @ root, lower=True)
        self.whitener: FloatArray = solve_triangular(inner, root.T, lower=True)
        # b lies in the range of P = R R^T, so that W applied to P^-1 b is R (I + R^T K R)^-1 R^+ b.
        inverse_root = np.where(
            spectrum > _TINY * spectrum.max(initial=0.0), 1.0 / np.sqrt(np.maximum(spectrum, _TINY)), 0.0
        )
        self.weights: FloatArray = self.whitener.T @ solve_triangular(
            inner, inverse_root * (vectors.T @ projected), lower=True
        )
        self._grid_explained: FloatArray = shared @ self.whitener.T
        grid_shared = shared - self._grid_explained @ self._grid_explained.T
        self._grid_mean: FloatArray = shared @ self.weights
        self._spreads = [
            remainder + grid_shared[np.ix_(task.index, task.index)]
            for task, remainder in zip(self._tasks, remainders, strict=True)
        ]

    def own(self, codes: IntArray, *, spread: float = 1.0) -> Gaussian:
        """The prior of a new task with a deviation of its own, on configurations of shape (n, p).

        Args:
            codes: configurations.
            spread: standard deviation of that deviation, relative to the earlier tasks'.
        """
        return self._gaussian(self._deviating(codes, spread))

    def alone(self, codes: IntArray) -> Gaussian:
        """The prior of a new task to which nothing but the covariances transfers."""
        return self._gaussian(self._surface(codes, lambda at: (np.zeros(len(at.codes)), at.smooth + at.own)))

    def following(self, codes: IntArray, *, deviation: float) -> list[Gaussian]:
        """For each earlier task, the prior of a new task that deviates as that one does.

        Args:
            codes: configurations.
            deviation: standard deviation of what is left to the new task alone, as a share of a
                task's own deviation.
        """
        base = self._deviating(codes, math.sqrt(1.0 + deviation**2))
        return [
            self._gaussian(LessenedSurface(base, functools.partial(self._followed, codes, at)))
            for at in range(len(self._tasks))
        ]

    def _followed(self, codes: IntArray, task: int, rows: IntArray) -> Lessened:
        """The earlier task's deviation is a deviation less what it is known not to be.

        That is, G (v - (y - mean of mu)) with what mu, deviation and errors v may have been at its rows, and G the
        gain from v less mu to the deviation.
        """
        at, index = self._at(codes[rows]), self._tasks[task].index
        deviation = at.own_from_grid[index].T
        gain = deviation @ self._inverses[task]
        return Lessened(
            mean=at.mean + gain @ (self._tasks[task].values - self._grid_mean[index]),
            gain=gain,
            cross=deviation + (at.from_grid[index] - self._grid_explained[index] @ at.explained).T,
            spread=self._spreads[task],
        )

    def _deviating(self, codes: IntArray, spread: float) -> WholeSurface:
        return self._surface(codes, lambda at: (at.mean, at.shared + spread**2 * at.own))

    def _surface(
        self, codes: IntArray, moments: Callable[[_Configurations], tuple[FloatArray, FloatArray]]
    ) -> WholeSurface:
        return WholeSurface(len(codes), lambda rows: moments(self._at(codes[rows])))

    def _gaussian(self, surface: Surface) -> Gaussian:
        return Gaussian(surface=surface, noise=self._noise, level=self._target_level)

    @property
    def _target_level(self) -> float:
        # The spread of few tasks' levels is known badly.
        return self._level * (1.0 + 3.0 / len(self._tasks)) if self._tasks else self._level

    def _at(self, codes: IntArray) -> _Configurations:
        """What all hypotheses need to know of some configurations, kept for the next one."""
        if self._latest is None or not np.array_equal(self._latest.codes, codes):
            self._latest = _Configurations(self, codes)
        return self._latest

    def shared_covariance(self, left: IntArray, right: IntArray) -> FloatArray:
        """Prior covariance of mu between configurations, shapes (n, p) and (k, p) -> (n, k)."""
        return self._shared.between(left, right)

    def own_covariance(self, left: IntArray, right: IntArray) -> FloatArray:
        """Prior covariance of a deviation between configurations, shapes (n, p) and (k, p) -> (n, k)."""
        return self._own.between(left, right)

    def _remainder(self, task: TaskData, own: FloatArray) -> FloatArray:
        remainder = own[np.ix_(task.index, task.index)] + self._level
        return remainder + np.diag(self._noise / task.repeats + _JITTER)
