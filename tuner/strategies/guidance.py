"""Guidance: what is known of a search space before anything of it was measured.

Predictions choose the first trials after the default and lead the models of a study as their mean; a prediction that
the trials contradict is trusted less with each of them. What surely cannot run is never asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from tuner.metric import MetricRef
from tuner.space import Space
from tuner.strategies.candidates import Positions, Rows, levels, row_codes
from tuner.strategies.history import History

_SLOPE: Final = 0.5
"""Standard deviation of the slope of measured over predicted logarithms around 1, before any trial."""
_NOISE: Final = 0.15
"""Standard deviation of what no slope explains."""
_STEEPEST: Final = 1.2
_LEAST_SLOPE: Final = 0.3
"""Below it, predictions hardly tell which configuration is better."""
_FAILURES: Final = 2
"""Configurations that failed before any could be measured, after which predictions are not believed."""

Floats = npt.NDArray[np.float64]
Mean = Callable[[Rows], Floats]
"""What is expected of rows, shape (n, d), inactive parameters at their default: natural logarithms, shape (n,)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PredictedMeans:
    """Predicted logarithms of metrics, for rows of a space.

    Attributes:
        space: whose rows they are.
        rows: shape (n, d), inactive parameters at their default.
        logs: by metric, shape (n,), NaN where nothing is predicted.
    """

    space: Space
    rows: Rows
    logs: Mapping[MetricRef, Floats]

    def trusted(self, history: History) -> dict[MetricRef, Mean]:
        """By metric, the predictions as far as the trials bear them out; none once they speak against the objective's.

        Measured logarithms are a + s x predicted ones; s has a normal prior around 1, and its posterior mean, not below
        0, scales the predictions. The level is left to the surrogate.
        """
        if not self.rank(history):
            return {}
        index = _Index(self.space, self.rows)
        found: dict[MetricRef, Mean] = {}
        for metric, logs in self.logs.items():
            slope = self._slope(history, metric, index)
            if slope > 0:
                found[metric] = _Mean(index, np.where(np.isfinite(logs), logs, np.nanmean(logs)) * slope)
        return found

    def rank(self, history: History) -> bool:
        """Whether predictions of the first objective still order the trials, as far as can be told."""
        objective = history.metrics[0]
        if objective not in self.logs or not len(history.rows):
            return objective in self.logs and len(history.failed_rows) < _FAILURES
        return self._slope(history, objective, _Index(self.space, self.rows)) >= _LEAST_SLOPE

    def _slope(self, history: History, metric: MetricRef, index: _Index) -> float:
        values = history.values[:, history.column(metric)]
        known = np.isfinite(values) & (values > 0) & (history.sides[:, history.column(metric)] == 0)
        predicted = index.looked_up(levels(self.space, history.rows[known]), self.logs[metric])
        return slope_of(predicted, np.log(values[known]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Guidance:
    """What a sampler over candidates is told.

    Attributes:
        openings: positions of candidates to try right after the default.
        excluded: positions of candidates that surely cannot run.
        means: predictions, `None` where they do not cover every candidate.
    """

    openings: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    excluded: Positions = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    means: PredictedMeans | None = None


def slope_of(predicted: Floats, measured: Floats) -> float:
    """How much of the predicted differences the measured ones show: 1 for all of them, 0 for none.

    Args:
        predicted, measured: logarithms of the same trials, shape (n,).
    """
    known = np.isfinite(predicted) & np.isfinite(measured)
    x, y = predicted[known], measured[known]
    if x.size < 2:
        return 1.0
    x, y = x - x.mean(), y - y.mean()
    precision = float(x @ x) / _NOISE**2
    slope = (float(x @ y) / _NOISE**2 + 1.0 / _SLOPE**2) / (precision + 1.0 / _SLOPE**2)
    return float(np.clip(slope, 0.0, _STEEPEST))


class _Index:
    """Finds rows among known ones."""

    def __init__(self, space: Space, rows: Rows) -> None:
        self._space = space
        found = row_codes(space, rows)
        self._order = np.argsort(found, kind="stable")
        self._sorted = found[self._order]

    def looked_up(self, rows: Rows, values: Floats) -> Floats:
        """Their values, NaN for rows that are not known."""
        wanted = row_codes(self._space, rows)
        at = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[at] == wanted, values[self._order[at]], np.nan)


class _Mean:
    """A prior mean: rows to logarithms, the mean of all where a row is not known."""

    def __init__(self, index: _Index, values: Floats) -> None:
        self._index, self._values, self._else = index, values, float(values.mean())

    def __call__(self, rows: Rows) -> Floats:
        found = self._index.looked_up(rows, self._values)
        return np.where(np.isfinite(found), found, self._else)
