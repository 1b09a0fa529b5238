"""What repeated trials of a configuration say together, and how sure a gain is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from tuner.metric import Direction, MetricRef
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.record import TrialRecord
from tuner.trial import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All measured trials of one configuration.

    Attributes:
        config: which.
        records: its measured trials, in order; at least one.
        failures: how many of its trials ended as infeasible.
    """

    config: Config
    records: tuple[TrialRecord, ...]
    failures: int = 0

    def repeats(self, kind: Kind) -> int:
        """How many of its trials are of a kind."""
        return sum(record.kind is kind for record in self.records)

    def estimate(self, ref: MetricRef) -> Estimate | None:
        """The metric over all its trials: their mean, with the spread between and within them.

        Of positive values it is the geometric mean, so that no interval reaches below zero.
        """
        found = [m.metrics[str(ref)] for r in self.records if (m := r.measurement) and str(ref) in m.metrics]
        if len(found) <= 1:
            return found[0] if found else None
        if all(estimate.value > 0 for estimate in found):
            logs = _pooled([(math.log(estimate.value), estimate.std_error / estimate.value) for estimate in found])
            value = math.exp(logs.value)
            return Estimate(
                value=value, low=math.exp(logs.low), high=math.exp(logs.high), std_error=value * logs.std_error
            )
        return _pooled([(estimate.value, estimate.std_error) for estimate in found])

    def excess(self, slos: Iterable[Slo]) -> dict[str, float]:
        """`Slo.excess` of the mean over its trials; a bound without a number counts as missed."""
        result = {}
        for slo in slos:
            estimate = self.estimate(slo.metric)
            result[str(slo)] = 1.0 if estimate is None else slo.excess(estimate.value)
        return result

    def holds(self, slos: Iterable[Slo]) -> bool:
        """Whether no trial failed and every bound holds for the mean over its trials."""
        return self.failures == 0 and all(value <= 0 for value in self.excess(slos).values())


def gather(records: Iterable[TrialRecord]) -> dict[Config, Evidence]:
    """The measured trials by configuration, in order of first appearance."""
    grouped: dict[Config, list[TrialRecord]] = {}
    failures: Counter[Config] = Counter()
    for record in records:
        if record.measurement is not None:
            grouped.setdefault(record.config, []).append(record)
        elif record.failure is not None:
            failures[record.config] += 1
    return {
        config: Evidence(config=config, records=tuple(found), failures=failures[config])
        for config, found in grouped.items()
    }


def gain(winner: Evidence, baseline: Evidence, objective: Objective) -> Estimate | None:
    """How many times better the winner is than the baseline on the objective, with a 95 % interval.

    The winner's confirming repeats alone speak for it where there are any, since its first trial won a
    comparison and is likely too good; the baseline was not selected, so all its trials count. The
    interval is Welch's on the logarithms, with each trial's own standard error as the least spread.

    Returns:
        The ratio, above 1 when the winner is better; `None` where either has no positive value.
    """
    if winner.config == baseline.config:
        return Estimate.exact(1.0)
    chosen = [record for record in winner.records if record.kind is Kind.CONFIRM] or list(winner.records)
    ours = _logs(chosen, objective)
    theirs = _logs(baseline.records, objective)
    if not ours or not theirs:
        return None
    difference = _mean(ours) - _mean(theirs)
    if objective.direction is Direction.MINIMIZE:
        difference = -difference
    std_error = math.sqrt(_variance_of_mean(ours) + _variance_of_mean(theirs))
    reach = _reach(len(ours) + len(theirs) - 2) * std_error
    return Estimate(
        value=math.exp(difference),
        low=math.exp(difference - reach),
        high=math.exp(difference + reach),
        std_error=math.exp(difference) * std_error,
    )


def _pooled(values: Sequence[tuple[float, float]]) -> Estimate:
    """Mean of numbers given with their standard errors."""
    mean = _mean(values)
    std_error = math.sqrt(_variance_of_mean(values))
    reach = _reach(len(values) - 1) * std_error
    return Estimate(value=mean, low=mean - reach, high=mean + reach, std_error=std_error)


def _reach(freedom: int) -> float:
    """Half the width of a 95 % interval, in standard errors."""
    return float(stdtrit(max(1, freedom), 0.975))


def _logs(records: Sequence[TrialRecord], objective: Objective) -> list[tuple[float, float]]:
    """Logarithm and its standard error, per trial with a positive value."""
    found = []
    for record in records:
        estimate = record.measurement.metrics.get(str(objective.metric)) if record.measurement else None
        if estimate is not None and estimate.value > 0:
            found.append((math.log(estimate.value), estimate.std_error / estimate.value))
    return found


def _mean(values: Sequence[tuple[float, float]]) -> float:
    return math.fsum(value for value, _ in values) / len(values)


def _variance_of_mean(values: Sequence[tuple[float, float]]) -> float:
    """From the spread between the values or their own errors, whichever is larger."""
    mean = _mean(values)
    within = math.fsum(error**2 for _, error in values) / len(values)
    between = math.fsum((value - mean) ** 2 for value, _ in values) / (len(values) - 1) if len(values) > 1 else 0.0
    return max(between, within) / len(values)
