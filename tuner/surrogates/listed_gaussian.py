"""Joint normal distributions over listed configurations, computed where they are asked for.

Most hypotheses are only judged, which takes their covariance on the few configurations that were tried; the whole one
is for those that are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError, cholesky

from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray

SmallFloatArray = npt.NDArray[np.float32]
"""Of draws: their rounding is far below what can be told of a configuration."""
_LEAST_ADDED = 1e-6
_MOST_ADDED = 1.0


class Surface:
    """A distribution whose values have no level in common; hypotheses may share one.

    Args:
        count: of the configurations, n.
        moments: of listed configurations, shape (k,): mean and covariance, shapes (k,) and (k, k).
    """

    def __init__(self, count: int, moments: Callable[[IntArray], tuple[FloatArray, FloatArray]]) -> None:
        self.count = count
        self._moments = moments
        self._latest: tuple[IntArray, tuple[FloatArray, FloatArray]] | None = None

    @classmethod
    def of(cls, mean: FloatArray, covariance: FloatArray) -> Surface:
        """The distribution with that mean and covariance, shapes (n,) and (n, n)."""
        return cls(len(mean), lambda rows: (mean[rows], covariance[np.ix_(rows, rows)]))

    def at(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of some configurations, kept for the next hypothesis that asks."""
        if self._latest is None or not np.array_equal(self._latest[0], rows):
            self._latest = (rows, self._moments(rows))
        return self._latest[1]

    @cached_property
    def everywhere(self) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of all, shapes (n,) and (n, n)."""
        return self._moments(np.arange(self.count))

    @cached_property
    def root(self) -> SmallFloatArray:
        """Cholesky factor of the covariance, shape (n, n), lower, in Fortran's order."""
        return np.asfortranarray(cholesky_root(self.everywhere[1]), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gaussian:
    """A hypothesis about one metric: level + shift + mean + spread x deviation.

    Attributes:
        surface: of mean and deviation.
        noise: variance of one measurement.
        shift: added to every mean.
        spread: factor of the surface's standard deviations.
        level: variance of the level.
    """

    surface: Surface
    noise: float
    shift: float = 0.0
    spread: float = 1.0
    level: float = 0.0

    def at(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of the noiseless metric at some configurations, shapes (k,) and (k, k)."""
        mean, covariance = self.surface.at(rows)
        return mean + self.shift, self.spread**2 * covariance + self.level


def cholesky_root(covariance: FloatArray) -> FloatArray:
    """Lower Cholesky factor of a covariance that rounding may have left slightly indefinite."""
    added = 0.0
    while True:
        try:
            return np.asarray(cholesky(covariance + added * np.eye(len(covariance)), lower=True, check_finite=False))
        except LinAlgError:
            added = max(10.0 * added, _LEAST_ADDED)
            if added > _MOST_ADDED:
                raise
