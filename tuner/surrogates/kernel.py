"""Kernels over a grid, from one correlation table per axis.

| symbol | meaning |
| --- | --- |
| `d` | number of axes |
| `V_j` | number of levels of axis j |
| levels | integer array (n, d): where points stand on each axis |
| `l_j` | length scale of axis j |

k_j(x_j, x'_j) is Matern 5/2 in the coordinates of an ordered axis, and exp(-[x_j != x'_j] / l_j) on an unordered
one. The *product* kernel is prod_j k_j, for functions in which everything may depend on everything; the
*additive* one is the mean of the k_j, for sums of functions of one axis each (logarithms of what multiplies, say).
As every axis has few levels, either is a sum of table rows: no distance is computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Levels = npt.NDArray[np.int16]
Array = npt.NDArray[np.float64]


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


def log_correlation(distances: Array, length_scales: Array, ordered: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Logarithms of correlations on single axes, and their derivatives by log length scale; elementwise."""
    scaled = distances / length_scales
    r = np.sqrt(5.0) * scaled
    polynomial = 1.0 + r + r * r / 3.0
    logarithm = np.where(ordered, np.log(polynomial) - r, -scaled)
    slope = np.where(ordered, r * r * (1.0 + r) / (3.0 * polynomial), scaled)
    return logarithm, slope


class Points:
    """Points of a grid, prepared for sums over table rows.

    Args:
        grid: the axes.
        levels: shape (N, d).
        dtype: to compute in; single precision is several times quicker, and good to three digits.
    """

    def __init__(self, grid: Grid, levels: Levels, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype
        self._index = torch.from_numpy(levels.astype(np.int64) + grid.offsets)
        # Adding up table rows: in double precision a product with one-hot rows is quicker than looking them up.
        self._one_hot = (
            None
            if dtype is torch.float32
            else torch.zeros(len(levels), grid.table_rows, dtype=dtype).scatter_(1, self._index, 1.0)
        )

    def __len__(self) -> int:
        return len(self._index)

    def sums(self, tables: torch.Tensor) -> torch.Tensor:
        """Per point the sum of its rows of the stacked `tables`, shape (rows, n): shape (N, n)."""
        if self._one_hot is None:
            return torch.nn.functional.embedding_bag(self._index, tables, mode="sum")
        return self._one_hot @ tables


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
        self.table_rows = sum(axis.size for axis in axes)
        self._owners = np.repeat(np.arange(len(axes)), [axis.size for axis in axes])

    @property
    def dimensions(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def log_tables(self, levels: Levels, length_scales: Array) -> Array:
        """Logarithms of the k_j between all levels of every axis and a few points, shape (table_rows, n).

        Args:
            levels: the few, shape (n, d).
            length_scales: shape (d,).
        """
        distances = np.concatenate([table[:, x] for table, x in zip(self.distances, levels.T, strict=True)])
        return log_correlation(distances, length_scales[self._owners, None], self.ordered[self._owners, None])[0]

    def linear_tables(self, levels: Levels) -> Array:
        """What adds up to scalar products, coordinates counted from the middle of the grid, shape (table_rows, n).

        An unordered axis contributes one quarter, as an ordered one's ends do, where two points agree on it.
        """
        return np.concatenate([_products(axis)[:, x] for axis, x in zip(self.axes, levels.T, strict=True)])

    def squared_norm_table(self) -> Array:
        """What adds up to a point's scalar product with itself, shape (table_rows, 1)."""
        return np.concatenate([np.diag(_products(axis))[:, None] for axis in self.axes])


class Covariance:
    """s^2 product + a^2 additive, between any points and a few.

    Args:
        grid: the axes.
        levels: the few, shape (n, d).
        scales: length scales of the product part and of the additive part, each of shape (d,).
        deviations: s and a.
        dtype: of the points that it will be asked about.
    """

    def __init__(
        self,
        grid: Grid,
        levels: Levels,
        scales: tuple[Array, Array],
        deviations: tuple[float, float],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        product = grid.log_tables(levels, scales[0])
        # s^2 joins the sum of logarithms once, with the first axis.
        product[: grid.axes[0].size] += 2.0 * np.log(deviations[0])
        additive = deviations[1] ** 2 / grid.dimensions * np.exp(grid.log_tables(levels, scales[1]))
        self._product, self._additive = tensor(product, dtype), tensor(additive, dtype)

    def at(self, points: Points) -> torch.Tensor:
        """Shape (N, n)."""
        return points.sums(self._product).exp_().add_(points.sums(self._additive))


class Pairs:
    """All pairs of some points, prepared for many length scales.

    Every axis has at most as many distinct pairs of levels as there are pairs of points, mostly far fewer:
    correlations are computed once per pair of levels, and looked up per pair of points.

    Args:
        grid: the axes.
        levels: shape (n, d).
    """

    def __init__(self, grid: Grid, levels: Levels) -> None:
        left, right = np.triu_indices(len(levels))
        distances, owners, lookups, offset = [], [], [], 0
        for axis, (table, x) in enumerate(zip(grid.distances, levels.T, strict=True)):
            present, at = np.unique(x, return_inverse=True)
            lookups.append(offset + at[left] * len(present) + at[right])
            distances.append(table[np.ix_(present, present)].ravel())
            owners.append(np.full(len(present) ** 2, axis))
            offset += len(present) ** 2
        self._distances = np.concatenate(distances)
        self._owners = np.concatenate(owners)
        self._ordered = grid.ordered[self._owners]
        self._lookup = np.stack(lookups)
        self._dimensions = grid.dimensions
        self._upper = (left, right)
        self._square = np.zeros((len(levels), len(levels)), dtype=np.int64)
        self._square[left, right] = self._square[right, left] = np.arange(len(left))

    def tables(self, length_scales: Array) -> tuple[Array, Array]:
        """Per pair of levels: log k_j, and its derivative by log length scale; each of shape (..., E).

        Args:
            length_scales: shape (..., d).
        """
        return log_correlation(self._distances, length_scales[..., self._owners], self._ordered)

    def product(self, log_tables: Array) -> Array:
        """The product kernel, shape (..., n, n), from the first of `tables`."""
        return np.exp(self._sums(log_tables))[..., self._square]

    def additive(self, log_tables: Array) -> Array:
        """The additive kernel, shape (..., n, n), from the first of `tables`."""
        return self._sums(np.exp(log_tables))[..., self._square] / self._dimensions

    def slopes(self, product: Array, product_slopes: Array, additive_slopes: Array) -> Array:
        """Derivatives of product part plus additive part by each log length scale, shape (d, n, n).

        Args:
            product: the product part, shape (n, n).
            product_slopes: derivatives of its logarithm per pair of levels, shape (E,).
            additive_slopes: derivatives of d times the additive part per pair of levels, shape (E,).
        """
        parts = product_slopes[self._lookup] * product[self._upper] + additive_slopes[self._lookup] / self._dimensions
        return parts[:, self._square]

    def slope(self, weighted: Array, product_slopes: Array, weights: Array, additive_slopes: Array) -> Array:
        """Sum over pairs of weights times `slopes`, without building them, shape (d,).

        Args:
            weighted: weights times the product part, shape (n, n).
            product_slopes, additive_slopes: as for `slopes`.
            weights: symmetric, shape (n, n).
        """
        both = np.concatenate([self._gathered(weighted), self._gathered(weights)])
        terms = both * np.concatenate([product_slopes, additive_slopes / self._dimensions])
        return np.bincount(np.tile(self._owners, 2), weights=terms, minlength=self._dimensions).astype(np.float64)

    def _gathered(self, matrix: Array) -> Array:
        """Sum of a symmetric matrix' entries per pair of levels, shape (E,)."""
        upper = matrix[self._upper] * np.where(self._upper[0] == self._upper[1], 1.0, 2.0)
        repeated = np.broadcast_to(upper, self._lookup.shape).ravel()
        return np.bincount(self._lookup.ravel(), weights=repeated, minlength=len(self._owners)).astype(np.float64)

    def _sums(self, tables: Array) -> Array:
        total: Array = tables[..., self._lookup[0]]
        for lookup in self._lookup[1:]:
            total += tables[..., lookup]
        return total


def tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """An array as a contiguous tensor."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def _products(axis: Axis) -> Array:
    if axis.coordinates is None:
        return 0.25 * np.eye(axis.size)
    return np.outer(axis.coordinates - 0.5, axis.coordinates - 0.5)
