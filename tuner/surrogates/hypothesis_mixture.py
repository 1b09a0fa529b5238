"""A mixture of hypotheses about one task, each a Gaussian per metric, weighted by how well it predicts.

| symbol | shape | meaning |
| --- | --- | --- |
| n, S, H | | configurations, draws, hypotheses |
| w_h | (H,) | prior weight times the probability density, under h, of everything observed |
| F_h | (n, S) | joint draws of one metric under h, conditioned on what was observed |

Draws are made once from each hypothesis's prior and carried to the posterior by Matheron's rule
(Wilson et al. 2020), F + K (K_oo + noise)^-1 (y - F_o - e): consecutive questions see the same draws, and a
step costs O(n S t) after t trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from tuner.surrogates.hierarchical import Gaussian
from tuner.surrogates.hierarchical_kernel import FloatArray

_JITTER = 1e-4
"""Added to every variance of an observation: a hundredth of the metric's spread, below any real difference."""
_LIGHT = 1e-3
"""Hypotheses of less weight are not drawn from."""


@dataclass(slots=True)
class _Observations:
    """What was observed of one metric."""

    rows: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)


class HypothesisMixture:
    """Beliefs about several metrics on one list of configurations."""

    def __init__(
        self,
        priors: Mapping[str, Sequence[Gaussian]],
        weights: FloatArray,
        *,
        draws: int,
        generator: np.random.Generator,
    ) -> None:
        """Begins with the priors.

        Args:
            priors: by metric, one Gaussian per hypothesis, in the same order.
            weights: prior weights of the hypotheses, shape (H,), positive.
            draws: joint draws per hypothesis.
            generator: of the draws.
        """
        self._priors = {metric: tuple(gaussians) for metric, gaussians in priors.items()}
        self._log_prior: FloatArray = np.log(weights / weights.sum())
        self._observed = {metric: _Observations() for metric in priors}
        self._draws = draws
        self._normals = {
            metric: generator.standard_normal((len(gaussians[0].mean), draws))
            for metric, gaussians in self._priors.items()
        }
        self._noise_seed = int(generator.integers(2**31))
        self._prior_draws: dict[tuple[str, int], FloatArray] = {}

    def observe(self, metric: str, row: int, value: float, noise: float = 0.0) -> None:
        """Adds one measurement; `noise` is the variance that it has beyond the metric's usual one."""
        observed = self._observed[metric]
        observed.rows.append(row)
        observed.values.append(value)
        observed.noise.append(noise)

    def weights(self) -> FloatArray:
        """Posterior probabilities of the hypotheses, shape (H,)."""
        scores = self._log_prior.copy()
        for metric, observed in self._observed.items():
            if observed.rows:
                scores += [self._log_evidence(gaussian, observed) for gaussian in self._priors[metric]]
        scores = np.exp(scores - scores.max())
        return np.asarray(scores / scores.sum())

    def draws(self, metric: str, hypothesis: int) -> FloatArray:
        """Joint draws of the noiseless metric given everything observed, shape (n, S)."""
        prior = self._from_prior(metric, hypothesis)
        observed = self._observed[metric]
        if not observed.rows:
            return prior
        gaussian = self._priors[metric][hypothesis]
        rows = np.array(observed.rows)
        variance = self._variance(gaussian, observed)
        block = gaussian.covariance[np.ix_(rows, rows)] + np.diag(variance)
        # One stream per metric: the errors of earlier observations stay when a further one arrives.
        errors = np.random.default_rng(self._noise_seed).standard_normal((len(rows), self._draws))
        gap = np.array(observed.values)[:, None] - prior[rows] - np.sqrt(variance)[:, None] * errors
        return np.asarray(prior + gaussian.covariance[:, rows] @ cho_solve(_factor(block), gap))

    def drawn(self, weights: FloatArray) -> list[tuple[int, float]]:
        """Hypotheses that are worth drawing from, each with its share."""
        kept = [(hypothesis, float(weight)) for hypothesis, weight in enumerate(weights) if weight > _LIGHT]
        total = sum(weight for _, weight in kept)
        return [(hypothesis, weight / total) for hypothesis, weight in kept]

    def _from_prior(self, metric: str, hypothesis: int) -> FloatArray:
        key = (metric, hypothesis)
        if key not in self._prior_draws:
            gaussian = self._priors[metric][hypothesis]
            values, vectors = np.linalg.eigh(gaussian.covariance)
            root = vectors * np.sqrt(np.maximum(values, 0.0))
            # The symmetric root keeps one normal number per configuration, whatever the hypothesis.
            root = root @ vectors.T
            self._prior_draws[key] = gaussian.mean[:, None] + root @ self._normals[metric]
        return self._prior_draws[key]

    @staticmethod
    def _variance(gaussian: Gaussian, observed: _Observations) -> FloatArray:
        return np.asarray(gaussian.noise + _JITTER + np.array(observed.noise))

    def _log_evidence(self, gaussian: Gaussian, observed: _Observations) -> float:
        rows = np.array(observed.rows)
        block = gaussian.covariance[np.ix_(rows, rows)] + np.diag(self._variance(gaussian, observed))
        factor = _factor(block)
        gap = np.array(observed.values) - gaussian.mean[rows]
        return float(-0.5 * gap @ cho_solve(factor, gap) - np.log(np.diag(factor[0])).sum())


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
