"""A product kernel over a grid: one correlation table per axis.

| symbol | meaning |
| --- | --- |
| `d` | number of axes |
| `V_j` | number of levels of axis j |
| levels | integer array (n, d): where points stand on each axis |
| `l_j` | length scale of axis j |

k(x, x') = prod_j k_j(x_j, x'_j), where k_j is Matern 5/2 in the coordinates of an ordered axis, and
exp(-[x_j != x'_j] / l_j) on an unordered one. As every axis has few levels, the logarithm of k between many
points and a few training points is a sum of table rows: no distance is computed twice.
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


def log_correlation(distances: Array, length_scale: Array | float, ordered: bool) -> tuple[Array, Array]:
    """Logarithm of an axis' correlation at some distances, and its derivative by log length scale."""
    if not ordered:
        scaled = distances / length_scale
        return -scaled, scaled
    r = np.sqrt(5.0) * distances / length_scale
    polynomial = 1.0 + r + r * r / 3.0
    return np.log(polynomial) - r, r * r * (1.0 + r) / (3.0 * polynomial)


class Grid:
    """The axes together, and the correlations that length scales give their points.

    Args:
        axes: at least one.
    """

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = tuple(axes)
        self._offsets = np.cumsum([0, *(axis.size for axis in self.axes)])[:-1]
        self._distances = [axis.distances() for axis in self.axes]

    @property
    def dimensions(self) -> int:
        """Number of axes."""
        return len(self.axes)

    def pairwise_distances(self, levels: Levels) -> Array:
        """Shape (d, n, n)."""
        return np.stack([table[np.ix_(x, x)] for table, x in zip(self._distances, levels.T, strict=True)])

    def log_correlations(self, distances: Array, length_scales: Array) -> tuple[Array, Array]:
        """Log correlation, shape (n, m), and its derivatives by each log length scale, shape (d, n, m).

        Args:
            distances: shape (d, n, m).
            length_scales: shape (d,).
        """
        parts = [
            log_correlation(distances[j], length_scales[j], axis.coordinates is not None)
            for j, axis in enumerate(self.axes)
        ]
        return np.sum([part[0] for part in parts], axis=0), np.stack([part[1] for part in parts])

    def index(self, levels: Levels) -> torch.Tensor:
        """Points as rows of the stacked tables, shape (n, d): what `correlations` wants; made once per set."""
        return torch.from_numpy(levels.astype(np.int64) + self._offsets)

    def correlations(self, index: torch.Tensor, levels: Levels, length_scales: Array) -> torch.Tensor:
        """Correlations of many points with a few, shape (n, m).

        Args:
            index: of the many points, from `index`.
            levels: of the few, shape (m, d).
            length_scales: shape (d,).
        """
        tables = np.concatenate(
            [
                log_correlation(table[:, x], scale, axis.coordinates is not None)[0]
                for table, x, scale, axis in zip(self._distances, levels.T, length_scales, self.axes, strict=True)
            ]
        )
        return torch.exp(_sum_rows(index, tables))

    def linear(self, index: torch.Tensor, levels: Levels) -> torch.Tensor:
        """Scalar products of many points with a few, coordinates counted from the middle of the grid, shape (n, m).

        An unordered axis contributes one quarter, as an ordered one's ends do, where two points agree on it.
        """
        tables = [_products(axis)[:, x] for axis, x in zip(self.axes, levels.T, strict=True)]
        return _sum_rows(index, np.concatenate(tables))

    def squared_norms(self, levels: Levels) -> Array:
        """`linear` of every point with itself, shape (n,)."""
        parts = [np.diag(_products(axis))[x] for axis, x in zip(self.axes, levels.T, strict=True)]
        return np.asarray(np.sum(parts, axis=0))


def _products(axis: Axis) -> Array:
    if axis.coordinates is None:
        return 0.25 * np.eye(axis.size)
    return np.outer(axis.coordinates - 0.5, axis.coordinates - 0.5)


def _sum_rows(index: torch.Tensor, tables: Array) -> torch.Tensor:
    """Per point the sum of the table rows that `index` names, shape (n, m).

    A product with one-hot rows is the quickest way to add up table rows in double precision.
    """
    one_hot = torch.zeros(len(index), len(tables), dtype=torch.float64).scatter_(1, index, 1.0)
    return one_hot @ torch.from_numpy(tables)
