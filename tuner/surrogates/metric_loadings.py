"""How the metrics of one task move together.

Throughput and latency are one fact seen twice: by Little's law their product is the number of requests in
flight. So a task in which the one is higher than in others has the other lower, and a draw that takes both as
independent believes in configurations that are fast and unloaded at once. Metrics are therefore modelled in a
chain: each minus its regression on those before it, over what is particular to a task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tuner.surrogates.hierarchical_fit import TaskData
from tuner.surrogates.hierarchical_kernel import FloatArray, IntArray

_RIDGE = 3.0
"""Measurements' worth of doubt about a loading."""


def metric_loadings(
    metric: Sequence[TaskData], before: Sequence[Sequence[TaskData]], configurations: int
) -> FloatArray:
    """Shares of the metrics before it that are in a metric's deviation from the mean over tasks.

    Args:
        metric: per task, standardised.
        before: the same of the metrics before it, tasks in the same order.
        configurations: number of rows of the grid that the indices refer to.

    Returns:
        Shape (len(before),); zero where fewer than two tasks share a configuration.
    """
    if not before or not metric:
        return np.zeros(len(before))
    found = [_shared(data, [each[task] for each in before]) for task, data in enumerate(metric)]
    rows = np.concatenate([index for index, _, _ in found])
    output = np.concatenate([values for _, values, _ in found])
    inputs = np.concatenate([others for _, _, others in found], axis=1).T
    table = np.column_stack([inputs, output])
    counts = np.maximum(np.bincount(rows, minlength=configurations), 1)
    for column in table.T:
        column -= (np.bincount(rows, weights=column, minlength=configurations) / counts)[rows]
    inputs, output = table[:, :-1], table[:, -1]
    return np.asarray(np.linalg.solve(inputs.T @ inputs + _RIDGE * np.eye(len(before)), inputs.T @ output))


def without_loaded(data: TaskData, before: Sequence[TaskData], loadings: FloatArray) -> TaskData:
    """A metric of one task minus what it shares with the metrics before it, where all are known."""
    if not len(loadings):
        return data
    shared, own, others = _shared(data, before)
    kept = np.isin(data.index, shared)
    return replace(data, index=shared, values=own - loadings @ others, repeats=data.repeats[kept])


def _shared(data: TaskData, before: Sequence[TaskData]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Rows at which all are known, this metric's values and the others' there, the latter of shape (others, rows)."""
    index = data.index
    for other in before:
        index = np.intersect1d(index, other.index)
    others = [other.values[np.isin(other.index, index)] for other in before]
    return index, data.values[np.isin(data.index, index)], np.array(others).reshape(len(before), len(index))
