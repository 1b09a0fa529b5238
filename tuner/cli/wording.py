"""How trials, configurations and results are put into words, the same in every view."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tuner.early_end import Side
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import DEVICE, Config, Value, format_config
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.definition import Study
from tuner.study.record import State, TrialRecord
from tuner.trial import Estimate


def config_words(config: Config, default: Config | None = None) -> str:
    """The configuration in one line; with `default`, only what differs from it."""
    if default is None:
        return format_config(config.values)
    changed: dict[str, Value] = {
        name: value for name, value in config.values.items() if default.get(name) != value or name == DEVICE
    }
    if set(changed) <= {DEVICE} and config.device == default.device:
        return f"{format_config(changed)} (engine default)"
    return format_config(changed)


def estimate_words(ref: MetricRef, estimate: Estimate) -> str:
    """A number with its interval: `42.1 rps [40.9, 43.3]`."""
    text = ref.format(estimate.value)
    if estimate.low == estimate.high:
        return text
    return f"{text} [{ref.format(estimate.low)}, {ref.format(estimate.high)}]"


def excess_words(slo: Slo, excess: float) -> str:
    """How a bound is missed or held: `p99(latency) <= 50 ms missed by 23%`."""
    return f"{slo} missed by {excess:.0%}" if excess > 0 else f"{slo} held"


def outcome_words(record: TrialRecord, study: Study) -> str:
    """What came of a trial, in one line."""
    if record.failure is not None:
        return f"{record.failure.reason.value}: {record.failure.message}"
    if record.ended_early is not None:
        return f"ended early: {record.ended_early}"
    if record.measurement is None:
        return {State.FAULT: f"fault: {record.fault}", State.INTERRUPTED: "interrupted"}.get(record.state, "running")
    parts = [metric_words(record, objective) for objective in study.objectives]
    excess = record.excess(study.slos)
    parts += [f"{slo.metric} {number_words(record, slo.metric)}" for slo in study.slos]
    missed = [slo for slo in study.slos if excess[str(slo)] > 0]
    parts.append("misses " + ", ".join(str(slo) for slo in missed) if missed else "meets the SLO" if study.slos else "")
    return ", ".join(part for part in parts if part)


def metric_words(record: TrialRecord, objective: Objective) -> str:
    """`cost_per_million_requests $0.42`."""
    return f"{objective} {number_words(record, objective.metric)}"


def kind_words(kind: Kind) -> str:
    """What a trial is for."""
    return "confirming" if kind is Kind.CONFIRM else "trial"


def parameters_json(config: Config) -> Mapping[str, Value]:
    """The configuration as plain values."""
    return dict(config.values)


def metrics_json(metrics: Mapping[str, Estimate], origin: str) -> dict[str, object]:
    """Estimates by name, with unit and origin."""
    return {
        name: {
            "value": finite(each.value),
            "low": finite(each.low),
            "high": finite(each.high),
            "unit": MetricRef.parse(name).metric.dimension.value,
            "origin": origin,
        }
        for name, each in metrics.items()
    }


def finite(value: float) -> float | None:
    """The value, or `None` where JSON has no number for it."""
    return value if math.isfinite(value) else None


def number_words(record: TrialRecord, ref: MetricRef) -> str:
    """A trial's number, with its side where it is a bound: `>= 812 ms`; a dash where there is none."""
    value = None if record.observed is None else record.observed.value(ref)
    if value is None:
        return "-"
    bound = None if record.ended_early is None else record.ended_early.bounds.get(str(ref))
    sign = "" if bound is None else ">= " if bound.side is Side.AT_LEAST else "<= "
    return sign + ref.format(value)
