"""Joint normal distributions over listed configurations, computed where they are asked for.

Most hypotheses are only judged, which takes their covariance on the few configurations that were tried; the whole one
is for those that are drawn from.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg import LinAlgError
from scipy.linalg.blas import sgemm, strmm
from scipy.linalg.lapack import dpotrf, dtrtrs

from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray

SmallFloatArray = npt.NDArray[np.float32]
"""Of draws: their rounding is far below what can be told of a configuration."""
_LEAST_ADDED = 1e-6
_MOST_ADDED = 1e-3


class Surface(abc.ABC):
    """A distribution whose values have no level in common; hypotheses may share one.

    Args:
        count: of the configurations, n.

    Attributes:
        count: the same.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._latest: tuple[IntArray, tuple[FloatArray, FloatArray]] | None = None

    @abc.abstractmethod
    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of some configurations, shapes (k,) and (k, k)."""

    @property
    @abc.abstractmethod
    def mean(self) -> FloatArray:
        """Mean of all configurations, shape (n,)."""

    @abc.abstractmethod
    def columns(self, rows: IntArray) -> FloatArray:
        """Covariances of all configurations with some, shape (n, k)."""

    def at(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """The moments, kept for the next hypothesis that asks."""
        if self._latest is None or not np.array_equal(self._latest[0], rows):
            self._latest = (rows, self.moments(rows))
        return self._latest[1]


class WholeSurface(Surface):
    """A surface that is drawn by a factor of its covariance.

    Args:
        count: of the configurations, n.
        moments: as `Surface.moments`.
    """

    def __init__(self, count: int, moments: Callable[[IntArray], tuple[FloatArray, FloatArray]]) -> None:
        super().__init__(count)
        self._moments = moments

    @classmethod
    def of(cls, mean: FloatArray, covariance: FloatArray) -> WholeSurface:
        """The distribution with that mean and covariance, shapes (n,) and (n, n)."""
        return cls(len(mean), lambda rows: (mean[rows], covariance[np.ix_(rows, rows)]))

    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """See `Surface.moments`."""
        return self._moments(rows)

    @property
    def mean(self) -> FloatArray:
        """See `Surface.mean`."""
        return self._everywhere[0]

    def columns(self, rows: IntArray) -> FloatArray:
        """See `Surface.columns`."""
        return self._everywhere[1][rows].T

    def draws(self, normals: SmallFloatArray) -> SmallFloatArray:
        """Draws less their mean, from standard normal numbers, shapes (n, S)."""
        found: SmallFloatArray = strmm(1.0, self.root, normals, lower=True)
        return found

    @cached_property
    def root(self) -> SmallFloatArray:
        """Lower Cholesky factor of the covariance, shape (n, n), in Fortran's order."""
        return np.asfortranarray(self.exact_root, dtype=np.float32)

    @cached_property
    def exact_root(self) -> FloatArray:
        """The same in double precision: what is divided by it loses as many digits as it is ill-conditioned by."""
        return np.asfortranarray(cholesky_root(self._everywhere[1]))

    @cached_property
    def _everywhere(self) -> tuple[FloatArray, FloatArray]:
        return self._moments(np.arange(self.count))


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessened:
    """f = mean + u - G v at n configurations, where u and v are jointly normal of mean 0 and v has k parts.

    Attributes:
        mean: shape (n,).
        gain: G, shape (n, k).
        cross: covariance of u and v, shape (n, k).
        spread: covariance of v, shape (k, k).
    """

    mean: FloatArray
    gain: FloatArray
    cross: FloatArray
    spread: FloatArray

    @property
    def half(self) -> FloatArray:
        """H, with which the covariance of f is that of u less H G^T + G H^T, shape (n, k)."""
        return self.cross - 0.5 * self.gain @ self.spread


class LessenedSurface(Surface):
    """A surface that is another one, the same for many, less something of low rank: it needs no factor of its own.

    Args:
        base: of u.
        lessened: what f is at listed configurations, shape (k,).
    """

    def __init__(self, base: WholeSurface, lessened: Callable[[IntArray], Lessened]) -> None:
        super().__init__(base.count)
        self.base = base
        self._lessened = lessened

    @property
    def mean(self) -> FloatArray:
        """See `Surface.mean`."""
        return self._all.mean

    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """See `Surface.moments`."""
        found = self._lessened(rows)
        product = found.half @ found.gain.T
        return found.mean, self.base.at(rows)[1] - product - product.T

    @property
    def rank(self) -> int:
        """Number of parts of v."""
        return len(self._all.spread)

    def columns(self, rows: IntArray) -> FloatArray:
        """See `Surface.columns`."""
        half, gain = self._all.half, self._all.gain
        return self.base.columns(rows) - half @ gain[rows].T - gain @ half[rows].T

    def draws_from(self, base: SmallFloatArray, normals: SmallFloatArray, further: SmallFloatArray) -> SmallFloatArray:
        """Draws less their mean, shape (n, S).

        With u = R z, v given u is Q^T z + L z' for Q = R^-1 cov(u, v) and L L^T = cov(v) - Q^T Q.

        Args:
            base: draws of u, shape (n, S).
            normals: z, of which these were made, shape (n, S).
            further: z', shape (rank, S).
        """
        if not self.rank:  # nothing was measured, and BLAS takes no empty arrays
            return base
        gain, known, unknown = self._factors
        parts = sgemm(1.0, unknown, further, 1.0, sgemm(1.0, known, normals, trans_a=True), overwrite_c=True)
        found: SmallFloatArray = sgemm(-1.0, gain, parts, 1.0, base)
        return found

    @cached_property
    def _factors(self) -> tuple[SmallFloatArray, SmallFloatArray, SmallFloatArray]:
        """G, Q and L, in Fortran's order."""
        known, _ = dtrtrs(self.base.exact_root, np.asfortranarray(self._all.cross), lower=True)
        unknown = cholesky_root(self._all.spread - known.T @ known)
        return (
            np.asfortranarray(self._all.gain, np.float32),
            np.asfortranarray(known, np.float32),
            np.asfortranarray(unknown, np.float32),
        )

    @cached_property
    def _all(self) -> Lessened:
        return self._lessened(np.arange(self.count))


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
    """Lower Cholesky factor of a covariance that rounding may have left indefinite: then of the nearest that is not.

    Raises:
        LinAlgError: the covariance is not finite.
    """
    if not np.isfinite(covariance).all():
        raise LinAlgError("A covariance is not finite.")
    added, tried = 0.0, covariance
    while added <= _MOST_ADDED:
        # The transpose of a symmetric array is itself, in the order that LAPACK takes.
        root, failed = dpotrf(tried.T, lower=True)
        if not failed:
            return np.asarray(root)
        added = max(10.0 * added, _LEAST_ADDED)
        tried = covariance + added * np.eye(len(covariance))
    spectrum, vectors = np.linalg.eigh(0.5 * (covariance + covariance.T))
    half = vectors * np.sqrt(np.maximum(spectrum, _LEAST_ADDED))
    upper: FloatArray = np.linalg.qr(half.T).R
    return upper.T
