"""Beliefs: what the trials of a study say about every other configuration.

Each metric that an objective or an SLO names has a Gaussian process of its own on the logarithm of the metric:
servers differ by factors, and noise is relative. Failures have models of their own and never enter a metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from tuner.metric import Direction, MetricRef
from tuner.objective import Objective
from tuner.parameter import Scale
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.candidates import Rows, coordinates, levels
from tuner.strategies.history import History
from tuner.surrogates.acquisition import log_mean_over_hypotheses, log_probability_below
from tuner.surrogates.bounded_data import with_bounds
from tuner.surrogates.feasibility import FailureModel
from tuner.surrogates.gaussian_process import GaussianProcess
from tuner.surrogates.kernel import Array, Axis, Grid, Points
from tuner.trial import Reason
from tuner.units import Dimension

PriorMean = Callable[[Rows], Array]
"""Expected surrogate values (natural logarithms of the metric) of rows: shape (n, d) to (n,)."""

_EXHAUSTED: Final = frozenset({Reason.OUT_OF_MEMORY})
"""Failures with a trend: more of something needs more memory."""

_FLOOR: Final = 1e-3
"""A value of zero counts as this share of the smallest positive one seen: logarithms need something."""

_SHARE_OFFSET: Final = 0.5
"""Added to shares (an error rate) before the logarithm, in units of their bound: most of them are zero."""

_LEAST_SHARE: Final = 1e-3
"""The bound that a share bounded by zero is taken to have."""

_EXPLAINING: Final = 24
"""Trials that variances are bounded with: these are spread over the space, and the others add little."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outlook:
    """What is believed of some rows, per hypothesis about the hyperparameters.

    Attributes:
        means, stds: per objective, of the logarithmic gain (larger is better), shape (h, N).
        log_holds: logarithm of the probability that every SLO holds, shape (h, N).
        log_runs: logarithm of the probability that the server runs at all, shape (N,).
    """

    means: tuple[torch.Tensor, ...]
    stds: tuple[torch.Tensor, ...]
    log_holds: torch.Tensor
    log_runs: torch.Tensor

    @property
    def holds(self) -> torch.Tensor:
        """Probability that every SLO holds, averaged over hypotheses, shape (N,)."""
        return torch.exp(log_mean_over_hypotheses(self.log_holds))

    @property
    def most_probable(self) -> Outlook:
        """The same under the most probable hyperparameters only."""
        return replace(
            self,
            means=tuple(mean[:1] for mean in self.means),
            stds=tuple(std[:1] for std in self.stds),
            log_holds=self.log_holds[:1],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beliefs:
    """Fitted models of a study; make them with `form`.

    Attributes:
        space: of the study.
        processes: per metric, on its surrogate values; empty when nothing has been measured.
        signs: per objective its metric, and 1 where larger is better, else -1.
        bounds: per SLO its metric, the bound in surrogate values, and the sign of what must be at most it.
        failures: one model per kind of failure seen.
    """

    space: Space
    grid: Grid
    processes: Mapping[MetricRef, GaussianProcess]
    signs: tuple[tuple[MetricRef, float], ...]
    bounds: tuple[tuple[MetricRef, float, float], ...]
    failures: tuple[FailureModel, ...]

    @classmethod
    def form(
        cls,
        history: History,
        space: Space,
        objectives: Sequence[Objective],
        slos: Sequence[Slo],
        *,
        hypotheses: int = 0,
        seed: int = 0,
        prior_means: Mapping[MetricRef, PriorMean] | None = None,
    ) -> Beliefs:
        """Fits all models to what was observed.

        Args:
            history: of the study.
            space, objectives, slos: of the study.
            hypotheses: draws of hyperparameters beside the most probable ones.
            seed: of the draws.
            prior_means: what is expected of a metric before anything is measured.
        """
        grid = grid_of(space)
        processes: dict[MetricRef, GaussianProcess] = {}
        for number, metric in enumerate(history.metrics if len(history.rows) else ()):
            values, variances = _surrogate_values(
                metric, history.values[:, number], history.std_errors[:, number], _bound(metric, slos)
            )
            expected = (prior_means or {}).get(metric)
            processes[metric] = GaussianProcess.fit(
                grid,
                *with_bounds(grid, levels(space, history.rows), values, variances, history.sides[:, number], expected),
                hypotheses=hypotheses,
                mean=expected,
                seed=seed + number,
            )
        return cls(
            space=space,
            grid=grid,
            processes=processes,
            signs=tuple((one.metric, 1.0 if one.direction is Direction.MAXIMIZE else -1.0) for one in objectives),
            bounds=tuple(
                (
                    slo.metric,
                    _transformed(slo.metric, slo.bound, _bound(slo.metric, slos)),
                    1.0 if slo.at_most else -1.0,
                )
                for slo in slos
            ),
            failures=_failure_models(history, space, grid),
        )

    def believing(self, rows: Rows) -> Beliefs:
        """The same as if pending `rows` had shown what is expected of them."""
        filled = levels(self.space, rows)
        return replace(self, processes={m: process.believing(filled) for m, process in self.processes.items()})

    @property
    def most_probable(self) -> Beliefs:
        """The same under the most probable hyperparameters only."""
        return replace(self, processes={m: process.most_probable for m, process in self.processes.items()})

    def outlook(self, rows: Rows, dtype: npt.DTypeLike = np.float64) -> Outlook:
        """What is believed of `rows`, shape (N, d); in single precision to three digits, and quicker."""
        return self._outlook(points_of(self.space, self.grid, rows, dtype), hopeful=False)

    def hopeful_outlook(self, points: Points) -> Outlook:
        """Upper bounds on standard deviations and probabilities, and quicker still."""
        return self._outlook(points, hopeful=True)

    def _outlook(self, points: Points, *, hopeful: bool) -> Outlook:
        explaining = _EXPLAINING if hopeful else None
        posteriors = {m: process.posterior(points, explaining) for m, process in self.processes.items()}
        hypotheses = len(next(iter(posteriors.values()))[0]) if posteriors else 1
        log_holds = torch.zeros(hypotheses, len(points), dtype=torch.float64)
        means, stds = [], []
        if posteriors:
            for metric, bound, sign in self.bounds:
                mean, variance = posteriors[metric]
                log_one_holds = log_probability_below(sign * mean, variance.sqrt(), sign * bound)
                # Where a bound is expected to hold, less variance makes it surer.
                log_holds += torch.where(sign * mean <= sign * bound, 0.0, log_one_holds) if hopeful else log_one_holds
            for metric, sign in self.signs:
                mean, variance = posteriors[metric]
                means.append(sign * mean)
                stds.append(variance.sqrt())
        log_runs = torch.zeros(len(points), dtype=torch.float64) if hopeful else self.log_runs(points)
        return Outlook(means=tuple(means), stds=tuple(stds), log_holds=log_holds, log_runs=log_runs)

    def log_runs(self, points: Points) -> torch.Tensor:
        """Logarithm of the probability that a server runs, shape (N,)."""
        found = torch.zeros(len(points), dtype=torch.float64)
        for failure in self.failures:
            found += failure.log_success(points)
        return found


def grid_of(space: Space) -> Grid:
    """The values of a space's parameters."""
    return Grid([_axis(space, number) for number in range(len(space.parameters))])


def points_of(space: Space, grid: Grid, rows: Rows, dtype: npt.DTypeLike = np.float64) -> Points:
    """Rows, shape (N, d), prepared for covariances."""
    return Points(grid, levels(space, rows), dtype)


def _axis(space: Space, number: int) -> Axis:
    parameter = space.parameters[number]
    size = len(parameter.values)
    return Axis(size) if parameter.scale is Scale.CATEGORICAL else Axis(size, coordinates(parameter))


def _bound(metric: MetricRef, slos: Sequence[Slo]) -> float:
    """The bound that sets the scale of a share, or the least one; of no meaning for other metrics."""
    bounds = [slo.bound for slo in slos if slo.metric == metric and slo.bound > 0]
    return min(bounds, default=_LEAST_SHARE)


def _transformed(metric: MetricRef, value: float, bound: float) -> float:
    if metric.metric.dimension is Dimension.SHARE:
        # A share bounded by zero: halfway to the least share that would be seen.
        return math.log(max(value, 0.25 * _LEAST_SHARE) + _SHARE_OFFSET * bound)
    return math.log(value)


def _surrogate_values(
    metric: MetricRef, values: npt.NDArray[np.float64], std_errors: npt.NDArray[np.float64], bound: float
) -> tuple[Array, Array]:
    """Logarithms and their variances; a missing value stands at twice its bound (see `tuner.slo.excesses`)."""
    worst = 2.0 * bound if metric.metric.direction is Direction.MINIMIZE else 0.5 * bound
    filled = np.where(np.isfinite(values), values, worst)
    if metric.metric.dimension is Dimension.SHARE:
        shifted = np.maximum(filled, 0.0) + _SHARE_OFFSET * bound
    else:
        positive = filled[filled > 0]
        shifted = np.maximum(filled, _FLOOR * (float(positive.min()) if len(positive) else 1.0))
    variances = np.where(np.isfinite(std_errors), std_errors, 0.0) ** 2 / shifted**2
    return np.log(shifted), np.minimum(variances, 1.0)


def _failure_models(history: History, space: Space, grid: Grid) -> tuple[FailureModel, ...]:
    kinds = np.array([reason in _EXHAUSTED for reason in history.reasons], dtype=bool)
    models = []
    for exhausted in (True, False):
        failed = history.failed_rows[kinds == exhausted]
        if len(failed):
            tried = np.concatenate([history.rows, failed])
            labels = np.arange(len(tried)) >= len(history.rows)
            models.append(FailureModel.fit(grid, levels(space, tried), labels, trend=exhausted))
    return tuple(models)
