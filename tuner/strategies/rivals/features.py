"""Rows as points of the unit cube, as most published methods see configurations."""

from __future__ import annotations

import numpy as np

from tuner.parameter import Scale
from tuner.strategies.listed_problem import FloatArray, ListedProblem


def features(problem: ListedProblem) -> FloatArray:
    """Every row as a point, shape (n, d): ordinal values on their scale, words one-hot.

    A word that has descriptors is known by these instead, each scaled to [0, 1].
    """
    columns: list[FloatArray] = []
    for at, parameter in enumerate(problem.parameters):
        values = [row[at] for row in problem.rows]
        described = problem.descriptors.get(parameter.name, {})
        if parameter.scale is not Scale.CATEGORICAL:
            numbers = np.array([float(value) for value in values])
            if parameter.scale is Scale.LOG:
                numbers = np.log2(numbers if numbers.min() > 0 else numbers + 1.0)
            columns.append(_scaled(numbers[:, None]))
        elif described and all(value in described for value in values):
            columns.append(_scaled(np.array([described[value] for value in values])))
        else:
            distinct = list(dict.fromkeys(values))
            columns.append(np.array([[float(value == word) for word in distinct] for value in values]))
    return np.concatenate(columns, axis=1)


def _scaled(columns: FloatArray) -> FloatArray:
    low, high = columns.min(axis=0), columns.max(axis=0)
    return np.asarray((columns - low) / np.maximum(high - low, 1e-12))
