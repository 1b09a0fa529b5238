"""Limits of a trial: when its load may end early, as it can neither hold the SLO nor beat the best so far.

The engine's default and the trials that confirm have none: what is recommended, and what it is compared with, is
measured to the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tuner.device import DeviceType
from tuner.early_end import Limit
from tuner.metric import Direction, Metric, MetricRef
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.definition import Study
from tuner.study.recommendation import ranking
from tuner.study.record import TrialRecord

SLO_MARGIN: Final = 1.1
"""Nearer to a bound a trial runs to its end: what just misses it tells most of where the bound is."""
INCUMBENT_MARGIN: Final = 1.25
"""The best so far is likely lucky, and configurations a little worse than it tell where the best is."""


def limits(
    study: Study, records: Sequence[TrialRecord], config: Config, kind: Kind, default: Config
) -> tuple[Limit, ...]:
    """The limits of the next trial, of `config`; the best of `records` sets one where there is a single objective."""
    if not study.search.early_end or kind is Kind.CONFIRM or config == default:
        return ()
    device = study.task.device(config.device)
    searched = study.plan.workload.rate_bracket is not None
    found = [] if searched else [_limit(slo, "SLO", SLO_MARGIN, device, searched) for slo in study.slos]
    if len(study.objectives) == 1:
        (objective,) = study.objectives
        best = next(iter(ranking(records, study.slos, objective)), None)
        estimate = None if best is None else best.estimate(objective.metric)
        if estimate is not None and estimate.value > 0:
            reached = Slo(
                metric=objective.metric,
                bound=estimate.value,
                at_most=objective.direction is Direction.MINIMIZE,
            )
            found.append(_limit(reached, "best so far", INCUMBENT_MARGIN, device, searched))
    return tuple(limit for limit in found if limit is not None)


def _limit(slo: Slo, whose: str, margin: float, device: DeviceType, searched: bool) -> Limit | None:
    """A bound as one on what a load measures: a cost is a price over a rate. `None` where no load decides it."""
    rates = {
        Metric.COST_PER_MILLION_REQUESTS: Metric.MAX_ARRIVAL_RATE if searched else Metric.THROUGHPUT,
        Metric.COST_PER_MILLION_TOKENS: Metric.OUTPUT_THROUGHPUT,
    }
    metric = slo.metric.metric
    if metric is Metric.COST_PER_HOUR:
        return None
    if metric not in rates:
        return Limit(slo=slo, whose=whose, margin=margin)
    rate = device.price_per_second * 1e6 / slo.bound if slo.bound > 0 else 0.0
    if rate <= 0:
        return None
    return Limit(
        slo=Slo(metric=MetricRef(rates[metric]), bound=rate, at_most=False), whose=whose, margin=margin, told=slo
    )
