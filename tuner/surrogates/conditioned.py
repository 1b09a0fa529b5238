"""A hypothesis about one metric, given what was observed of it.

| symbol | shape | meaning |
| --- | --- | --- |
| n, k, t | | configurations, some of them, observations |
| R | (t, t) | Cholesky factor of the observations' covariance, noise included |
| a | (t,) | R^-1 (y - m), what was observed less its mean |
| H | (t, k) | R^-1 times the covariance of observations and some configurations |

Their mean becomes m + H^T a, their covariance K - H^T H (Rasmussen & Williams 2006, Eq. 2.25 and 2.26).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.linalg.lapack import dtrtrs
from scipy.special import log_ndtr

from tuner.surrogates.censoring import PseudoObservations, pseudo_observations
from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray
from tuner.surrogates.listed_gaussian import Gaussian, cholesky_root
from tuner.surrogates.outliers import LOG_ODDS, VARIANCE, likeliest_outlier, most_outliers

_JITTER = 1e-4
"""Added to every variance of an observation: a hundredth of the metric's spread, below any real difference."""
_HUGE = 1e200
"""Of an added variance, beside which anything measured vanishes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """What was observed of one metric, shape (t,) each.

    Attributes:
        rows: configurations.
        values: what they had, or bounds.
        noise: variances beyond the metric's usual one.
        sides: 0 exact, 1 at least the value, -1 at most.
        least_noise: least variance of any of them.
        stray: 1 where one that is off by itself is above what is expected of it, -1 below, 0 either; `None` where none
            is (see `tuner.surrogates.outliers`).
    """

    rows: IntArray
    values: FloatArray
    noise: FloatArray
    sides: npt.NDArray[np.int8]
    least_noise: float = 0.0
    stray: int | None = None

    @cached_property
    def exact(self) -> bool:
        """Whether there are no bounds among them."""
        return not self.sides.any()

    @cached_property
    def exact_at(self) -> IntArray:
        """Positions of those that are no bounds."""
        return np.flatnonzero(self.sides == 0)


class Observations:
    """Observations of one metric as they arrive.

    Args:
        least_noise, stray: as in `Observed`.
    """

    def __init__(self, least_noise: float = 0.0, stray: int | None = None) -> None:
        self._least_noise = least_noise
        self._stray = stray
        self._told: list[tuple[int, float, float, int]] = []
        self._latest: Observed | None = None

    def add(self, row: int, value: float, noise: float, side: int) -> None:
        """One more, as in `Observed`."""
        self._told.append((row, value, noise, side))
        self._latest = None

    @property
    def observed(self) -> Observed:
        """All so far, the same object until there is one more."""
        if self._latest is None:
            rows, values, noise, sides = zip(*self._told, strict=True) if self._told else ((), (), (), ())
            self._latest = Observed(
                rows=np.array(rows, dtype=np.int64),
                values=np.array(values, dtype=np.float64),
                noise=np.array(noise, dtype=np.float64),
                sides=np.array(sides, dtype=np.int8),
                least_noise=self._least_noise,
                stray=self._stray,
            )
        return self._latest


@dataclass(frozen=True, slots=True)
class _Settled:
    """Exact observations, e of them.

    Attributes:
        root, whitened: R and a, shapes (e, e) and (e,).
        outliers: positions, among all observations, of those that are off by themselves.
        variances: of all observations, with what was added to those of the outliers.
    """

    root: FloatArray
    whitened: FloatArray
    outliers: IntArray
    variances: FloatArray


class Conditioned:
    """A Gaussian given observations.

    Args:
        gaussian: before them.
        observed: the observations.
    """

    def __init__(self, gaussian: Gaussian, observed: Observed) -> None:
        self._gaussian = gaussian
        self._told = observed
        self._usual = max(gaussian.noise, observed.least_noise) + _JITTER + observed.noise

    def log_evidence(self) -> float:
        """Logarithm of the probability density of what was observed, and of the probability of bounds."""
        settled = self._settled
        density = -0.5 * settled.whitened @ settled.whitened - np.log(settled.root.diagonal()).sum()
        bounds = 0.0 if self._told.exact else self._as_exact.log_probability
        return float(density) + LOG_ODDS * len(settled.outliers) + bounds

    def log_sign_evidence(self) -> float:
        """Sum of the log probabilities of the signs, each given those before it.

        The mean of y_i given those before it is y_i - R_ii a_i, and R_ii its deviation.
        """
        root, whitened = self._factors
        deviations = root.diagonal()
        expected = self._told.values - deviations * whitened
        return float(log_ndtr(np.sign(self._told.values) * expected / deviations).sum())

    def joint(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and covariance of the noiseless metric at some configurations, shapes (k,) and (k, k).

        Args:
            rows: those of the observations, then the k others.
        """
        count = len(self._told.rows)
        mean, covariance = self._gaussian.at(rows)
        if not count:
            return mean, covariance
        root, whitened = self._factors
        half = dtrtrs(root, covariance[:count, count:], lower=True)[0]
        mean, covariance = mean[count:] + whitened @ half, covariance[count:, count:] - half.T @ half
        for row, value in self._apart.items():
            at = rows[count:] == row
            mean[at] = value
            covariance[at, :] = 0.0
            covariance[:, at] = 0.0
            covariance[at, at] = _JITTER
        return mean, covariance

    def everywhere(self) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation at all configurations, shape (n,); the latter may be a little too large."""
        outline = self._gaussian.outlined(self._told.rows)
        mean, variances = outline.mean, outline.variances
        if len(self._told.rows):
            root, whitened = self._factors
            half = dtrtrs(root, outline.columns.T, lower=True)[0]
            mean = mean + whitened @ half
            variances = variances - np.einsum("ij,ij->j", half, half)
            mean[list(self._apart)] = list(self._apart.values())
            variances[list(self._apart)] = _JITTER
        return mean, np.sqrt(np.maximum(variances, _JITTER))

    @cached_property
    def _prior(self) -> tuple[FloatArray, FloatArray]:
        return self._gaussian.at(self._told.rows)

    @cached_property
    def _plain(self) -> tuple[FloatArray, FloatArray]:
        """R and a of the exact observations if none is an outlier."""
        return self._factored(self._told.exact_at, self._told.values, self._usual)

    @cached_property
    def _settled(self) -> _Settled:
        """The exact observations, outliers among them found."""
        (root, whitened), variances = self._plain, self._usual
        exact = self._told.exact_at
        outliers: list[int] = []
        while self._told.stray is not None and len(outliers) < most_outliers(len(root)):
            found = likeliest_outlier(root, whitened, self._told.stray, outliers)
            if found is None:
                break
            outliers.append(found)
            variances = self._usual.copy()
            variances[exact[outliers]] += VARIANCE
            root, whitened = self._factored(exact, self._told.values, variances)
        return _Settled(root, whitened, exact[outliers], variances)

    @cached_property
    def _apart(self) -> dict[int, float]:
        """Configurations of which there are only outliers, each with what it was seen to have."""
        outliers = self._settled.outliers
        others = set(np.delete(self._told.rows, outliers).tolist())
        return {
            int(self._told.rows[at]): float(self._told.values[at])
            for at in outliers
            if int(self._told.rows[at]) not in others
        }

    @cached_property
    def _as_exact(self) -> PseudoObservations:
        """Bounds as the Gaussian observations that stand for them."""
        return pseudo_observations(*self._prior, self._told.values, self._settled.variances, self._told.sides)

    @cached_property
    def _factors(self) -> tuple[FloatArray, FloatArray]:
        """R and a."""
        if self._told.exact:
            return self._settled.root, self._settled.whitened
        every = np.arange(len(self._told.rows))
        return self._factored(every, self._as_exact.values, self._as_exact.variances)

    def _factored(self, at: IntArray, values: FloatArray, variances: FloatArray) -> tuple[FloatArray, FloatArray]:
        """R and a of the observations at some positions, all of them having these values and variances."""
        if not len(at):
            return np.zeros((0, 0)), np.zeros(0)
        mean, covariance = self._prior
        root = cholesky_root(covariance[np.ix_(at, at)] + np.diag(variances[at]))
        return root, dtrtrs(root, (values - mean)[at], lower=True)[0]

    @staticmethod
    def factor(family: Iterable[Conditioned]) -> None:
        """Factors many that are given the same observations, at once: several times as fast as one by one.

        The factor of [[C, y - m], [(y - m)^T, c]] has R and, below it, a^T, for any large c. Where there are bounds, or
        rounding left a covariance indefinite, each is factored by itself, when it is needed.
        """
        missing = [one for one in family if one._told.exact and len(one._told.rows) and "_plain" not in one.__dict__]
        if not missing:
            return
        count = len(missing[0]._told.rows)
        stack = np.empty((len(missing), count + 1, count + 1))
        for bordered, one in zip(stack, missing, strict=True):
            mean, covariance = one._prior
            bordered[:count, :count] = covariance
            bordered[count, :count] = one._told.values - mean
        places = np.arange(count)
        stack[:, places, places] += [one._usual for one in missing]
        stack[:, count, count] = _HUGE
        try:
            roots = np.linalg.cholesky(stack)
        except np.linalg.LinAlgError:
            return
        for root, one in zip(roots, missing, strict=True):
            one.__dict__["_plain"] = (np.asfortranarray(root[:count, :count]), root[count, :count])
