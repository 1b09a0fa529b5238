"""Metrics that move together over tasks are taken together."""

from __future__ import annotations

import numpy as np

from tuner.surrogates.hierarchical_fit import TaskData
from tuner.surrogates.metric_loadings import metric_loadings, without_loaded

CONFIGURATIONS = 30


def tasks_under_littles_law() -> tuple[list[TaskData], list[TaskData]]:
    """Log throughput and log latency of four tasks that keep the same number of requests in flight."""
    generator = np.random.default_rng(0)
    in_flight = generator.normal(size=CONFIGURATIONS)
    throughput, latency = [], []
    for _ in range(4):
        index = np.sort(generator.choice(CONFIGURATIONS, 20, replace=False))
        values = generator.normal(size=20) + generator.normal()
        throughput.append(TaskData(index=index, values=values, repeats=np.ones(20)))
        latency.append(TaskData(index=index[2:], values=(in_flight[index] - values)[2:], repeats=np.ones(18)))
    return throughput, latency


def test_latency_is_told_by_throughput_up_to_what_the_configuration_says() -> None:
    throughput, latency = tasks_under_littles_law()
    loadings = metric_loadings(latency, [throughput], CONFIGURATIONS)
    assert -1.0 < loadings[0] < -0.9
    rest = [without_loaded(data, [other], loadings) for data, other in zip(latency, throughput, strict=True)]
    told: dict[int, list[float]] = {}
    for data in rest:
        for row, value in zip(data.index, data.values, strict=True):
            told.setdefault(int(row), []).append(float(value))
    assert max(np.ptp(values) for values in told.values()) < 0.5


def test_only_rows_at_which_all_metrics_are_known_are_modelled() -> None:
    throughput, latency = tasks_under_littles_law()
    rest = without_loaded(latency[0], [throughput[0]], np.array([-1.0]))
    assert np.array_equal(rest.index, latency[0].index)
    rest = without_loaded(throughput[0], [latency[0]], np.array([-1.0]))
    assert np.array_equal(rest.index, latency[0].index)


def test_a_single_task_tells_nothing_of_what_moves_together() -> None:
    throughput, latency = tasks_under_littles_law()
    assert metric_loadings(latency[:1], [throughput[:1]], CONFIGURATIONS) == 0.0
    assert metric_loadings([], [[]], CONFIGURATIONS) == 0.0
