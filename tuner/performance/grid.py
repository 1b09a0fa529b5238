"""Interpolation on a regular grid in logarithms, missing points filled from their neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class LogGrid:
    """Values at the crossings of some axes, interpolated linearly in the axes' logarithms.

    Beyond its edges the outermost value holds: what is kept on a grid is the ratio of a measured time to
    its roofline, so that outside the grid the roofline leads and its last known efficiency goes with it.

    Args:
        axes: ascending positive coordinates of each axis.
        values: shape (len(axes[0]), ...); NaN where nothing was measured.
    """

    def __init__(self, axes: Sequence[ArrayLike], values: Array) -> None:
        self._logs = [np.log(np.asarray(axis, dtype=np.float64)) for axis in axes]
        self._measured = np.isfinite(np.asarray(values, dtype=np.float64))
        self._values = _filled(np.asarray(values, dtype=np.float64))

    def __call__(self, *coordinates: ArrayLike) -> Array:
        """Values at `coordinates`, one array per axis, broadcast together."""
        points = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in coordinates))
        lows: list[NDArray[np.int64]] = []
        shares: list[Array] = []
        for logs, point in zip(self._logs, points, strict=True):
            place = np.log(np.maximum(point, 1e-9))
            if len(logs) == 1:
                lows.append(np.zeros(point.shape, dtype=np.int64))
                shares.append(np.zeros(point.shape))
                continue
            low = np.clip(np.searchsorted(logs, place, side="right") - 1, 0, len(logs) - 2)
            lows.append(low)
            shares.append(np.clip((place - logs[low]) / (logs[low + 1] - logs[low]), 0.0, 1.0))
        total = np.zeros(points[0].shape)
        for corner in range(2 ** len(lows)):
            weight = np.ones(points[0].shape)
            index = []
            for axis, (low, share) in enumerate(zip(lows, shares, strict=True)):
                upper = corner >> axis & 1
                weight = weight * (share if upper else 1.0 - share)
                index.append(np.minimum(low + upper, len(self._logs[axis]) - 1))
            total += weight * self._values[tuple(index)]
        return total

    def left_out(self) -> tuple[Array, Array]:
        """Errors of every measured value, as its neighbours along each axis predict it without it.

        Returns:
            Predicted less measured of the values between two others (interpolated), and of the outermost ones
            (their neighbour's value held), each flat.
        """
        between, outermost = [np.zeros(0)], [np.zeros(0)]
        for axis, logs in enumerate(self._logs):
            if len(logs) < 3:
                continue
            values, known = np.moveaxis(self._values, axis, -1), np.moveaxis(self._measured, axis, -1)
            share = (logs[1:-1] - logs[:-2]) / (logs[2:] - logs[:-2])
            guess = (1.0 - share) * values[..., :-2] + share * values[..., 2:]
            all_three = known[..., :-2] & known[..., 1:-1] & known[..., 2:]
            between.append((guess - values[..., 1:-1])[all_three])
            for end, neighbour in ((0, 1), (-1, -2)):
                both = known[..., end] & known[..., neighbour]
                outermost.append((values[..., neighbour] - values[..., end])[both])
        return np.concatenate(between), np.concatenate(outermost)

    def inside(self, *coordinates: float) -> bool:
        """Whether a point lies within all axes."""
        return all(
            bool(logs[0] - 1e-9 <= np.log(max(point, 1e-9)) <= logs[-1] + 1e-9)
            for logs, point in zip(self._logs, coordinates, strict=True)
        )


def _filled(values: Array) -> Array:
    """NaNs replaced along the last axis first, by the nearest known value; 0 where nothing is known."""
    filled = values.copy()
    for axis in reversed(range(filled.ndim)):
        if not np.isnan(filled).any():
            break
        turned = np.moveaxis(filled, axis, -1)
        lines = turned.reshape(-1, filled.shape[axis]).copy()
        for line in lines:
            known = np.flatnonzero(~np.isnan(line))
            if 0 < known.size < line.size:
                every = np.arange(line.size)
                right = np.clip(np.searchsorted(known, every), 0, known.size - 1)
                left = np.maximum(right - 1, 0)
                nearer_left = np.abs(every - known[left]) <= np.abs(known[right] - every)
                line[:] = line[np.where(nearer_left, known[left], known[right])]
        filled = np.moveaxis(lines.reshape(turned.shape), -1, axis)
    return np.nan_to_num(filled, nan=0.0)
