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


class Grid:
    """The axes together, and the correlations that length scales give their points.

    Args:
        axes: at least one.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self.ordered = np.array([axis.coordinates is not None for axis in axes])
        self.distances = [axis.distances() for axis in axes]
        self._offsets = np.cumsum([0, *(axis.size for axis in axes)])[:-1]

    @property
    def dimensions(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def points(self, levels: Levels) -> torch.Tensor:
        """Points as rows of the stacked tables, shape (n, d): what the methods below want of many points."""
        return torch.from_numpy(levels.astype(np.int64) + self._offsets)

    def product(
        self, points: torch.Tensor, levels: Levels, length_scales: Array, dtype: torch.dtype = torch.float64
    ) -> torch.Tensor:
        """The product kernel between many points and a few, shape (N, n).

        Args:
            points: the many, shape (N, d), from `points`.
            levels: the few, shape (n, d).
            length_scales: shape (d,).
            dtype: of the result; single precision is several times quicker.
        """
        return _sum_rows(points, self._log_tables(levels, length_scales), dtype).exp_()

    def additive(
        self, points: torch.Tensor, levels: Levels, length_scales: Array, dtype: torch.dtype = torch.float64
    ) -> torch.Tensor:
        """The additive kernel between many points and a few; everything as for `product`."""
        tables = [np.exp(table) / self.dimensions for table in self._log_tables(levels, length_scales)]
        return _sum_rows(points, tables, dtype)

    def linear(self, points: torch.Tensor, levels: Levels, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """Scalar products of many points with a few, coordinates counted from the middle of the grid, shape (N, n).

        An unordered axis contributes one quarter, as an ordered one's ends do, where two points agree on it.
        """
        return _sum_rows(points, [_products(axis)[:, x] for axis, x in zip(self.axes, levels.T, strict=True)], dtype)

    def squared_norms(self, points: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        """`linear` of every point with itself, shape (N,)."""
        return _sum_rows(points, [np.diag(_products(axis))[:, None] for axis in self.axes], dtype)[:, 0]

    def _log_tables(self, levels: Levels, length_scales: Array) -> list[Array]:
        return [
            log_correlation(table[:, x], scale, ordered)[0]
            for table, x, scale, ordered in zip(self.distances, levels.T, length_scales, self.ordered, strict=True)
        ]


class Pairs:
    """All pairs of some points, prepared for many length scales.

    Every axis has at most as many distinct pairs of levels as there are pairs of points, mostly far fewer:
    correlations are computed once per pair of levels, and looked up per pair of points.

    Args:
        grid: the axes.
        levels: shape (n, d).
    """

    def __init__(self, grid: Grid, levels: Levels) -> None:
        distances, owners, lookups, offset = [], [], [], 0
        for axis, (table, x) in enumerate(zip(grid.distances, levels.T, strict=True)):
            present, at = np.unique(x, return_inverse=True)
            lookups.append(offset + at[:, None] * len(present) + at[None])
            distances.append(table[np.ix_(present, present)].ravel())
            owners.append(np.full(len(present) ** 2, axis))
            offset += len(present) ** 2
        self._distances = np.concatenate(distances)
        self._owners = np.concatenate(owners)
        self._ordered = grid.ordered[self._owners]
        self._lookup = np.stack(lookups)
        self._dimensions = grid.dimensions

    def product(self, length_scales: Array) -> Array:
        """The product kernel, shape (..., n, n), for length scales of shape (..., d)."""
        return np.exp(self._sum(self._tables(length_scales)[0]))

    def additive(self, length_scales: Array) -> Array:
        """The additive kernel, shape (..., n, n), for length scales of shape (..., d)."""
        return self._sum(np.exp(self._tables(length_scales)[0])) / self._dimensions

    def product_slope(self, length_scales: Array, weighted: Array) -> Array:
        """Derivative of the sum over pairs of weights times `product` by each log length scale, shape (d,).

        Args:
            length_scales: shape (d,).
            weighted: weights times `product`, shape (n, n).
        """
        return self._by_axis(self._tables(length_scales)[1], weighted)

    def additive_slope(self, length_scales: Array, weights: Array) -> Array:
        """The same for `additive`; here `weights` are the weights themselves, shape (n, n)."""
        logarithm, slope = self._tables(length_scales)
        return self._by_axis(np.exp(logarithm) * slope / self._dimensions, weights)

    def _tables(self, length_scales: Array) -> tuple[Array, Array]:
        return log_correlation(self._distances, length_scales[..., self._owners], self._ordered)

    def _sum(self, tables: Array) -> Array:
        total: Array = tables[..., self._lookup[0]]
        for lookup in self._lookup[1:]:
            total += tables[..., lookup]
        return total

    def _by_axis(self, tables: Array, weights: Array) -> Array:
        repeated = np.broadcast_to(weights, self._lookup.shape).ravel()
        gathered = np.bincount(self._lookup.ravel(), weights=repeated, minlength=len(tables))
        return np.bincount(self._owners, weights=gathered * tables, minlength=self._dimensions).astype(np.float64)


def _products(axis: Axis) -> Array:
    if axis.coordinates is None:
        return 0.25 * np.eye(axis.size)
    return np.outer(axis.coordinates - 0.5, axis.coordinates - 0.5)


def _sum_rows(points: torch.Tensor, tables: Sequence[Array], dtype: torch.dtype) -> torch.Tensor:
    """Per point the sum of its rows of the stacked tables, shape (N, n)."""
    stacked = torch.from_numpy(np.ascontiguousarray(np.concatenate(tables))).to(dtype)
    if dtype is torch.float32:
        return torch.nn.functional.embedding_bag(points, stacked, mode="sum")
    # In double precision a product with one-hot rows is quicker.
    one_hot = torch.zeros(len(points), len(stacked), dtype=dtype).scatter_(1, points, 1.0)
    return one_hot @ stacked
