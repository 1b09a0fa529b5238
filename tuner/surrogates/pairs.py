"""All pairs of a few points of a grid: their covariances for many hyperparameters, compiled.

| symbol | meaning |
| --- | --- |
| `n`, `d` | points, axes |
| `E` | distinct pairs of levels on all axes: mostly far fewer than there are pairs of points |
| theta | shape (d + 3,), see `hyperparameters` |
| `K` | covariance of the values: product part, additive part, level and noise |
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tuner.surrogates.compiled import compiled
from tuner.surrogates.kernel import Array, Grid, Levels, correlation

JITTER: Final = 1e-8
"""Added to every variance of a value, so that repeats of a noiseless value can be factored."""


class Pairs:
    """All pairs of some points, prepared for many hyperparameters.

    Args:
        grid: the axes.
        levels: shape (n, d).
        noise_variances: shape (n,), known parts of the noise, added to the diagonal.
        level_variance: added everywhere.

    Attributes:
        arrays: what compiled functions are told of them.
    """

    def __init__(self, grid: Grid, levels: Levels, noise_variances: Array, level_variance: float) -> None:
        left, right = np.tril_indices(len(levels))
        distances, owners, entries, offset = [], [], [], 0
        for axis, (table, x) in enumerate(zip(grid.distances, levels.T, strict=True)):
            present, at = np.unique(x, return_inverse=True)
            entries.append(offset + at[left] * len(present) + at[right])
            distances.append(table[np.ix_(present, present)].ravel())
            owners.append(np.full(len(present) ** 2, axis))
            offset += len(present) ** 2
        axes = np.concatenate(owners)
        self.arrays = (
            np.concatenate(distances),
            axes,
            grid.ordered[axes],
            np.stack(entries, axis=1).astype(np.int32),
            np.asarray(noise_variances, dtype=np.float64),
            level_variance,
        )

    def covariances(self, thetas: Array) -> Array:
        """K, shape (m, n, n), for `thetas` of shape (m, d + 3)."""
        found: Array = _covariances(*self.arrays, thetas)
        return found

    def whiteners(self, thetas: Array) -> Array:
        """Inverses of the lower Cholesky factors of K, shape (m, n, n)."""
        found: Array = _whiteners(*self.arrays, thetas)
        return found

    def log_likelihoods(self, thetas: Array, values: Array) -> Array:
        """Of centred `values`, shape (n,), up to a constant: shape (m,), for `thetas` of shape (m, d + 3)."""
        found: Array = _log_likelihoods(*self.arrays, thetas, values)
        return found

    def information(self, theta: Array) -> Array:
        """Fisher information of theta about the values, shape (d + 3, d + 3).

        Half the traces of K^-1 dK/dtheta_i K^-1 dK/dtheta_j (Rasmussen and Williams 2006, Eq. 5.9).
        """
        found: Array = _information(*self.arrays, theta)
        return found


@compiled
def _parts(distances: Any, owners: Any, ordered: Any, entries: Any, theta: Any, product: Any, additive: Any) -> Any:
    """Fills product and additive part, shape (n, n) each; returns their derivatives per pair of levels, shape (E,).

    The product part's derivatives are of its logarithm, the additive part's of itself.
    """
    d, n = theta.shape[0] - 3, product.shape[0]
    variance, share = np.exp(2 * theta[d]), np.exp(2 * theta[d + 1]) / d
    scales = np.exp(theta[:d])
    factors, terms = np.empty_like(distances), np.empty_like(distances)
    factor_slopes, term_slopes = np.empty_like(distances), np.empty_like(distances)
    for e in range(distances.shape[0]):
        scale = scales[owners[e]]
        factors[e], factor_slopes[e] = correlation(distances[e], scale, ordered[e])
        term, slope = correlation(distances[e], scale / np.sqrt(d), ordered[e])
        terms[e] = share * term
        term_slopes[e] = share * term * slope
    pair = 0
    for a in range(n):
        for b in range(a + 1):
            one, other = variance, 0.0
            for j in range(d):
                entry = entries[pair, j]
                one *= factors[entry]
                other += terms[entry]
            product[a, b] = product[b, a] = one
            additive[a, b] = additive[b, a] = other
            pair += 1
    return factor_slopes, term_slopes


@compiled
def _with_noise(signal: Any, noise: Any, level_variance: Any, theta: Any) -> Any:
    covariance = signal + level_variance
    extra = np.exp(2 * theta[-1]) + JITTER
    for a in range(covariance.shape[0]):
        covariance[a, a] += noise[a] + extra
    return covariance


@compiled
def _inverse_factor(factor: Any) -> Any:
    """Inverse of a lower triangular matrix, row by row."""
    inverse = np.zeros_like(factor)
    for a in range(factor.shape[0]):
        for b in range(a):
            share = factor[a, b]
            for c in range(b + 1):
                inverse[a, c] -= share * inverse[b, c]
        reciprocal = 1.0 / factor[a, a]
        for c in range(a):
            inverse[a, c] *= reciprocal
        inverse[a, a] = reciprocal
    return inverse


@compiled
def _covariances(
    distances: Any, owners: Any, ordered: Any, entries: Any, noise: Any, level_variance: Any, thetas: Any
) -> Any:
    n = noise.shape[0]
    found = np.empty((thetas.shape[0], n, n))
    product, additive = np.empty((n, n)), np.empty((n, n))
    for m in range(thetas.shape[0]):
        _parts(distances, owners, ordered, entries, thetas[m], product, additive)
        found[m] = _with_noise(product + additive, noise, level_variance, thetas[m])
    return found


@compiled
def _whiteners(
    distances: Any, owners: Any, ordered: Any, entries: Any, noise: Any, level_variance: Any, thetas: Any
) -> Any:
    found = _covariances(distances, owners, ordered, entries, noise, level_variance, thetas)
    for m in range(thetas.shape[0]):
        found[m] = _inverse_factor(np.linalg.cholesky(found[m]))
    return found


@compiled
def _log_likelihoods(
    distances: Any, owners: Any, ordered: Any, entries: Any, noise: Any, level_variance: Any, thetas: Any, values: Any
) -> Any:
    n = noise.shape[0]
    found = np.empty(thetas.shape[0])
    product, additive, white = np.empty((n, n)), np.empty((n, n)), np.empty(n)
    for m in range(thetas.shape[0]):
        _parts(distances, owners, ordered, entries, thetas[m], product, additive)
        factor = np.linalg.cholesky(_with_noise(product + additive, noise, level_variance, thetas[m]))
        total = 0.0
        for a in range(n):
            rest = values[a]
            for b in range(a):
                rest -= factor[a, b] * white[b]
            white[a] = rest / factor[a, a]
            total -= 0.5 * white[a] * white[a] + np.log(factor[a, a])
        found[m] = total
    return found


@compiled
def log_likelihood(
    distances: Any, owners: Any, ordered: Any, entries: Any, noise: Any, level_variance: Any, theta: Any, values: Any
) -> Any:
    """Of centred `values`, shape (n,), up to a constant; and its gradient, shape (d + 3,).

    The other arguments are `Pairs.arrays`.
    """
    d, n = theta.shape[0] - 3, noise.shape[0]
    product, additive = np.empty((n, n)), np.empty((n, n))
    factor_slopes, term_slopes = _parts(distances, owners, ordered, entries, theta, product, additive)
    factor = np.linalg.cholesky(_with_noise(product + additive, noise, level_variance, theta))
    whitener = _inverse_factor(factor)
    inverse = np.dot(whitener.T, whitener)
    alpha = np.dot(inverse, values)
    value, gradient = -0.5 * np.dot(values, alpha), np.zeros(d + 3)
    pair = 0
    for a in range(n):
        value -= np.log(factor[a, a])
        for b in range(a + 1):
            # Off the diagonal a pair stands for two entries of the symmetric matrices.
            weight = (0.5 if a == b else 1.0) * (alpha[a] * alpha[b] - inverse[a, b])
            by_log_product, by_term = weight * product[a, b], weight
            for j in range(d):
                entry = entries[pair, j]
                gradient[j] += by_log_product * factor_slopes[entry] + by_term * term_slopes[entry]
            gradient[d] += 2.0 * by_log_product
            gradient[d + 1] += 2.0 * weight * additive[a, b]
            if a == b:
                gradient[d + 2] += 2.0 * np.exp(2 * theta[d + 2]) * weight
            pair += 1
    return value, gradient


@compiled
def _information(
    distances: Any, owners: Any, ordered: Any, entries: Any, noise: Any, level_variance: Any, theta: Any
) -> Any:
    d, n = theta.shape[0] - 3, noise.shape[0]
    product, additive = np.empty((n, n)), np.empty((n, n))
    factor_slopes, term_slopes = _parts(distances, owners, ordered, entries, theta, product, additive)
    slopes = np.zeros((d + 3, n, n))
    pair = 0
    for a in range(n):
        for b in range(a + 1):
            for j in range(d):
                entry = entries[pair, j]
                slopes[j, a, b] = product[a, b] * factor_slopes[entry] + term_slopes[entry]
                slopes[j, b, a] = slopes[j, a, b]
            pair += 1
        slopes[d + 2, a, a] = 2.0 * np.exp(2 * theta[d + 2])
    slopes[d], slopes[d + 1] = 2.0 * product, 2.0 * additive
    factor = np.linalg.cholesky(_with_noise(product + additive, noise, level_variance, theta))
    whitener = _inverse_factor(factor)
    white = np.empty((d + 3, n * n))
    for i in range(d + 3):
        white[i] = np.dot(np.dot(whitener, slopes[i]), whitener.T).ravel()
    return 0.5 * np.dot(white, white.T)
