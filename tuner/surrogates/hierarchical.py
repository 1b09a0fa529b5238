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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from tuner.surrogates.hierarchical_fit import Hyperparameters, TaskData
from tuner.surrogates.hierarchical_kernel import FloatArray, GridEncoding, IntArray
from tuner.surrogates.listed_covariance import ListedCovariance
from tuner.surrogates.listed_gaussian import (
    Gaussian,
    Lessened,
    LessenedSurface,
    Outline,
    Surface,
    WholeSurface,
    same_rows,
)

_JITTER = 1e-4
"""Least variance of a measurement: a hundredth of the metric's spread."""
_TINY = 1e-14
_UNEXPLAINED = 0.01 * _JITTER
"""Variance per configuration of the grid that is left in the posterior of the shared part for speed."""
_OUTLINED = 64
"""Rows of the whitener that outlines make do with."""


@dataclass(frozen=True, slots=True, eq=False)
class _Knowledge:
    """What lists need of a model: that refers to its latest list, and a list that did to it would outlive them both.

    Attributes: as of `HierarchicalModel`.
    """

    codes: IntArray
    shared: ListedCovariance
    deviating: ListedCovariance
    whitener: FloatArray
    weights: FloatArray


class _Configurations:
    """What is believed at listed configurations, each part computed when it is first needed.

    Args:
        model: what the tasks say; m is the size of its grid.
        codes: shape (n, p).
        rank: how much of what the tasks explain is looked at: how many rows of the model's whitener.
        known: parts that need not be computed, by name.
    """

    def __init__(
        self, model: _Knowledge, codes: IntArray, rank: int | None = None, known: Mapping[str, FloatArray] | None = None
    ) -> None:
        self._model = model
        self.codes = codes
        self.rank = rank
        # Where a cached property keeps what it found.
        self.__dict__.update(known or {})

    @cached_property
    def from_grid(self) -> FloatArray:
        """Prior covariance of mu with the grid, shape (m, n)."""
        return self._model.shared.between(self._model.codes, self.codes)

    @cached_property
    def own_from_grid(self) -> FloatArray:
        """Prior covariance of a deviation with the grid, shape (m, n)."""
        return self._model.deviating.between(self._model.codes, self.codes)

    @cached_property
    def smooth(self) -> FloatArray:
        """Prior covariance of mu, shape (n, n)."""
        return self._model.shared.between(self.codes, self.codes)

    @cached_property
    def own(self) -> FloatArray:
        """Prior covariance of a deviation, shape (n, n)."""
        return self._model.deviating.between(self.codes, self.codes)

    @cached_property
    def explained(self) -> FloatArray:
        """Root of what the tasks explain of the covariance of mu, shape (rank, n)."""
        return np.asarray(self._model.whitener[: self.rank] @ self.from_grid)

    @cached_property
    def mean(self) -> FloatArray:
        """Posterior mean of mu, shape (n,)."""
        return np.asarray(self._model.weights @ self.from_grid)

    @cached_property
    def covariance(self) -> FloatArray:
        """Posterior covariance of mu, shape (n, n)."""
        return self.smooth - self.explained.T @ self.explained


class _List(_Configurations):
    """All configurations of a list, each by itself: variances are a little too large.

    Args:
        model: what the tasks say.
        codes: shape (n, p).
    """

    def __init__(self, model: _Knowledge, codes: IntArray) -> None:
        super().__init__(model, codes, _OUTLINED)
        self._latest: tuple[IntArray, _Configurations] | None = None
        self._latest_columns: tuple[IntArray, tuple[FloatArray, FloatArray]] | None = None

    def at(self, rows: IntArray) -> _Configurations:
        """Some of them, exactly; kept for the next hypothesis that asks."""
        if self._latest is None or not same_rows(self._latest[0], rows):
            parts = ("from_grid", "own_from_grid")
            known = {part: self.__dict__[part][:, rows] for part in parts if part in self.__dict__}
            self._latest = (rows, _Configurations(self._model, self.codes[rows], known=known))
        return self._latest[1]

    @cached_property
    def variances(self) -> FloatArray:
        """Posterior variances of mu, shape (n,)."""
        return np.asarray(self.smooth_variances - np.einsum("ij,ij->j", self.explained, self.explained))

    @cached_property
    def smooth_variances(self) -> FloatArray:
        """Prior variances of mu, shape (n,)."""
        return self._model.shared.variances(self.codes)

    @cached_property
    def own_variances(self) -> FloatArray:
        """Prior variances of a deviation, shape (n,)."""
        return self._model.deviating.variances(self.codes)

    def columns(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Prior covariances of mu and of a deviation with some of them, shape (n, k) each, kept likewise."""
        if self._latest_columns is None or not same_rows(self._latest_columns[0], rows):
            some, model = self.codes[rows], self._model
            found = (model.shared.between(self.codes, some), model.deviating.between(self.codes, some))
            self._latest_columns = (rows, found)
        return self._latest_columns[1]


class HierarchicalModel:
    """The posterior of one metric's shared part, given the earlier tasks.

    Attributes:
        codes: of the grid, shape (m, p).
        shared, deviating: covariances of mu and of a deviation.
        whitener: V with V^T V = W but for what hardly explains anything, shape (r, m), r <= m; its first rows explain
            most of the covariance on the grid.
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
        self.shared = ListedCovariance(hyperparameters.shared, hyperparameters.embedding, encoding)
        self.deviating = ListedCovariance(hyperparameters.own, hyperparameters.embedding, encoding)
        self.codes = codes
        self._tasks = tuple(tasks)
        self._level = float(np.exp(2.0 * hyperparameters.level))
        self._noise = float(np.exp(2.0 * hyperparameters.noise))
        self._latest: _List | None = None
        size = len(codes)
        shared, own = self.shared.between(codes, codes), self.deviating.between(codes, codes)
        precision, projected = np.zeros((size, size)), np.zeros(size)
        covariances: list[FloatArray] = []
        self._inverses: list[FloatArray] = []
        for task in self._tasks:
            covariance = self._own_covariance(task, own)
            inverse = cho_solve(cho_factor(covariance, lower=True), np.eye(len(task.index)))
            covariances.append(covariance)
            self._inverses.append(inverse)
            precision[np.ix_(task.index, task.index)] += inverse
            projected[task.index] += inverse @ task.values
        # W = R (I + R^T K R)^-1 R^T with P = R R^T: without the cancellation that P - P S P suffers from.
        spectrum, vectors = np.linalg.eigh(precision)
        root = vectors * np.sqrt(np.maximum(spectrum, 0.0))
        inner = cholesky(np.eye(size) + root.T @ shared @ root, lower=True)
        whitener = solve_triangular(inner, root.T, lower=True)
        # b lies in the range of P = R R^T, so that W applied to P^-1 b is R (I + R^T K R)^-1 R^+ b.
        inverse_root = np.where(
            spectrum > _TINY * spectrum.max(initial=0.0), 1.0 / np.sqrt(np.maximum(spectrum, _TINY)), 0.0
        )
        self.weights: FloatArray = whitener.T @ solve_triangular(
            inner, inverse_root * (vectors.T @ projected), lower=True
        )
        # W = (Q V)^T (Q V) for any rotation Q: this one puts what explains most first; the last rows hardly explain
        # anything and are left out.
        half = whitener @ shared
        explaining, turns = np.linalg.eigh(half @ half.T)
        least = int(np.searchsorted(np.cumsum(explaining), _UNEXPLAINED * size))
        self.whitener: FloatArray = turns.T[least:][::-1] @ whitener
        explained = shared @ self.whitener.T
        grid_shared, grid_mean = shared - explained @ explained.T, shared @ self.weights
        self._knowledge = _Knowledge(codes, self.shared, self.deviating, self.whitener, self.weights)
        self._task_explained = [explained[task.index] for task in self._tasks]
        self._remainders = [task.values - grid_mean[task.index] for task in self._tasks]
        self._half_spreads = [
            0.5 * (covariance + grid_shared[np.ix_(task.index, task.index)])
            for task, covariance in zip(self._tasks, covariances, strict=True)
        ]

    def own(self, codes: IntArray, *, spread: float = 1.0) -> Gaussian:
        """The prior of a new task with a deviation of its own, on configurations of shape (n, p).

        Args:
            codes: configurations.
            spread: standard deviation of that deviation, relative to the earlier tasks'.
        """
        return self._gaussian(self._deviating(self._list(codes), spread))

    def alone(self, codes: IntArray) -> Gaussian:
        """The prior of a new task to which nothing but the covariances transfers."""
        listed = self._list(codes)

        def moments(rows: IntArray) -> tuple[FloatArray, FloatArray]:
            at = listed.at(rows)
            return np.zeros(len(rows)), at.smooth + at.own

        def outline(rows: IntArray) -> Outline:
            smooth, own = listed.columns(rows)
            variances = listed.smooth_variances + listed.own_variances
            return Outline(mean=np.zeros(len(codes)), variances=variances, columns=smooth + own)

        return self._gaussian(WholeSurface(moments, outline))

    def following(self, codes: IntArray, *, deviation: float) -> list[Gaussian]:
        """For each earlier task, the prior of a new task that deviates as that one does.

        Args:
            codes: configurations.
            deviation: standard deviation of what is left to the new task alone, as a share of a
                task's own deviation.
        """
        listed = self._list(codes)
        base = self._deviating(listed, math.sqrt(1.0 + deviation**2))

        def follower(task: int) -> LessenedSurface:
            return LessenedSurface(
                base, lambda rows: self._followed(listed.at(rows), task), lambda: self._followed(listed, task)
            )

        return [self._gaussian(follower(task)) for task in range(len(self._tasks))]

    def _followed(self, at: _Configurations, task: int) -> Lessened:
        """The earlier task's deviation is a deviation less what it is known not to be.

        That is, G (v - (y - mean of mu)) with what mu, deviation and errors v may have been at its rows, and G the
        gain from v less mu to the deviation.
        """
        index = self._tasks[task].index
        deviation = at.own_from_grid[index].T
        gain = deviation @ self._inverses[task]
        cross = deviation + (at.from_grid[index] - self._task_explained[task][:, : at.rank] @ at.explained).T
        return Lessened(
            mean=at.mean + gain @ self._remainders[task],
            gain=gain,
            half=cross - gain @ self._half_spreads[task],
        )

    def _deviating(self, listed: _List, spread: float) -> WholeSurface:
        def moments(rows: IntArray) -> tuple[FloatArray, FloatArray]:
            at = listed.at(rows)
            return at.mean, at.covariance + spread**2 * at.own

        def outline(rows: IntArray) -> Outline:
            smooth, own = listed.columns(rows)
            return Outline(
                mean=listed.mean,
                variances=listed.variances + spread**2 * listed.own_variances,
                columns=smooth - listed.explained.T @ listed.explained[:, rows] + spread**2 * own,
            )

        return WholeSurface(moments, outline)

    def _gaussian(self, surface: Surface) -> Gaussian:
        return Gaussian(surface=surface, noise=self._noise, level=self._target_level)

    @property
    def _target_level(self) -> float:
        # The spread of few tasks' levels is known badly.
        return self._level * (1.0 + 3.0 / len(self._tasks)) if self._tasks else self._level

    def _list(self, codes: IntArray) -> _List:
        """What all hypotheses need to know of a list, kept for the next one."""
        if self._latest is None or not same_rows(self._latest.codes, codes):
            self._latest = _List(self._knowledge, codes)
        return self._latest

    def _own_covariance(self, task: TaskData, own: FloatArray) -> FloatArray:
        """Covariance of what an earlier task measured, less mu."""
        found = own[np.ix_(task.index, task.index)] + self._level
        return found + np.diag(self._noise / task.repeats + _JITTER)
