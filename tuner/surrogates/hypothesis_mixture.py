"""A mixture of hypotheses about one task, each a Gaussian per metric, weighted by how well it predicts.

| symbol | shape | meaning |
| --- | --- | --- |
| n, S, H | | configurations, draws, hypotheses |
| w_h | (H,) | prior weight times a power of the probability density, under h, of everything observed |
| F_h | (n, S_h) | joint draws of one metric under h, conditioned on what was observed; S_h in proportion to w_h |
| U | (n, S) | draws of a surface without mean or level, shared by the hypotheses that stand on it |

Draws are made once from each hypothesis's prior and carried to the posterior by Matheron's rule
(Wilson et al. 2020), F + K (K_oo + noise)^-1 (y - F_o - e): consecutive questions see the same draws, and a
step costs O(n S t) after t trials. They are single-precision numbers, one draw after the other in memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg.blas import sgemm
from scipy.linalg.lapack import dpotrs, dtrtrs
from scipy.special import log_ndtr

from tuner.surrogates.censoring import PseudoObservations, pseudo_observations
from tuner.surrogates.hierarchical_kernel import FloatArray
from tuner.surrogates.listed_gaussian import (
    Gaussian,
    LessenedSurface,
    SmallFloatArray,
    Surface,
    WholeSurface,
    cholesky_root,
)

_JITTER = 1e-4
"""Added to every variance of an observation: a hundredth of the metric's spread, below any real difference."""
_CHANCE = 0.25
"""Least variance of a sign, 1 or -1: what failed once by chance may run, and what is alike with it."""
_LEAST_SHARE = 0.01
"""Of the largest weight: a hypothesis with less is not drawn, as its few draws would cost as much as many."""
_BLOCK = 64
"""Rows of normal numbers that are drawn at once."""


@dataclass(slots=True)
class _Observations:
    """What was observed of one metric; its noise has a least variance."""

    least_noise: float
    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    sides: list[int] = field(default_factory=list)


class HypothesisMixture:
    """Beliefs about several metrics on one list of configurations."""

    def __init__(
        self,
        priors: Mapping[str, Sequence[Gaussian]],
        weights: FloatArray,
        *,
        draws: int,
        seed: int,
        trust: float = 1.0,
        signs: Collection[str] = (),
    ) -> None:
        """Begins with the priors.

        Args:
            priors: by metric, one Gaussian per hypothesis, in the same order.
            weights: prior weights of the hypotheses, shape (H,), positive.
            draws: joint draws, shared out among the hypotheses.
            seed: of the draws.
            trust: power to which the probability density counts; below 1 as no hypothesis is quite true
                (Grünwald & van Ommen 2017).
            signs: metrics of which only the sign is a fact, observed as 1 or -1: a hypothesis is judged by the
                probability that it gave to the sign. By the density, one that is sure of the value beats every other.
        """
        self._signs = frozenset(signs)
        self._priors = {metric: tuple(gaussians) for metric, gaussians in priors.items()}
        self._log_prior: FloatArray = np.log(weights / weights.sum())
        self._observed = {
            metric: _Observations(least_noise=_CHANCE if metric in self._signs else 0.0) for metric in priors
        }
        self._draws = draws
        self._trust = trust
        self._seed = seed
        self._streams = {metric: stream for stream, metric in enumerate(priors, start=1)}
        self._prior_draws: dict[tuple[str, Surface], SmallFloatArray] = {}

    def observe(self, metric: str, row: int, value: float, noise: float = 0.0, side: int = 0) -> None:
        """Adds one measurement; `noise` is the variance that it has beyond the metric's usual one.

        With `side` 1 it is only known to be at least `value`, with -1 at most (see `tuner.surrogates.censoring`).
        """
        observed = self._observed[metric]
        observed.rows.append(row)
        observed.values.append(value)
        observed.noise.append(noise)
        observed.sides.append(side)

    def weights(self) -> FloatArray:
        """Posterior probabilities of the hypotheses, shape (H,)."""
        scores = self._log_prior.copy()
        for metric, observed in self._observed.items():
            if observed.rows:
                of = self._log_sign_evidence if metric in self._signs else self._log_evidence
                evidence = {gaussian: of(gaussian, observed) for gaussian in dict.fromkeys(self._priors[metric])}
                scores += self._trust * np.array([evidence[gaussian] for gaussian in self._priors[metric]])
        scores = np.exp(scores - scores.max())
        return np.asarray(scores / scores.sum())

    def counts(self, weights: FloatArray) -> list[tuple[int, int]]:
        """Hypotheses that are worth drawing from, each with its number of draws, in proportion to the weights."""
        worth = np.where(weights < _LEAST_SHARE * weights.max(), 0.0, weights)
        exact = worth / worth.sum() * self._draws
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: self._draws - int(counts.sum())]] += 1
        return [(hypothesis, int(count)) for hypothesis, count in enumerate(counts) if count]

    def draws(self, metric: str, counts: Sequence[tuple[int, int]]) -> SmallFloatArray:
        """Joint draws of the noiseless metric given everything observed, shape (n, S).

        Args:
            metric: which.
            counts: hypotheses, each with its number of draws; their draws follow one another in this order.
        """
        size = self._priors[metric][0].surface.count
        found = np.empty((size, sum(count for _, count in counts)), dtype=np.float32, order="F")
        start = 0
        for hypothesis, count in counts:
            self._draw(metric, self._priors[metric][hypothesis], found[:, start : start + count])
            start += count
        return found

    def _draw(self, metric: str, gaussian: Gaussian, into: SmallFloatArray) -> None:
        """Fills an array, shape (n, S_h), in Fortran's order, with draws of a hypothesis."""
        surface, observed, count = gaussian.surface, self._observed[metric], into.shape[1]
        into[:] = self._from_surface(metric, surface, count)
        levels = math.sqrt(gaussian.level) * self._normals(self._streams[metric], 1, 1)[0, :count]
        mean = surface.mean + gaussian.shift
        rows = np.array(observed.rows, dtype=np.int64)
        gain = np.zeros((0, count))
        if observed.rows:
            found = self._gaussian_observations(gaussian, observed)
            block = gaussian.at(rows)[1] + np.diag(found.variances)
            # The errors of earlier observations stay when a further one arrives.
            errors = np.sqrt(found.variances)[:, None] * self._blocks(0, len(rows))[:, :count]
            drawn = mean[rows, None] + gaussian.spread * into[rows] + levels
            gain, _ = dpotrs(cholesky_root(block), found.values[:, None] - drawn - errors, lower=True)
        # All in one product: what the observations say of the surface, its mean, and the level.
        left = np.empty((surface.count, len(rows) + 2), dtype=np.float32, order="F")
        left[:, :-2] = gaussian.spread**2 * surface.columns(rows)
        left[:, -2], left[:, -1] = mean, 1.0
        right = np.empty((len(rows) + 2, count), dtype=np.float32, order="F")
        right[:-2], right[-2], right[-1] = gain, 1.0, levels + gaussian.level * gain.sum(axis=0)
        sgemm(1.0, left, right, gaussian.spread, into, overwrite_c=True)

    def _from_surface(self, metric: str, surface: Surface, count: int) -> SmallFloatArray:
        """The first draws of a surface without its mean; more are made as the weight of a hypothesis grows."""
        key = (metric, surface)
        drawn = self._prior_draws.get(key, np.empty((surface.count, 0), dtype=np.float32, order="F"))
        if drawn.shape[1] < count:
            # One normal number per configuration and draw, whatever the hypothesis.
            missing, stream = slice(drawn.shape[1], count), self._streams[metric]
            normals = self._normals(stream, 0, surface.count)[:, missing]
            if isinstance(surface, LessenedSurface):
                base = self._from_surface(metric, surface.base, count)[:, missing]
                further = surface.draws_from(base, normals, self._blocks(stream, surface.rank)[:, missing])
            else:
                assert isinstance(surface, WholeSurface)
                further = surface.draws(normals)
            drawn = np.concatenate([drawn, further], axis=1) if drawn.shape[1] else further
            self._prior_draws[key] = drawn
        return drawn[:, :count]

    def _blocks(self, stream: int, rows: int) -> SmallFloatArray:
        """The first rows of a stream of normal numbers that has as many as one asks for, shape (rows, draws)."""
        return np.concatenate([self._normals(stream, at, _BLOCK) for at in range(2, 3 + rows // _BLOCK)])[:rows]

    def _normals(self, stream: int, part: int, rows: int) -> SmallFloatArray:
        return _standard_normals((self._seed, stream, part), rows, self._draws)

    @staticmethod
    def _variance(gaussian: Gaussian, observed: _Observations) -> FloatArray:
        return np.asarray(max(gaussian.noise, observed.least_noise) + _JITTER + np.array(observed.noise))

    def _gaussian_observations(self, gaussian: Gaussian, observed: _Observations) -> PseudoObservations:
        """What was observed under a hypothesis, bounds as the Gaussian observations that stand for them."""
        return pseudo_observations(
            *gaussian.at(np.array(observed.rows)),
            np.array(observed.values),
            self._variance(gaussian, observed),
            np.array(observed.sides, dtype=np.int8),
        )

    def _log_evidence(self, gaussian: Gaussian, observed: _Observations) -> float:
        exact = np.array(observed.sides) == 0
        bounds = self._gaussian_observations(gaussian, observed).log_probability
        if not exact.any():
            return bounds
        mean, covariance = gaussian.at(np.array(observed.rows))
        root = cholesky_root(covariance[np.ix_(exact, exact)] + np.diag(self._variance(gaussian, observed)[exact]))
        whitened, _ = dtrtrs(root, np.array(observed.values)[exact] - mean[exact], lower=True)
        return float(-0.5 * whitened @ whitened - np.log(np.diag(root)).sum() + bounds)

    def _log_sign_evidence(self, gaussian: Gaussian, observed: _Observations) -> float:
        """Sum of the log probabilities of the signs, each given those before it.

        With the Cholesky factor R of the observations' covariance and a = R^-1 (y - m), the mean of y_i given those
        before it is y_i - R_ii a_i, and R_ii its deviation.
        """
        values = np.array(observed.values)
        mean, covariance = gaussian.at(np.array(observed.rows))
        root = cholesky_root(covariance + np.diag(self._variance(gaussian, observed)))
        deviations = np.diag(root)
        expected = values - deviations * dtrtrs(root, values - mean, lower=True)[0]
        return float(log_ndtr(np.sign(values) * expected / deviations).sum())


@functools.lru_cache(maxsize=32)
def _standard_normals(key: tuple[int, ...], rows: int, columns: int) -> SmallFloatArray:
    """Standard normal numbers, shape (rows, columns), one column after the other; kept for the next question."""
    numbers = np.random.default_rng(key).standard_normal((columns, rows), dtype=np.float32)
    numbers.flags.writeable = False
    return numbers.T
