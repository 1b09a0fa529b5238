"""A mixture of hypotheses about one task, each a Gaussian per metric, weighted by how well it predicts.

| symbol | shape | meaning |
| --- | --- | --- |
| n, S, H | | configurations, draws, hypotheses |
| w_h | (H,) | prior weight times a power of the probability density, under h, of everything observed |
| F_h | (n, S_h) | joint draws of one metric under h, conditioned on what was observed; S_h in proportion to w_h |

Draws are made once from each hypothesis's prior and carried to the posterior by Matheron's rule
(Wilson et al. 2020), F + K (K_oo + noise)^-1 (y - F_o - e): consecutive questions see the same draws, and a
step costs O(n S t) after t trials.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.special import log_ndtr

from tuner.surrogates.censoring import PseudoObservations, pseudo_observations
from tuner.surrogates.hierarchical import Gaussian
from tuner.surrogates.hierarchical_kernel import FloatArray

_JITTER = 1e-4
"""Added to every variance of an observation: a hundredth of the metric's spread, below any real difference."""
_CHANCE = 0.25
"""Least variance of a sign, 1 or -1: what failed once by chance may run, and what is alike with it."""


@dataclass(slots=True)
class _Observations:
    """What was observed of one metric."""

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
        generator: np.random.Generator,
        trust: float = 1.0,
        signs: Collection[str] = (),
    ) -> None:
        """Begins with the priors.

        Args:
            priors: by metric, one Gaussian per hypothesis, in the same order.
            weights: prior weights of the hypotheses, shape (H,), positive.
            draws: joint draws, shared out among the hypotheses.
            generator: of the draws.
            trust: power to which the probability density counts; below 1 as no hypothesis is quite true
                (Grünwald & van Ommen 2017).
            signs: metrics of which only the sign is a fact, observed as 1 or -1: a hypothesis is judged by the
                probability that it gave to the sign. By the density, one that is sure of the value beats every other.
        """
        self._signs = frozenset(signs)
        self._priors = {
            metric: tuple(
                replace(gaussian, noise=max(gaussian.noise, _CHANCE)) if metric in self._signs else gaussian
                for gaussian in gaussians
            )
            for metric, gaussians in priors.items()
        }
        self._log_prior: FloatArray = np.log(weights / weights.sum())
        self._observed = {metric: _Observations() for metric in priors}
        self._draws = draws
        self._trust = trust
        self._normals = {
            metric: generator.standard_normal((len(gaussians[0].mean), draws))
            for metric, gaussians in self._priors.items()
        }
        self._noise_seed = int(generator.integers(2**31))
        self._roots: dict[tuple[str, int], FloatArray] = {}
        self._prior_draws: dict[tuple[str, int], FloatArray] = {}

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
                evidence = [of(gaussian, observed) for gaussian in self._priors[metric]]
                scores += self._trust * np.array(evidence)
        scores = np.exp(scores - scores.max())
        return np.asarray(scores / scores.sum())

    def counts(self, weights: FloatArray) -> list[tuple[int, int]]:
        """Hypotheses that are worth drawing from, each with its number of draws, in proportion to the weights."""
        exact = weights / weights.sum() * self._draws
        counts = np.floor(exact).astype(int)
        counts[np.argsort(counts - exact, kind="stable")[: self._draws - int(counts.sum())]] += 1
        return [(hypothesis, int(count)) for hypothesis, count in enumerate(counts) if count]

    def draws(self, metric: str, counts: Sequence[tuple[int, int]]) -> FloatArray:
        """Joint draws of the noiseless metric given everything observed, shape (n, S).

        Args:
            metric: which.
            counts: hypotheses, each with its number of draws; their draws follow one another in this order.
        """
        return np.concatenate([self._posterior_draws(metric, *part) for part in counts], axis=1)

    def _posterior_draws(self, metric: str, hypothesis: int, count: int) -> FloatArray:
        prior = self._from_prior(metric, hypothesis, count)
        observed = self._observed[metric]
        if not observed.rows:
            return prior
        gaussian = self._priors[metric][hypothesis]
        rows = np.array(observed.rows)
        found = self._gaussian_observations(gaussian, observed)
        block = gaussian.covariance[np.ix_(rows, rows)] + np.diag(found.variances)
        # One stream: the errors of earlier observations stay when a further one arrives.
        errors = np.random.default_rng(self._noise_seed).standard_normal((len(rows), self._draws))[:, :count]
        gap = found.values[:, None] - prior[rows] - np.sqrt(found.variances)[:, None] * errors
        return np.asarray(prior + gaussian.covariance[:, rows] @ cho_solve(_factor(block), gap))

    def _from_prior(self, metric: str, hypothesis: int, count: int) -> FloatArray:
        """The first draws of a hypothesis; more are made as its weight grows."""
        key = (metric, hypothesis)
        gaussian = self._priors[metric][hypothesis]
        if key not in self._roots:
            self._roots[key] = np.tril(_factor(gaussian.covariance)[0])
            self._prior_draws[key] = np.empty((len(gaussian.mean), 0))
        drawn = self._prior_draws[key]
        if drawn.shape[1] < count:
            # One normal number per configuration and draw, whatever the hypothesis.
            normals = self._normals[metric][:, drawn.shape[1] : count]
            drawn = np.concatenate([drawn, gaussian.mean[:, None] + self._roots[key] @ normals], axis=1)
            self._prior_draws[key] = drawn
        return drawn[:, :count]

    @staticmethod
    def _variance(gaussian: Gaussian, observed: _Observations) -> FloatArray:
        return np.asarray(gaussian.noise + _JITTER + np.array(observed.noise))

    def _gaussian_observations(self, gaussian: Gaussian, observed: _Observations) -> PseudoObservations:
        """What was observed under a hypothesis, bounds as the Gaussian observations that stand for them."""
        rows = np.array(observed.rows)
        return pseudo_observations(
            gaussian.mean[rows],
            gaussian.covariance[np.ix_(rows, rows)],
            np.array(observed.values),
            self._variance(gaussian, observed),
            np.array(observed.sides, dtype=np.int8),
        )

    def _log_evidence(self, gaussian: Gaussian, observed: _Observations) -> float:
        exact = np.array(observed.sides) == 0
        bounds = self._gaussian_observations(gaussian, observed).log_probability
        if not exact.any():
            return bounds
        rows = np.array(observed.rows)[exact]
        block = gaussian.covariance[np.ix_(rows, rows)] + np.diag(self._variance(gaussian, observed)[exact])
        factor = _factor(block)
        gap = np.array(observed.values)[exact] - gaussian.mean[rows]
        return float(-0.5 * gap @ cho_solve(factor, gap) - np.log(np.diag(factor[0])).sum() + bounds)

    def _log_sign_evidence(self, gaussian: Gaussian, observed: _Observations) -> float:
        """Sum of the log probabilities of the signs, each given those before it.

        With the Cholesky factor R of the observations' covariance and a = R^-1 (y - m), the mean of y_i given those
        before it is y_i - R_ii a_i, and R_ii its deviation.
        """
        rows, values = np.array(observed.rows), np.array(observed.values)
        block = gaussian.covariance[np.ix_(rows, rows)] + np.diag(self._variance(gaussian, observed))
        root = np.tril(_factor(block)[0])
        deviations = np.diag(root)
        expected = values - deviations * solve_triangular(root, values - gaussian.mean[rows], lower=True)
        return float(log_ndtr(np.sign(values) * expected / deviations).sum())


def _factor(block: FloatArray) -> tuple[FloatArray, bool]:
    """Cholesky factor of a covariance that rounding may have left slightly indefinite."""
    added = 0.0
    while True:
        try:
            factor, lower = cho_factor(block + added * np.eye(len(block)), lower=True)
            return np.asarray(factor), bool(lower)
        except LinAlgError:
            added = max(10.0 * added, _JITTER)
            if added > 1.0:
                raise
