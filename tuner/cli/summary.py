"""The end of a study, for people and for machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tuner.cli.wording import (
    config_words,
    estimate_words,
    excess_words,
    finite,
    metrics_json,
    outcome_words,
    parameters_json,
)
from tuner.early_end import EarlyEnd
from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.strategies.history import Kind
from tuner.strategies.prospects import Prospects
from tuner.study.evidence import Evidence
from tuner.study.forecast_note import RAN_OUT, ForecastNote
from tuner.study.recommendation import Shortfall
from tuner.study.record import State, TrialRecord
from tuner.study.result import Result, metric_values
from tuner.trial import Estimate
from tuner.units import format_seconds

_TOLD_GAIN: Final = 0.5
"""Expected gains above are not told to people."""


def summary_words(result: Result) -> str:
    """The best configuration beside the default, or why there is none."""
    lines = [_header(result)]
    if len(result.study.objectives) > 1:
        lines += _front_lines(result)
    elif result.best is not None:
        lines += _best_lines(result, result.best)
    if result.best is None:
        lines += _nothing_lines(result, result.shortfall)
    if result.prospects is not None:
        lines.append(_outlook_words(result, result.prospects))
    if result.earlier:
        lines.append(_earlier_words(result))
    lines += _prediction_lines(result)
    if result.spending is not None and result.spending.wall_s > 0:
        spent = result.spending
        lines.append(
            f"time       {format_seconds(spent.wall_s)}: server start {format_seconds(spent.start_s)}, load "
            f"{format_seconds(spent.load_s)}, shutdown {format_seconds(spent.stop_s)}, other {spent.other_share:.1%}"
        )
    return "\n".join(lines)


def summary_json(result: Result) -> dict[str, object]:
    """The same for machines: JSON values, base units, all numbers finite or null."""
    study = result.study
    return {
        "study": study.name,
        "stop_reason": result.stop_reason,
        "stop_rule": None if result.ended is None else result.ended.rule.value,
        "prospects": _prospects_json(result.prospects),
        "earlier_tasks": _earlier_json(result),
        "objectives": [str(objective) for objective in study.objectives],
        "slo": [str(slo) for slo in study.slos],
        "best": _evidence_json(result, result.best),
        "default": _evidence_json(result, result.default),
        "default_parameters": parameters_json(result.default_config),
        "gain": _estimate_json(result.gain),
        "front": [_evidence_json(result, evidence) for evidence in result.front] if len(study.objectives) > 1 else None,
        "shortfall": _shortfall_json(result.shortfall),
        "trials": [_trial_json(result, record) for record in result.records],
        "predictions": _predictions_json(result),
        "overhead": None if result.spending is None else result.spending.other_share,
    }


def _header(result: Result) -> str:
    done = [record for record in result.records if record.state is State.DONE]
    failed = sum(record.failure is not None for record in done)
    ended = sum(record.ended_early is not None for record in done)
    repeats = sum(record.kind is Kind.CONFIRM for record in done)
    early = f", {ended} ended early" if ended else ""
    counts = f"{len(done) - repeats} trials ({failed} infeasible{early}), {repeats} repeats"
    return f"{result.study.name}: {counts}" + (f"; {result.stop_reason}" if result.stop_reason else "")


def _best_lines(result: Result, best: Evidence) -> list[str]:
    objective = result.study.objectives[0]
    lines = [f"best       {config_words(best.config)}"]
    lines.append(f"           {_measured_words(result, best)}")
    default = result.default
    if default is None:
        lines.append(f"default    {config_words(result.default_config)}: could not be measured")
        return lines
    if default.config == best.config:
        lines.append("default    is the best configuration found")
        return lines
    lines.append(f"default    {config_words(default.config)}")
    lines.append(f"           {_measured_words(result, default)}")
    gain = result.gain
    if gain is not None:
        confirmed = best.repeats(Kind.CONFIRM)
        how = f"measured again {confirmed} times, in turn with the default" if confirmed else "not measured again"
        lines.append(f"gain       {gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}] on {objective}, {how}")
    return lines


def _outlook_words(result: Result, prospects: Prospects) -> str:
    # Beliefs are widened on purpose: so large a gain says how little is known rather than what to expect.
    told = prospects.expected_gain <= _TOLD_GAIN
    gain = f"{prospects.expected_gain:.1%}" if told else "an amount too uncertain to tell"
    words = (
        f"outlook    within {prospects.tolerance:.0%} of the best with probability {prospects.within:.0%}, one more "
        f"trial would gain {gain} (predicted"
    )
    if result.best is not None and result.best.config != prospects.best:
        words += f" for {config_words(prospects.best)}"
    return words + ")"


def _earlier_words(result: Result) -> str:
    weights = {} if result.prospects is None else result.prospects.weights
    each = [f"{name} {weights[name]:.0%}" if name in weights else name for name in result.earlier]
    words = f"earlier    {', '.join(each)}"
    return f"{words}, none of them {max(0.0, 1 - sum(weights.values())):.0%}" if weights else words


def _front_lines(result: Result) -> list[str]:
    lines = [f"front      {len(result.front)} configurations that none beats on every objective"]
    for evidence in result.front:
        lines.append(f"           {config_words(evidence.config)}")
        lines.append(f"             {_measured_words(result, evidence)}")
    return lines


def _nothing_lines(result: Result, shortfall: Shortfall | None) -> list[str]:
    ended = [record for record in result.records if record.ended_early is not None]
    if shortfall is None and ended:
        nearest = min(ended, key=lambda record: max(record.excess(result.study.slos).values(), default=0.0))
        return [
            "best       none: no configuration meets the SLO, and none was measured to its end",
            f"nearest    {config_words(nearest.config)}",
            f"           {outcome_words(nearest, result.study)}",
        ]
    if shortfall is None:
        reasons = sorted({r.failure.reason.value for r in result.records if r.failure is not None})
        return ["best       none: no configuration could be measured" + (f" ({', '.join(reasons)})" if reasons else "")]
    lines = ["best       none: no configuration meets the SLO"]
    lines.append(f"nearest    {config_words(shortfall.nearest.config)}")
    for slo in result.study.slos:
        lines.append(f"           {excess_words(slo, shortfall.excess[str(slo)])}")
    for slo in result.study.slos:
        attained = shortfall.attainable[str(slo)]
        if attained is None:
            lines.append(f"bound      {slo}: no trial had a value")
        elif slo.excess(attained[1]) > 0:
            config, value = attained
            best = f"{slo.metric.format(value)} with {config_words(config)}"
            lines.append(f"bound      {slo} fails everywhere: the best was {best}")
        else:
            config, value = attained
            lines.append(f"bound      {slo} alone is met: {slo.metric.format(value)} with {config_words(config)}")
    return lines


def _measured_words(result: Result, evidence: Evidence) -> str:
    refs = list(dict.fromkeys([o.metric for o in result.study.objectives] + [slo.metric for slo in result.study.slos]))
    words = []
    for ref in refs:
        estimate = evidence.estimate(ref)
        words.append(f"{ref} {'-' if estimate is None else estimate_words(ref, estimate)}")
    trials = len(evidence.records)
    return ", ".join(words) + f" (measured, {trials} {'trial' if trials == 1 else 'trials'})"


def _prediction_lines(result: Result) -> list[str]:
    """What was predicted of the best, how far off predictions were, and what was never asked."""
    lines = []
    best = result.best
    if best is not None and (predicted := best.records[0].predicted) is not None:
        told = [f"{name} {estimate_words(MetricRef.parse(name), each)}" for name, each in predicted.items()]
        lines.append(f"predicted  {', '.join(told)} (for the best, before any trial)")
    for error in result.prediction_errors:
        words = f"{error.metric} off by {error.raw:.0%} over {error.count} configurations"
        if error.count > 1:
            words += f", by {error.calibrated:.0%} once corrected by those measured before"
        lines.append(f"           {words}" if lines else f"predicted  {words}")
    if result.forecast is not None:
        lines += _never_run_lines(result.forecast)
    return lines


def _never_run_lines(note: ForecastNote) -> list[str]:
    """What was never asked as it cannot run: foreseen, and learned from trials."""
    told = []
    foreseen = {reason: count for reason, count in note.excluded.items() if reason != RAN_OUT}
    if foreseen:
        most = max(foreseen, key=lambda reason: foreseen[reason])
        more = f" and {len(foreseen) - 1} more reasons" if len(foreseen) > 1 else ""
        told.append(f"{sum(foreseen.values()):,} of {note.looked_at:,} configurations: {most}{more}")
    if RAN_OUT in note.excluded:
        told.append(f"{note.excluded[RAN_OUT]:,} of {note.looked_at:,} configurations: {RAN_OUT}")
    return [f"{'           ' if place else 'never run  '}{words}" for place, words in enumerate(told)]


def _predictions_json(result: Result) -> dict[str, object] | None:
    note = result.forecast
    if note is None:
        return None
    return {
        "nothing_predicted": note.silence or None,
        "sources": dict(note.origins),
        "looked_at": note.looked_at,
        "never_run": dict(note.excluded),
        "errors": {
            str(error.metric): {
                "configurations": error.count,
                "raw": error.raw,
                "calibrated": error.calibrated,
                "inside_interval": error.inside,
            }
            for error in result.prediction_errors
        },
    }


def _evidence_json(result: Result, evidence: Evidence | None) -> dict[str, object] | None:
    if evidence is None:
        return None
    return {
        "parameters": parameters_json(evidence.config),
        "trials": [record.number for record in evidence.records],
        "confirmations": evidence.repeats(Kind.CONFIRM),
        "holds": evidence.holds(result.study.slos),
        "excess": dict(evidence.excess(result.study.slos)),
        "metrics": {
            name: {
                **_estimate_dict(evidence.estimate(MetricRef.parse(name))),
                "unit": _unit(name),
                "origin": "measured",
            }
            for name in metric_values(evidence)
        },
    }


def _trial_json(result: Result, record: TrialRecord) -> dict[str, object]:
    return {
        "number": record.number,
        "kind": record.kind.value,
        "state": record.state.value,
        "parameters": parameters_json(record.config),
        "metrics": {str(ref): finite(value) for ref, value in record.observed.values().items()}
        if record.observed
        else None,
        "ended_early": _ended_json(record.ended_early),
        "excess": record.excess(result.study.slos) or None,
        "predicted": metrics_json(record.predicted, "predicted") if record.predicted else None,
        "reason": record.failure.reason.value if record.failure else None,
        "message": record.failure.message if record.failure else record.fault or None,
        "seconds": record.phases.total_s,
    }


def _ended_json(ended: EarlyEnd | None) -> dict[str, object] | None:
    """Which metrics of a trial that ended early are bounds, and on which side the number lies."""
    if ended is None:
        return None
    return {
        "reason": str(ended),
        "after_s": ended.after_s,
        "bounds": {
            name: {"value": finite(bound.value), "side": bound.side.value} for name, bound in ended.bounds.items()
        },
    }


def _prospects_json(prospects: Prospects | None) -> dict[str, object] | None:
    if prospects is None:
        return None
    return {
        "incumbent": parameters_json(prospects.best),
        "probability_within": prospects.within,
        "tolerance": prospects.tolerance,
        "expected_gain": finite(prospects.expected_gain),
        "origin": "predicted",
    }


def _earlier_json(result: Result) -> list[dict[str, object]]:
    weights = {} if result.prospects is None else result.prospects.weights
    return [{"name": name, "weight": weights.get(name)} for name in result.earlier]


def _shortfall_json(shortfall: Shortfall | None) -> dict[str, object] | None:
    if shortfall is None:
        return None
    return {
        "nearest": parameters_json(shortfall.nearest.config),
        "excess": dict(shortfall.excess),
        "attainable": {bound: _attained_json(found) for bound, found in shortfall.attainable.items()},
    }


def _attained_json(found: tuple[Config, float] | None) -> Mapping[str, object] | None:
    return None if found is None else {"parameters": parameters_json(found[0]), "value": finite(found[1])}


def _estimate_json(estimate: Estimate | None) -> dict[str, object] | None:
    return None if estimate is None else _estimate_dict(estimate)


def _estimate_dict(estimate: Estimate | None) -> dict[str, object]:
    if estimate is None:
        return {"value": None, "low": None, "high": None}
    return {"value": finite(estimate.value), "low": finite(estimate.low), "high": finite(estimate.high)}


def _unit(name: str) -> str:
    return MetricRef.parse(name).metric.dimension.value
