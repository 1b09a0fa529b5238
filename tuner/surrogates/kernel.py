"""Kernels over a grid, from one correlation table per axis.

| symbol | meaning |
| --- | --- |
| `d` | number of axes |
| `V_j` | number of levels of axis j |
| `R` | table rows: the sum of the V_j |
| levels | integer array (n, d): where points stand on each axis |
| `l_j` | length scale of axis j |

k_j(x_j, x'_j) is Matern 5/2 in the coordinates of an ordered axis, and exp(-[x_j != x'_j] / l_j) on an unordered
one. The *product* kernel is prod_j k_j, for functions in which everything may depend on everything; the
*additive* one is the mean of the k_j, for sums of functions of one axis each (logarithms of what multiplies, say).
As every axis has few levels, either is made of table rows: no correlation is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tuner.surrogates.compiled import compiled

Levels = npt.NDArray[np.int16]
Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_CHUNK: Final = 2048
"""Points whose covariances are multiplied at a time: few enough for them to stay in the cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """One axis of the grid.

    Attributes:
        size: number of levels.
        coordinates: shape (size,), where the levels lie in [0, 1]; `None` when they have no order.
    """

    size: int
    coordinates: Array | None = None

    def distances(self) -> Array:
        """Shape (size, size): how far apart levels are; 1 between any two when they have no order."""
        if self.coordinates is None:
            return 1.0 - np.eye(self.size)
        return np.abs(self.coordinates[:, None] - self.coordinates[None])


class Grid:
    """The axes together.

    Args:
        axes: at least one.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.ordered = np.array([axis.coordinates is not None for axis in axes])
        self.distances = [axis.distances() for axis in axes]
        self.offsets = np.cumsum([0, *(axis.size for axis in axes)])[:-1]
        self.owners = np.repeat(np.arange(len(axes)), [axis.size for axis in axes])

    @property
    def dimensions(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def tables(self, levels: Levels, length_scales: Array) -> Array:
        """The k_j between all levels of every axis and a few points, shape (u, R, n).

        Args:
            levels: the few, shape (n, d).
            length_scales: shape (u, d).
        """
        distances = np.concatenate([table[:, x] for table, x in zip(self.distances, levels.T, strict=True)])
        found: Array = _correlations(distances, self.owners, self.ordered, length_scales)
        return found

    def linear_tables(self, levels: Levels) -> Array:
        """What adds up to scalar products, coordinates counted from the middle of the grid, shape (R, n).

        An unordered axis contributes one quarter, as an ordered one's ends do, where two points agree on it.
        """
        return np.concatenate([_products(axis)[:, x] for axis, x in zip(self.axes, levels.T, strict=True)])

    def spread_order(self, levels: Levels) -> npt.NDArray[np.int64]:
        """An order of points, shape (n, d), in which each is as far as any from those before it, shape (n,).

        (Farthest-first traversal, Gonzalez 1985.)
        """
        gaps = sum(table[np.ix_(x, x)] for table, x in zip(self.distances, levels.T, strict=True))
        order: npt.NDArray[np.int64] = _farthest_first(gaps)
        return order

    def squared_norm_table(self) -> Array:
        """What adds up to a point's scalar product with itself, shape (R,)."""
        return np.concatenate([np.diag(_products(axis)) for axis in self.axes])


class Points:
    """Points of a grid, prepared for covariances.

    Args:
        grid: the axes.
        levels: shape (N, d).
        dtype: to compute in; single precision is several times quicker, and good to three digits.

    Attributes:
        levels, dtype: the same.
        index: which table rows they are, shape (N, d).
    """

    def __init__(self, grid: Grid, levels: Levels, dtype: npt.DTypeLike = np.float64) -> None:
        self.levels = levels
        self.dtype = np.dtype(dtype)
        self.index = np.add(levels, grid.offsets, dtype=np.int32, casting="unsafe")

    def __len__(self) -> int:
        return len(self.index)

    def sums(self, table: Array) -> Floats:
        """Per point the sum of its rows of a `table` of shape (R,): shape (N,)."""
        total: Floats = _sums(self.index, table.astype(self.dtype))
        return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Covariance:
    """u covariances between any points and a few, each a product of table rows plus a sum of others.

    Attributes:
        products: what is multiplied, shape (u, R, n).
        sums: what is added up, shape (u, R, n).
    """

    products: Array
    sums: Array

    @classmethod
    def of(cls, grid: Grid, levels: Levels, scales: tuple[Array, Array], deviations: tuple[Array, Array]) -> Covariance:
        """s^2 product + a^2 additive.

        Args:
            grid: the axes.
            levels: the few, shape (n, d).
            scales: length scales of the product part and of the additive part, each of shape (u, d).
            deviations: s and a, each of shape (u,).
        """
        products, sums = grid.tables(levels, scales[0]), grid.tables(levels, scales[1])
        # s^2 joins the product once, with the first axis.
        products[:, : grid.axes[0].size] *= deviations[0][:, None, None] ** 2
        sums *= deviations[1][:, None, None] ** 2 / grid.dimensions
        return cls(products=products, sums=sums)

    def at(self, points: Points) -> Floats:
        """Shape (u, N, n)."""
        return np.stack([_cross(points.index, *tables) for tables in zip(*self._tables(points.dtype), strict=True)])

    def projected(self, points: Points, weights: Array, whiteners: Array, shifts: Array) -> tuple[Floats, Floats]:
        """With c the covariances of a point: c weights, and |c whitener + shift|^2; each of shape (u, N).

        Args:
            points: N points.
            weights: shape (u, n).
            whiteners: shape (u, k, m), of the first k covariances.
            shifts: shape (u, m).
        """
        others = [np.ascontiguousarray(array, dtype=points.dtype) for array in (weights, whiteners, shifts)]
        found: tuple[Floats, Floats] = _projected(points.index, *self._tables(points.dtype), *others)
        return found

    def _tables(self, dtype: npt.DTypeLike) -> tuple[Floats, Floats]:
        return self.products.astype(dtype, copy=False), self.sums.astype(dtype, copy=False)


def _products(axis: Axis) -> Array:
    if axis.coordinates is None:
        return 0.25 * np.eye(axis.size)
    return np.outer(axis.coordinates - 0.5, axis.coordinates - 0.5)


@compiled
def correlation(distance: Any, length_scale: Any, ordered: Any) -> Any:
    """On a single axis; and the derivative of its logarithm by log length scale."""
    scaled = distance / length_scale
    if not ordered:
        return np.exp(-scaled), scaled
    r = np.sqrt(5.0) * scaled
    polynomial = 1.0 + r + r * r / 3.0
    return polynomial * np.exp(-r), r * r * (1.0 + r) / (3.0 * polynomial)


@compiled
def _farthest_first(gaps: Any) -> Any:
    count = gaps.shape[0]
    order, nearest = np.zeros(count, np.int64), gaps[0].copy()
    for k in range(1, count):
        nearest[order[k - 1]] = -1.0
        order[k] = np.argmax(nearest)
        nearest = np.minimum(nearest, gaps[order[k]])
    return order


@compiled
def _correlations(distances: Any, owners: Any, ordered: Any, length_scales: Any) -> Any:
    found = np.empty((length_scales.shape[0], *distances.shape))
    for u in range(found.shape[0]):
        for row in range(found.shape[1]):
            axis = owners[row]
            for i in range(found.shape[2]):
                found[u, row, i] = correlation(distances[row, i], length_scales[u, axis], ordered[axis])[0]
    return found


@compiled
def _sums(index: Any, table: Any) -> Any:
    total = np.zeros(index.shape[0], table.dtype)
    for p in range(index.shape[0]):
        for j in range(index.shape[1]):
            total[p] += table[index[p, j]]
    return total


@compiled
def _fill(index: Any, products: Any, sums: Any, product: Any, total: Any, cross: Any) -> None:
    """Covariances of a few points, into `cross`.

    Candidates come in lexicographic order: most share all but their last levels with the one before, so that
    `product` and `total`, shape (d, n), keep products and sums of the first 0 .. d - 1 rows.
    """
    last, n = product.shape[0] - 1, product.shape[1]
    for p in range(index.shape[0]):
        first = 0
        if p > 0:
            while first < last and index[p, first] == index[p - 1, first]:
                first += 1
        for j in range(first, last):
            row, factor, term = index[p, j], product[j + 1], total[j + 1]
            for i in range(n):
                factor[i] = product[j, i] * products[row, i]
                term[i] = total[j, i] + sums[row, i]
        row, found = index[p, last], cross[p]
        for i in range(n):
            found[i] = product[last, i] * products[row, i] + (total[last, i] + sums[row, i])


@compiled
def _cross(index: Any, products: Any, sums: Any) -> Any:
    n = products.shape[1]
    cross = np.empty((index.shape[0], n), products.dtype)
    product, total = np.ones((index.shape[1], n), products.dtype), np.zeros((index.shape[1], n), products.dtype)
    _fill(index, products, sums, product, total, cross)
    return cross


@compiled
def _projected(index: Any, products: Any, sums: Any, weights: Any, whiteners: Any, shifts: Any) -> Any:
    count, n = index.shape[0], products.shape[2]
    projections = np.empty((products.shape[0], count), products.dtype)
    squares = np.empty_like(projections)
    product, total = np.ones((index.shape[1], n), products.dtype), np.zeros((index.shape[1], n), products.dtype)
    cross = np.empty((min(count, _CHUNK), n), products.dtype)
    few = cross if whiteners.shape[1] == n else np.empty((cross.shape[0], whiteners.shape[1]), products.dtype)
    white = np.empty((cross.shape[0], whiteners.shape[2]), products.dtype)
    for u in range(products.shape[0]):
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            _fill(index[start : start + size], products[u], sums[u], product, total, cross[:size])
            if few.shape[1] < n:
                few[:size] = cross[:size, : few.shape[1]]
            np.dot(few[:size], whiteners[u], white[:size])
            for p in range(size):
                projection = square = products.dtype.type(0.0)
                for i in range(n):
                    projection += cross[p, i] * weights[u, i]
                for i in range(white.shape[1]):
                    shifted = white[p, i] + shifts[u, i]
                    square += shifted * shifted
                projections[u, start + p] = projection
                squares[u, start + p] = square
    return projections, squares
