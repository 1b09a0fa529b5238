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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from tuner.surrogates.hierarchical_kernel import LATENTS, FloatArray, GridEncoding, IntArray, KernelTables, covariance

_JITTER = 1e-4


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
        embedding: of the latent coordinates, shape (LATENTS, size).
        level: log standard deviation of a task's level.
        noise: log standard deviation of one measurement.
    """

    shared: FloatArray
    own: FloatArray
    embedding: FloatArray
    level: float
    noise: float


def default_hyperparameters(encoding: GridEncoding) -> Hyperparameters:
    """The centre of the hyperparameters' prior."""
    count = len(encoding.values)
    lengths = np.full(2 * count, np.log(0.7))

    def theta(amplitude: float) -> FloatArray:
        return np.concatenate(
            [
                lengths,
                np.full(2 + count, np.log(amplitude)),
                np.zeros(LATENTS),
            ]
        )

    size = sum(basis.shape[1] for basis in encoding.bases)
    embedding = np.zeros((LATENTS, size))
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
    iterations: int = 60,
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
    return _unpack(np.asarray(found.x), tables)


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
    size = tables.theta_size
    return Hyperparameters(
        shared=packed[:size],
        own=packed[size : 2 * size],
        embedding=packed[2 * size : -2].reshape(LATENTS, -1),
        level=float(packed[-2]),
        noise=float(packed[-1]),
    )


class _Objective:
    """Negative log posterior density of packed hyperparameters, with its gradient."""

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
        self._tasks = [
            (torch.from_numpy(task.index), torch.from_numpy(task.values), torch.from_numpy(task.repeats))
            for task in tasks
        ]
        self._centre = torch.from_numpy(centre)
        self._prior_std = prior_std

    def __call__(self, packed: FloatArray) -> tuple[float, FloatArray]:
        theta = torch.tensor(packed, dtype=torch.float64, requires_grad=True)
        try:
            value = -self._log_likelihood(theta)
        except RuntimeError:  # torch's LinAlgError: a covariance that is not positive definite
            return 1e10, np.zeros_like(packed)
        value = value + 0.5 * ((theta - self._centre) / self._prior_std).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        assert theta.grad is not None
        return float(value.detach()), theta.grad.numpy()

    def _log_likelihood(self, theta: torch.Tensor) -> torch.Tensor:
        size = self._tables.theta_size
        embedding = theta[2 * size : -2].reshape(LATENTS, -1)
        shared = covariance(theta[:size], embedding, self._tables, self._codes, self._codes)
        own = covariance(theta[size : 2 * size], embedding, self._tables, self._codes, self._codes)
        own = own + (2.0 * theta[-2]).exp()
        noise = (2.0 * theta[-1]).exp()
        count = len(shared)
        precision = torch.zeros_like(shared)
        projected = torch.zeros(count, dtype=torch.float64)
        value = torch.zeros((), dtype=torch.float64)
        for index, observed, repeats in self._tasks:
            remainder = own[index][:, index] + torch.diag(noise / repeats + _JITTER)
            root = torch.linalg.cholesky(remainder)
            inverse = torch.cholesky_inverse(root)
            solved = inverse @ observed
            value = value - 0.5 * observed @ solved - root.diagonal().log().sum()
            precision = precision.index_put((index[:, None], index[None, :]), inverse, accumulate=True)
            projected = projected.index_add(0, index, solved)
        root = torch.linalg.cholesky(shared + _JITTER * torch.eye(count, dtype=torch.float64))
        inner = torch.eye(count, dtype=torch.float64) + root.T @ precision @ root
        inner_root = torch.linalg.cholesky(inner)
        whitened = torch.linalg.solve_triangular(inner_root, (root.T @ projected)[:, None], upper=False)
        evidence: torch.Tensor = value - inner_root.diagonal().log().sum() + 0.5 * whitened.square().sum()
        return evidence
