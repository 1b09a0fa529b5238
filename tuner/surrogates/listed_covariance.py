"""The covariance of `hierarchical_kernel` without gradients, compiled: for priors, whose hyperparameters are known.

Per parameter and value of it there is a row with all its correlations to the configurations on the right: a row of the
covariance is a product of such rows plus a sum of others, plus the latent coordinates' part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.surrogates.compiled import compiled
from tuner.surrogates.hierarchical_kernel import LATENTS, FloatArray, GridEncoding, IntArray


def listed_covariance(
    theta: FloatArray, embedding: FloatArray, encoding: GridEncoding, left: IntArray, right: IntArray
) -> FloatArray:
    """`hierarchical_kernel.covariance` of the same arguments, shapes (n, p) and (m, p) -> (n, m)."""
    count = len(encoding.distances)
    long, short = np.exp(theta[:count]), np.exp(theta[count : 2 * count])
    shares = np.exp(2.0 * theta[2 * count + 1 : 3 * count + 1])
    lengths = np.exp(theta[3 * count + 1 + LATENTS :])
    products, sums = [], []
    for at, table in enumerate(encoding.distances):
        gaps = table[:, right[:, at]]
        varies = len(table) > 1
        products.append(_matern_rows(gaps / long[at]) if varies else np.ones_like(gaps))
        sums.append(shares[at] * _matern_rows(gaps / short[at]) if varies else np.zeros_like(gaps))
    if any(len(table) > 1 for table in encoding.distances):
        products[0] = products[0] * np.exp(2.0 * theta[2 * count])
    else:
        products[0] = np.zeros_like(products[0])
    starts = np.cumsum([0, *(len(table) for table in encoding.distances)])[:-1]
    found: FloatArray = _covariances(
        left + starts,
        np.concatenate(products),
        np.concatenate(sums),
        np.exp(2.0 * theta[3 * count + 1 : 3 * count + 1 + LATENTS]),
        _places(embedding, encoding, left) / lengths[:, None],
        _places(embedding, encoding, right) / lengths[:, None],
        left is right,
    )
    return found


def _places(embedding: FloatArray, encoding: GridEncoding, codes: IntArray) -> FloatArray:
    """Latent coordinates, shape (LATENTS, n)."""
    places, start = np.zeros((LATENTS, len(codes))), 0
    for at, basis in enumerate(encoding.bases):
        places += (embedding[:, start : start + basis.shape[1]] @ basis.T)[:, codes[:, at]]
        start += basis.shape[1]
    return places


@compiled
def _matern(ratio: Any) -> Any:
    scaled = np.sqrt(5.0) * ratio
    return (1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled)


@compiled
def _matern_rows(ratios: Any) -> Any:
    found = np.empty_like(ratios)
    for i in range(ratios.shape[0]):
        for j in range(ratios.shape[1]):
            found[i, j] = _matern(ratios[i, j])
    return found


@compiled
def _covariances(index: Any, products: Any, sums: Any, amplitudes: Any, left: Any, right: Any, symmetric: Any) -> Any:
    """From tables, shape (rows, m), whose rows `index`, shape (n, p), names; and from latent coordinates.

    Where left and right are the same, half of it is enough.
    """
    n, m = index.shape[0], products.shape[1]
    found = np.empty((n, m))
    product, total = np.empty(m), np.empty(m)
    for i in range(n):
        begin = i if symmetric else 0
        product[:] = 1.0
        total[:] = 0.0
        for k in range(index.shape[1]):
            row = index[i, k]
            for j in range(begin, m):
                product[j] *= products[row, j]
                total[j] += sums[row, j]
        for latent in range(amplitudes.shape[0]):
            here, amplitude = left[latent, i], amplitudes[latent]
            for j in range(begin, m):
                total[j] += amplitude * _matern(np.abs(here - right[latent, j]))
        for j in range(begin, m):
            found[i, j] = product[j] + total[j]
            if symmetric:
                found[j, i] = found[i, j]
    return found
