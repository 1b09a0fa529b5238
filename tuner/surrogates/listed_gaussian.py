"""Joint normal distributions over listed configurations, computed where they are asked for.

Most hypotheses are only judged, which takes their covariance on the few configurations that were tried; of those that
are drawn from, the outline says which configurations are worth it.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError
from scipy.linalg.lapack import dpotrf

from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray

_LEAST_ADDED = 1e-6
_MOST_ADDED = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """A distribution of n configurations, each by itself; variances may be a little too large.

    Attributes:
        mean, variances: shape (n,).
        columns: covariances with some configurations, shape (n, k).
    """

    mean: FloatArray
    variances: FloatArray
    columns: FloatArray


class Surface(abc.ABC):
    """A distribution whose values have no level in common; hypotheses may share one."""

    def __init__(self) -> None:
        self._latest: tuple[IntArray, tuple[FloatArray, FloatArray]] | None = None
        self._latest_outline: tuple[IntArray, Outline] | None = None

    @abc.abstractmethod
    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of some configurations, shapes (k,) and (k, k)."""

    @abc.abstractmethod
    def outline(self, rows: IntArray) -> Outline:
        """All configurations, each by itself, and their covariances with some, k of them."""

    def at(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """The moments, kept for the next hypothesis that asks."""
        if self._latest is None or not same_rows(self._latest[0], rows):
            self._latest = (rows, self.moments(rows))
        return self._latest[1]

    def outlined(self, rows: IntArray) -> Outline:
        """The outline, kept likewise."""
        if self._latest_outline is None or not same_rows(self._latest_outline[0], rows):
            self._latest_outline = (rows, self.outline(rows))
        return self._latest_outline[1]


class WholeSurface(Surface):
    """A surface that is known by two functions.

    Args:
        moments, outline: as those of `Surface`.
    """

    def __init__(
        self, moments: Callable[[IntArray], tuple[FloatArray, FloatArray]], outline: Callable[[IntArray], Outline]
    ) -> None:
        super().__init__()
        self._moments = moments
        self._outline = outline

    @classmethod
    def of(cls, mean: FloatArray, covariance: FloatArray) -> WholeSurface:
        """The distribution with that mean and covariance, shapes (n,) and (n, n)."""
        return cls(
            lambda rows: (mean[rows], covariance[np.ix_(rows, rows)]),
            lambda rows: Outline(mean=mean, variances=np.diag(covariance), columns=covariance[:, rows]),
        )

    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """See `Surface.moments`."""
        return self._moments(rows)

    def outline(self, rows: IntArray) -> Outline:
        """See `Surface.outline`."""
        return self._outline(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessened:
    """f = mean + u - G v at n configurations, where u and v are jointly normal of mean 0 and v has k parts.

    Attributes:
        mean: shape (n,).
        gain: G, shape (n, k).
        half: H, with which the covariance of f is that of u less H G^T + G H^T, shape (n, k): the covariance of u and
            v less half of G times that of v.
    """

    mean: FloatArray
    gain: FloatArray
    half: FloatArray


class LessenedSurface(Surface):
    """A surface that is another one, the same for many, less something of low rank.

    Args:
        base: of u.
        lessened: what f is at listed configurations, shape (k,).
        outlined: what it is at all of them, for an outline.
    """

    def __init__(
        self, base: WholeSurface, lessened: Callable[[IntArray], Lessened], outlined: Callable[[], Lessened]
    ) -> None:
        super().__init__()
        self._base = base
        self._lessened = lessened
        self._all = outlined

    def moments(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """See `Surface.moments`."""
        found = self._lessened(rows)
        product = found.half @ found.gain.T
        covariance = self._base.at(rows)[1] - product
        covariance -= product.T
        return found.mean, covariance

    def outline(self, rows: IntArray) -> Outline:
        """See `Surface.outline`."""
        base, found = self._base.outlined(rows), self._all()
        return Outline(
            mean=found.mean,
            variances=base.variances - 2.0 * np.einsum("ij,ij->i", found.half, found.gain),
            columns=base.columns - found.half @ found.gain[rows].T - found.gain @ found.half[rows].T,
        )


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
        found = self.spread**2 * covariance
        found += self.level
        return mean + self.shift, found

    def outlined(self, rows: IntArray) -> Outline:
        """Of the noiseless metric, as `Surface.outline`."""
        found = self.surface.outlined(rows)
        return Outline(
            mean=found.mean + self.shift,
            variances=self.spread**2 * found.variances + self.level,
            columns=self.spread**2 * found.columns + self.level,
        )


def same_rows(left: IntArray, right: IntArray) -> bool:
    """Whether two lists of configurations are the same; at once where they are one object."""
    return left is right or np.array_equal(left, right)


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
