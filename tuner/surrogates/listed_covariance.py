"""The covariance of `hierarchical_kernel` without gradients, compiled: for priors, whose hyperparameters are known.

Per parameter and value of it there is a row with all its correlations to the configurations on the right: a row of the
covariance is a product of such rows plus a sum of others, plus the parts of the trend and of the latent coordinates.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tuner.surrogates.compiled import compiled
from tuner.surrogates.hierarchical_kernel import FloatArray, GridEncoding, IntArray


class ListedCovariance:
    """`hierarchical_kernel.covariance` at known hyperparameters.

    Args:
        theta: of the covariance.
        embedding: of the latent coordinates, shape (L, size).
        encoding: of all configurations that will be asked about.
    """

    def __init__(self, theta: FloatArray, embedding: FloatArray, encoding: GridEncoding) -> None:
        parts = encoding.layout.parts(theta)
        long, short, shares = np.exp(parts.long), np.exp(parts.short), np.exp(2.0 * parts.alone)
        sizes = [len(table) for table in encoding.distances]
        products, sums = [], []
        for at, table in enumerate(encoding.distances):
            varies = len(table) > 1
            in_product, in_sum = parts.ties[at]
            products.append(_tied(_matern(table / long[at]), in_product) if varies else np.ones_like(table))
            sums.append(shares[at] * _tied(_matern(table / short[at]), in_sum) if varies else np.zeros_like(table))
        products[0] = products[0] * (np.exp(2.0 * parts.product) if max(sizes) > 1 else 0.0)
        self._starts = np.cumsum([0, *sizes])
        self._cells = np.cumsum([0, *(size * size for size in sizes)])
        self._products = np.concatenate([table.ravel() for table in products])
        self._sums = np.concatenate([table.ravel() for table in sums])
        self._steep = np.concatenate(
            [np.exp(slope) * u for slope, u in zip(parts.slopes, encoding.octaves, strict=True)]
        )
        self._amplitude = float(np.exp(2.0 * parts.latent).sum())
        places, start = [], 0
        for basis in encoding.bases:
            places.append(embedding[:, start : start + basis.shape[1]] @ basis.T)
            start += basis.shape[1]
        self._places: FloatArray = np.concatenate(places, axis=1) / np.exp(parts.latent_lengths)[:, None]
        self._steady = (
            self._amplitude
            + sum(float(table[0, 0]) for table in sums)
            + math.prod(float(table[0, 0]) for table in products)
        )

    def variances(self, codes: IntArray) -> FloatArray:
        """The covariance of each configuration with itself, shape (n, p) -> (n,)."""
        trend = np.square(self._steepness(codes)).sum(axis=1)
        return np.asarray(self._steady + trend * (1.0 + 0.25 * trend))

    def between(self, left: IntArray, right: IntArray) -> FloatArray:
        """The covariance between two lists of codes, shapes (n, p) and (m, p) -> (n, m)."""
        found: FloatArray = _covariances(
            left,
            right,
            self._starts,
            self._cells,
            self._products,
            self._sums,
            self._steepness(left),
            self._steepness(right).T.copy(),
            self._amplitude,
            self._places,
        )
        return found

    def _steepness(self, codes: IntArray) -> FloatArray:
        """s_p u_p of configurations, shape (n, p) -> (n, p)."""
        return np.asarray(self._steep[self._starts[:-1] + codes])


def _matern(ratio: FloatArray) -> FloatArray:
    """As `hierarchical_kernel.matern`."""
    scaled = math.sqrt(5.0) * ratio
    return np.asarray((1.0 + scaled + scaled * scaled / 3.0) * np.exp(-scaled))


def _tied(correlations: FloatArray, ties: FloatArray) -> FloatArray:
    """As `hierarchical_kernel._tied`."""
    if not len(ties):
        return correlations
    bonds = np.tanh(ties)
    return np.asarray(correlations * (np.outer(bonds, bonds) + np.diag(1.0 - bonds**2)))


@compiled
def _rows(codes: Any, starts: Any, cells: Any, table: Any) -> Any:
    """Per value of a parameter, the table's numbers for it and each configuration, shape (values, m)."""
    m = codes.shape[0]
    found = np.empty((starts[-1], m))
    for k in range(codes.shape[1]):
        size = starts[k + 1] - starts[k]
        for value in range(size):
            row, begin = found[starts[k] + value], cells[k] + value * size
            for j in range(m):
                row[j] = table[begin + codes[j, k]]
    return found


@compiled
def _latent(codes: Any, starts: Any, places: Any) -> Any:
    """Latent coordinates of configurations, shape (L, n)."""
    found = np.zeros((places.shape[0], codes.shape[0]))
    for latent in range(places.shape[0]):
        for i in range(codes.shape[0]):
            for k in range(codes.shape[1]):
                found[latent, i] += places[latent, starts[k] + codes[i, k]]
    return found


@compiled
def _covariances(
    left: Any,
    right: Any,
    starts: Any,
    cells: Any,
    products: Any,
    sums: Any,
    left_steep: Any,
    right_steep: Any,
    amplitude: Any,
    places: Any,
) -> Any:
    """Everything goes along whole rows, without a call in it, so that it is done several numbers at a time."""
    n, m = left.shape[0], right.shape[0]
    found = np.empty((n, m))
    total, trend, squares = np.empty(m), np.empty(m), np.empty(m)
    factors, terms = _rows(right, starts, cells, products), _rows(right, starts, cells, sums)
    left_places, right_places = _latent(left, starts, places), _latent(right, starts, places)
    for i in range(n):
        product = found[i]
        product[:] = 1.0
        total[:] = 0.0
        trend[:] = 0.0
        squares[:] = 0.0
        for k in range(left.shape[1]):
            factor, term = factors[starts[k] + left[i, k]], terms[starts[k] + left[i, k]]
            here, there = left_steep[i, k], right_steep[k]
            for j in range(m):
                product[j] *= factor[j]
                total[j] += term[j]
                trend[j] += here * there[j]
        for j in range(m):
            total[j] += trend[j] * (1.0 + 0.25 * trend[j])
        if places.shape[0] == 0:
            for j in range(m):
                product[j] += total[j]
            continue
        for latent in range(places.shape[0]):
            here, there = left_places[latent, i], right_places[latent]
            for j in range(m):
                gap = here - there[j]
                squares[j] += gap * gap
        for j in range(m):
            scaled = np.sqrt(5.0 * squares[j])
            # exp(-x) = exp(-x / 32)^32, by its series, to within 1e-12; beyond 40 it is nothing.
            x = min(scaled, 40.0) * (-1.0 / 32.0)
            power = 1.0 + x * (1.0 / 8.0)
            power = 1.0 + x * power * (1.0 / 7.0)
            power = 1.0 + x * power * (1.0 / 6.0)
            power = 1.0 + x * power * (1.0 / 5.0)
            power = 1.0 + x * power * (1.0 / 4.0)
            power = 1.0 + x * power * (1.0 / 3.0)
            power = 1.0 + x * power * (1.0 / 2.0)
            power = 1.0 + x * power
            for _ in range(5):
                power *= power
            product[j] += total[j] + amplitude * (1.0 + scaled + scaled * scaled * (1.0 / 3.0)) * power
    return found
