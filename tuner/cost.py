"""What serving costs: prices over what was served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tuner.device import DeviceType
from tuner.early_end import EarlyEnd, OneSided
from tuner.metric import Metric
from tuner.trial import Estimate, Measurement


def with_costs(measurement: Measurement, device: DeviceType) -> Measurement:
    """`measurement` with the cost metrics of `device` added, in its windows too.

    cost per million = price per second x 10^6 / rate, where the rate is the highest arrival rate that
    held the SLO if it was searched, else the completed requests (or output tokens) per second. A bound on a rate is
    one on the cost.
    """
    request_rate = (
        Metric.MAX_ARRIVAL_RATE if Metric.MAX_ARRIVAL_RATE.value in measurement.metrics else Metric.THROUGHPUT
    )
    rates = {
        Metric.COST_PER_MILLION_REQUESTS: request_rate,
        Metric.COST_PER_MILLION_TOKENS: Metric.OUTPUT_THROUGHPUT,
    }
    metrics = dict(measurement.metrics)
    metrics[Metric.COST_PER_HOUR.value] = Estimate.exact(device.price_per_hour)
    for cost, rate in rates.items():
        estimate = measurement.metrics.get(rate.value)
        if estimate is not None and estimate.value > 0:
            metrics[cost.value] = _cost_of(device.price_per_second * 1e6, estimate)
    windows = tuple(
        replace(
            window,
            metrics={
                **window.metrics,
                **{
                    cost.value: device.price_per_second * 1e6 / window.metrics[rate.value]
                    for cost, rate in rates.items()
                    if window.metrics.get(rate.value, 0.0) > 0
                },
            },
        )
        for window in measurement.windows
    )
    ended = measurement.ended_early
    if ended is not None:
        ended = _with_cost_bounds(ended, rates, device.price_per_second * 1e6)
    return replace(measurement, metrics=metrics, windows=windows, ended_early=ended)


def _with_cost_bounds(ended: EarlyEnd, rates: Mapping[Metric, Metric], numerator: float) -> EarlyEnd:
    bounds = dict(ended.bounds)
    for cost, rate in rates.items():
        found = bounds.get(rate.value)
        if found is not None and found.value > 0:
            bounds[cost.value] = OneSided(value=numerator / found.value, side=found.side.other)
    return replace(ended, bounds=bounds)


def _cost_of(numerator: float, rate: Estimate) -> Estimate:
    value = numerator / rate.value
    return Estimate(
        value=value,
        low=numerator / rate.high if rate.high > 0 else value,
        high=numerator / rate.low if rate.low > 0 else float("inf"),
        std_error=value * rate.std_error / rate.value,
    )
