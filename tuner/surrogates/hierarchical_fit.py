"""Hyperparameters of a hierarchical Gaussian process, by penalised marginal likelihood.

    y_t(x) = level_t + mu(x) + delta_t(x) + noise          for every earlier task t

mu is shared, level and delta are each task's own. Given mu the tasks are independent, so with K the
covariance of mu on the m distinct configurations, D_t that of a task's remainder, and H_t the rows it
measured,

    log p(y) = sum_t log N(y_t; 0, D_t) - 1/2 log|I + L^T P L| + 1/2 b^T L (I + L^T P L)^-1 L^T b,
    K = L L^T,   P = sum_t H_t^T D_t^-1 H_t,   b = sum_t H_t^T D_t^-1 y_t

which costs O(m^3 + sum n_t^3) instead of O((sum n_t)^3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize

from tuner.surrogates.hierarchical_kernel import FloatArray, GridEncoding, IntArray, KernelTables, covariance

_JITTER = 1e-4
_TIE = 0.8
"""Centre of the ties before tanh: two words of which no task knows anything are 0.44 alike."""
_STEEP = 2.0
"""Centre of the slopes, per three octaves, relative to the amplitudes of the other parts."""
_LEAST_VARIANCE = 1e-12
"""Within tasks, where all values of each are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What was measured of one metric in one task.

    Attributes:
        index: rows of the grid, distinct, shape (n,).
        values: mean over repeats, shape (n,), in units of the metric's spread.
        repeats: how many were averaged, shape (n,).
    """

    index: IntArray
    values: FloatArray
    repeats: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """What the tasks have in common beside mu.

    Attributes:
        shared, own: theta of mu and of delta.
        embedding: of the latent coordinates, shape (L, size).
        level: log standard deviation of a task's level.
        noise: log standard deviation of one measurement.
        told: how much likelier they make the tasks' values than levels and independent errors do, in nats per value:
            about -ln(1 - R^2) / 2 if a share R^2 of the variance within tasks follows from the configuration.
    """

    shared: FloatArray
    own: FloatArray
    embedding: FloatArray
    level: float
    noise: float
    told: float = 0.0


def default_hyperparameters(encoding: GridEncoding) -> Hyperparameters:
    """The centre of the hyperparameters' prior."""
    layout = encoding.layout
    count, words = len(encoding.values), sum(layout.tied)

    def theta(amplitude: float) -> FloatArray:
        return np.concatenate(
            [
                np.full(2 * count, np.log(0.7)),
                np.full(1 + count + (1 if layout.latents else 0), np.log(amplitude)),
                np.zeros(layout.latents),
                np.full(2 * words, _TIE),
                np.full(count, np.log(_STEEP * amplitude)),
            ]
        )

    embedding = np.zeros(layout.embedding_shape)
    start = 0
    for at, basis in enumerate(encoding.bases):
        width = basis.shape[1]
        place = np.ones(1) if width == 1 else np.linspace(-0.1, 0.1, width)
        embedding[:, start : start + width] = place
        # The second coordinate begins as a difference of parameters: alike, both would stay alike.
        embedding[1::2, start : start + width] *= 1.0 if at % 2 else -1.0
        start += width
    return Hyperparameters(
        shared=theta(0.5), own=theta(0.25), embedding=embedding, level=0.0, noise=float(np.log(0.05))
    )


def fit_hyperparameters(
    encoding: GridEncoding,
    codes: IntArray,
    tasks: Sequence[TaskData],
    *,
    iterations: int = 120,
    prior_std: float = 1.0,
) -> Hyperparameters:
    """The hyperparameters with the highest posterior density.

    Args:
        encoding: of the grid.
        codes: of the grid's configurations, shape (m, p).
        tasks: the earlier tasks; values are about standardised.
        iterations: at most, of L-BFGS.
        prior_std: standard deviation of each log hyperparameter around its default.
    """
    default = default_hyperparameters(encoding)
    if not tasks:
        return default
    tables = KernelTables.of(encoding)
    start = _pack(default)
    objective = _Objective(tables, codes, tasks, start, prior_std)
    bounds = [(value - 4.0, value + 3.0) for value in start]
    found: Any = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations, "ftol": 1e-5}
    )
    fitted = _unpack(np.asarray(found.x), tables)
    return replace(fitted, told=_told(objective.penalty(found.x) - float(found.fun), tasks))


def _told(log_likelihood: float, tasks: Sequence[TaskData]) -> float:
    """See `Hyperparameters.told`; like `log_likelihood` without the constant of the normal density."""
    count = sum(len(task.values) for task in tasks)
    squares = sum(float(((task.values - task.values.mean()) ** 2).sum()) for task in tasks)
    variance = max(squares / max(count - len(tasks), 1), _LEAST_VARIANCE)
    return (log_likelihood + 0.5 * count * (1.0 + math.log(variance))) / count


def _pack(hyperparameters: Hyperparameters) -> FloatArray:
    return np.concatenate(
        [
            hyperparameters.shared,
            hyperparameters.own,
            hyperparameters.embedding.ravel(),
            [hyperparameters.level, hyperparameters.noise],
        ]
    )


def _unpack(packed: FloatArray, tables: KernelTables) -> Hyperparameters:
    size = tables.layout.size
    return Hyperparameters(
        shared=packed[:size],
        own=packed[size : 2 * size],
        embedding=packed[2 * size : -2].reshape(tables.layout.embedding_shape),
        level=float(packed[-2]),
        noise=float(packed[-1]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class TaskGroup:
    """Tasks that measured the same rows as often: their remainders have one covariance.

    Attributes:
        index, repeats: as of `TaskData`.
        values: one column per task, shape (n, tasks).
    """

    index: IntArray
    repeats: FloatArray
    values: FloatArray


def grouped(tasks: Sequence[TaskData]) -> list[TaskGroup]:
    """The tasks by what they measured."""
    found: dict[tuple[bytes, bytes], list[TaskData]] = {}
    for task in tasks:
        found.setdefault((task.index.tobytes(), task.repeats.tobytes()), []).append(task)
    return [
        TaskGroup(alike[0].index, alike[0].repeats, np.column_stack([task.values for task in alike]))
        for alike in found.values()
    ]


class _Objective:
    """Negative log posterior density of packed hyperparameters, with its gradient.

    The gradient in the covariances is in closed form; torch carries it on to the hyperparameters.
    """

    def __init__(
        self,
        tables: KernelTables,
        codes: IntArray,
        tasks: Sequence[TaskData],
        centre: FloatArray,
        prior_std: float,
    ) -> None:
        self._tables = tables
        self._codes = torch.from_numpy(codes)
        self._groups = grouped(tasks)
        self._centre = centre
        self._prior_std = prior_std

    def __call__(self, packed: FloatArray) -> tuple[float, FloatArray]:
        size = self._tables.layout.size
        theta = torch.tensor(packed, dtype=torch.float64, requires_grad=True)
        embedding = theta[2 * size : -2].reshape(self._tables.layout.embedding_shape)
        shared = covariance(theta[:size], embedding, self._tables, self._codes, self._codes)
        own = covariance(theta[size : 2 * size], embedding, self._tables, self._codes, self._codes)
        level, noise = np.exp(2.0 * packed[-2:]).tolist()
        try:
            found = log_likelihood(shared.detach().numpy(), own.detach().numpy(), level, noise, self._groups)
        except LinAlgError:  # a covariance that is not positive definite
            return 1e10, np.zeros_like(packed)
        torch.autograd.backward([shared, own], [torch.from_numpy(found.by_shared), torch.from_numpy(found.by_own)])
        assert theta.grad is not None
        gradient = theta.grad.numpy()
        gradient[-2:] += 2.0 * level * found.by_own.sum(), 2.0 * noise * found.by_noise
        return self.penalty(packed) - found.value, (packed - self._centre) / self._prior_std**2 - gradient

    def penalty(self, packed: FloatArray) -> float:
        """Negative log prior density, without its constant."""
        gap = (packed - self._centre) / self._prior_std
        return 0.5 * float(gap @ gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLikelihood:
    """log p(y) and its derivatives by K and by the covariance of the deviations, shapes (m, m), and by the noise."""

    value: float
    by_shared: FloatArray
    by_own: FloatArray
    by_noise: float


def log_likelihood(
    shared: FloatArray, own: FloatArray, level: float, noise: float, groups: Sequence[TaskGroup]
) -> LogLikelihood:
    """See the module.

    With S = (K^-1 + P)^-1 and mu = S b, the derivative by K is (a a^T - W) / 2 where a = b - P mu and
    W = P - P S P, and that by D_t is (r r^T - D_t^-1 + D_t^-1 S_tt D_t^-1) / 2 where r = D_t^-1 (y_t - mu_t).

    Args:
        shared, own: covariances of mu and of the deviations, shape (m, m).
        level, noise: variances.
        groups: of tasks.

    Raises:
        LinAlgError: a covariance is not positive definite.
    """
    count = len(shared)
    precision, projected, value = np.zeros((count, count)), np.zeros(count), 0.0
    inverses = []
    for group in groups:
        block = np.ix_(group.index, group.index)
        tasks = group.values.shape[1]
        inverse, log_determinant = _inverse(own[block] + level + np.diag(noise / group.repeats + _JITTER))
        solved = inverse @ group.values
        value -= 0.5 * float((group.values * solved).sum()) + 0.5 * tasks * log_determinant
        precision[block] += tasks * inverse
        projected[group.index] += solved.sum(axis=1)
        inverses.append(inverse)
    root = cholesky(shared + _JITTER * np.eye(count), lower=True, check_finite=False)
    weighted = precision @ root
    inner = cholesky(np.eye(count) + root.T @ weighted, lower=True, check_finite=False)
    halved = solve_triangular(inner, np.column_stack([root.T, weighted.T]), lower=True, check_finite=False)
    posterior_half, weighted_half = halved[:, :count], halved[:, count:]
    whitened = posterior_half @ projected
    mean = posterior_half.T @ whitened
    value += 0.5 * float(whitened @ whitened) - float(np.log(np.diag(inner)).sum())
    posterior = posterior_half.T @ posterior_half
    rest = projected - precision @ mean
    by_own, by_noise = np.zeros((count, count)), 0.0
    for group, inverse in zip(groups, inverses, strict=True):
        block = np.ix_(group.index, group.index)
        residual = inverse @ (group.values - mean[group.index, None])
        tasks = group.values.shape[1]
        found = 0.5 * (residual @ residual.T + tasks * (inverse @ posterior[block] @ inverse - inverse))
        by_own[block] += found
        by_noise += float((np.diag(found) / group.repeats).sum())
    by_shared = 0.5 * (np.outer(rest, rest) - precision + weighted_half.T @ weighted_half)
    return LogLikelihood(value=value, by_shared=by_shared, by_own=by_own, by_noise=by_noise)


def _inverse(block: FloatArray) -> tuple[FloatArray, float]:
    """Inverse and logarithm of the determinant of a positive definite matrix."""
    root = cholesky(block, lower=True, check_finite=False)
    half, _ = dtrtri(root, lower=True)
    return half.T @ half, 2.0 * float(np.log(np.diag(root)).sum())
