"""Whether a metric is modelled in logarithms or as it is: what the earlier tasks' tables fit better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray

_ROUNDS: Final = 20
_LEAST_SHARED: Final = 0.3
"""Of the numbers, that are left to tell the scales apart by once every task and configuration has a level."""
_CLEARLY: Final = 0.1
"""Nats per number by which the numbers themselves must be likelier: with logarithms an unknown scale is a level."""
_TINY: Final = 1e-12


def fits_logarithms(tables: Sequence[tuple[IntArray, FloatArray]]) -> bool:
    """Whether these positive numbers are not clearly nearer than their logarithms to sums of levels.

    One of each task, and one of each configuration.

    Nearer is likelier: by normal errors around such sums, that of the numbers themselves in both cases (Box and Cox
    1964). Where too few configurations are common to several tasks, errors are those around each task's level.

    Args:
        tables: of each task, its configurations (distinct, as places in one list) and what was measured of them.
    """
    tables = [(index, values) for index, values in tables if len(values)]
    if not tables:
        return True
    task = np.concatenate([np.full(len(index), place) for place, (index, _) in enumerate(tables)])
    configuration = np.unique(np.concatenate([index for index, _ in tables]), return_inverse=True)[1]
    values = np.concatenate([values for _, values in tables])
    logarithms = np.log(np.maximum(values, _TINY))
    left = len(values) - len(tables) - int(configuration.max())
    both = left >= _LEAST_SHARED * len(values)
    spread = _spread(values, task, configuration if both else None)
    relative = _spread(logarithms, task, configuration if both else None)
    if relative <= _TINY or spread <= _TINY:
        return True
    return bool(np.log(relative) + logarithms.mean() <= np.log(spread) + _CLEARLY)


def _spread(values: FloatArray, task: IntArray, configuration: IntArray | None) -> float:
    """Root of the mean square of what levels of tasks, and of configurations where given, leave."""
    rest = values - _means(values, task)[task]
    for _ in range(_ROUNDS if configuration is not None else 0):
        assert configuration is not None
        rest = rest - _means(rest, configuration)[configuration]
        rest = rest - _means(rest, task)[task]
    return float(np.sqrt(np.mean(rest**2)))


def _means(values: FloatArray, group: IntArray) -> FloatArray:
    return np.bincount(group, values) / np.maximum(np.bincount(group), 1)
