"""A mixture of hypotheses about one task, each a Gaussian per metric, weighted by how well it predicts.

| symbol | shape | meaning |
| --- | --- | --- |
| n, k, S, H | | configurations, those that are drawn, draws, hypotheses |
| w_h | (H,) | prior weight times a power of the probability density, under h, of everything observed |
| F_h | (k, S_h) | joint draws of one metric under h, given what was observed; S_h in proportion to w_h |

The draws of a hypothesis are its mean plus a root of its covariance times normal numbers, the same at every question,
so that consecutive questions see much the same draws. They are single-precision numbers, one draw after the other in
memory.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg.blas import strmm

from tuner.surrogates.conditioned import Conditioned, Observations
from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray
from tuner.surrogates.listed_gaussian import Gaussian, cholesky_root

SmallFloatArray = npt.NDArray[np.float32]
"""Of draws: their rounding is far below what can be told of a configuration."""
_CHANCE = 0.25
"""Least variance of a sign, 1 or -1: what failed once by chance may run, and what is alike with it."""
_LEAST_SHARE = 0.01
"""Of the largest weight: a hypothesis with less is not drawn, as its few draws would cost as much as many."""

_BLOCK = 64
"""Rows of normal numbers that are drawn at once, so that they are there when a question has a row more."""


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
        strays: Mapping[str, int] | None = None,
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
            strays: metrics of which an observation may be off by itself, with the side on which it then is: 1 above
                what is expected of it, -1 below, 0 either (see `tuner.surrogates.outliers`).
        """
        self._signs = frozenset(signs)
        self._priors = {metric: tuple(gaussians) for metric, gaussians in priors.items()}
        self._log_prior: FloatArray = np.log(weights / weights.sum())
        self._observations = {
            metric: Observations(
                least_noise=_CHANCE if metric in self._signs else 0.0, stray=(strays or {}).get(metric)
            )
            for metric in priors
        }
        self._draws = draws
        self._trust = trust
        self._seed = seed
        self._streams = {metric: stream for stream, metric in enumerate(priors, start=1)}
        self._conditioned: dict[tuple[str, Gaussian], Conditioned] = {}

    def observe(self, metric: str, row: int, value: float, noise: float = 0.0, side: int = 0) -> None:
        """Adds one measurement; `noise` is the variance that it has beyond the metric's usual one.

        With `side` 1 it is only known to be at least `value`, with -1 at most (see `tuner.surrogates.censoring`).
        """
        self._observations[metric].add(row, value, noise, side)
        self._conditioned.clear()

    def weights(self) -> FloatArray:
        """Posterior probabilities of the hypotheses, shape (H,)."""
        scores = self._log_prior.copy()
        for metric, observations in self._observations.items():
            if len(observations.observed.rows):
                given = self._given(metric, dict.fromkeys(self._priors[metric]))
                Conditioned.factor(given.values())
                evidence = {
                    gaussian: one.log_sign_evidence() if metric in self._signs else one.log_evidence()
                    for gaussian, one in given.items()
                }
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

    def draws(self, metric: str, counts: Sequence[tuple[int, int]], rows: IntArray) -> SmallFloatArray:
        """Joint draws of the noiseless metric given everything observed, shape (k, S).

        Args:
            metric: which.
            counts: hypotheses, each with its number of draws; their draws follow one another in this order.
            rows: distinct configurations, shape (k,).
        """
        blocks = -(-len(rows) // _BLOCK)
        normals = _standard_normals((self._seed, self._streams[metric]), blocks * _BLOCK, self._draws)[: len(rows)]
        found = np.empty((len(rows), sum(count for _, count in counts)), dtype=np.float32, order="F")
        given = self._given(metric, [self._priors[metric][hypothesis] for hypothesis, _ in counts])
        together = np.concatenate([self._observations[metric].observed.rows, rows])
        joint = {gaussian: _rooted(*one.joint(together)) for gaussian, one in given.items()}
        start = 0
        for hypothesis, count in counts:
            mean, root = joint[self._priors[metric][hypothesis]]
            into = found[:, start : start + count]
            np.add(strmm(1.0, root, normals[:, :count], lower=True), mean, out=into)
            start += count
        return found

    def moments(self, metric: str, hypotheses: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Means and standard deviations of the noiseless metric by hypothesis, shape (hypotheses, n) each.

        The latter may be a little too large.
        """
        gaussians = [self._priors[metric][hypothesis] for hypothesis in hypotheses]
        found = {gaussian: one.everywhere() for gaussian, one in self._given(metric, gaussians).items()}
        means, deviations = zip(*(found[gaussian] for gaussian in gaussians), strict=True)
        return np.stack(means), np.stack(deviations)

    def _given(self, metric: str, gaussians: Iterable[Gaussian]) -> dict[Gaussian, Conditioned]:
        """Distinct hypotheses about a metric, given what was observed."""
        observed = self._observations[metric].observed
        found = {}
        for gaussian in gaussians:
            if (metric, gaussian) not in self._conditioned:
                self._conditioned[metric, gaussian] = Conditioned(gaussian, observed)
            found[gaussian] = self._conditioned[metric, gaussian]
        return found


def _rooted(mean: FloatArray, covariance: FloatArray) -> tuple[SmallFloatArray, SmallFloatArray]:
    """A mean as a column, and a root of a covariance in Fortran's order."""
    return mean.astype(np.float32)[:, None], np.asfortranarray(cholesky_root(covariance), dtype=np.float32)


@functools.lru_cache(maxsize=32)
def _standard_normals(key: tuple[int, ...], rows: int, columns: int) -> SmallFloatArray:
    """Standard normal numbers, shape (rows, columns), one column after the other; kept for the next question."""
    numbers = np.random.default_rng(key).standard_normal((columns, rows), dtype=np.float32)
    numbers.flags.writeable = False
    return numbers.T
