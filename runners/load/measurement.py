"""Measurements: a load's records summed up.

Latencies belong to the window in which a request was *due*; rates count what *happened* in a window,
whenever it was due: an overloaded server that answers everything in the end is not credited with the
rate that was offered. Tokens are counted when they arrive (those of a prompt with its first output
token), tokens of failed requests not at all.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

import numpy as np

from runners.load.exchange import Fate
from runners.load.populations import due_windows, gaps, request_values, window_of
from runners.load.records import Flags, Floats, Ints, Records
from runners.load.statistics import nearest_rank, population_estimate, scalar_estimate, statistic
from tuner.metric import POPULATIONS, STANDARD_STATISTICS, Metric, MetricRef
from tuner.slo import Slo
from tuner.trial import Estimate, Measurement, TrialPlan, Window

_MAX_ERRORS: Final = 5


def summarise(records: Records, plan: TrialPlan) -> Measurement:
    """Metrics of the steady windows, with intervals, each window's own, and the counts."""
    count, first_s, window_s = plan.windows, plan.warmup_s, plan.window_s
    due = due_windows(records, plan)
    populations = _populations(records, plan, due)
    metrics: dict[str, Estimate] = {}
    windows: list[dict[str, float]] = [{} for _ in range(count)]
    for ref in _references(plan):
        values, owner_window = populations.get(ref.metric, (None, due))
        if values is None:
            continue
        sections = [values[owner_window == window] for window in range(count)]
        estimate = population_estimate(sections, ref.percentile)
        if estimate is None:
            continue
        metrics[str(ref)] = estimate
        compute = statistic(ref.statistic or "mean", ref.percentile)
        for window, section in zip(windows, sections, strict=True):
            if len(section):
                window[str(ref)] = compute(section)
    for metric, parts, value in _scalars(records, plan, due):
        metrics[metric.value] = scalar_estimate(value, [part for part in parts if not np.isnan(part)])
        for window, part in zip(windows, parts, strict=True):
            if not np.isnan(part):
                window[metric.value] = float(part)
    settled = (due >= 0) & (records.fate != Fate.OPEN)
    counted = records.fate[settled]
    lateness = (records.dispatched_s - records.due_s)[due >= 0]
    return Measurement(
        metrics=metrics,
        windows=tuple(
            Window(start_s=first_s + index * window_s, duration_s=window_s, metrics=values)
            for index, values in enumerate(windows)
        ),
        sent=len(counted),
        completed=int(np.sum(counted == Fate.COMPLETED)),
        failed=int(np.sum(counted == Fate.FAILED)),
        timed_out=int(np.sum(counted == Fate.TIMED_OUT)),
        lateness_p99_s=max(nearest_rank(lateness, 99.0), 0.0) if len(lateness) else 0.0,
        errors=error_texts(records.errors),
    )


def error_texts(errors: Counter[str]) -> tuple[str, ...]:
    """The most frequent texts, each with its count."""
    texts = [f"{text} ({count} times)" if count > 1 else text for text, count in errors.most_common(_MAX_ERRORS)]
    others = len(errors) - len(texts)
    return (*texts, f"and {others} other texts") if others > 0 else tuple(texts)


def _references(plan: TrialPlan) -> list[MetricRef]:
    """Statistics of populations to report: the standard ones, and what the plan names."""
    standard = [
        MetricRef(metric, name)
        for metric in sorted(POPULATIONS, key=lambda metric: metric.value)
        for name in STANDARD_STATISTICS
    ]
    named = [*plan.metrics, *(slo.metric for slo in plan.slos)]
    return list(dict.fromkeys([*standard, *(ref for ref in named if ref.metric.is_population)]))


def _populations(records: Records, plan: TrialPlan, due: Ints) -> dict[Metric, tuple[Floats, Ints]]:
    """Values that are defined, each with its window."""
    found: dict[Metric, tuple[Floats, Ints]] = {}
    for metric, values in request_values(records, plan.request_timeout_s).items():
        defined = ~np.isnan(values)
        found[metric] = (values[defined], due[defined])
    lengths, owners = gaps(records, plan.request_timeout_s)
    if len(lengths):
        found[Metric.ITL] = (lengths, due[owners])
    return found


def _scalars(records: Records, plan: TrialPlan, due: Ints) -> list[tuple[Metric, Floats, float]]:
    """Metric, its value in each window (NaN where undefined), and over all windows."""
    count, first_s, window_s = plan.windows, plan.warmup_s, plan.window_s
    completed = records.completed
    finished = window_of(records.finished_s, first_s, window_s, count)
    good = completed & _within_bounds(records, plan)

    def per_window(windows: Ints, weights: Floats | None = None) -> Floats:
        inside = windows >= 0
        chosen = None if weights is None else weights[inside]
        return np.bincount(windows[inside], weights=chosen, minlength=count).astype(np.float64)

    rates: list[tuple[Metric, Floats]] = [
        (Metric.THROUGHPUT, per_window(finished[completed]) / window_s),
        (Metric.GOODPUT, per_window(finished[good]) / window_s),
    ]
    if np.any(records.asked_tokens > 0):
        received = np.bincount(records.piece_owner, minlength=len(due))
        # A server may send several tokens in one piece: each piece carries its share of the count.
        weight = np.where(completed, np.maximum(records.output_tokens, 0) / np.maximum(received, 1), 0.0)
        pieces = window_of(records.piece_s, first_s, window_s, count)
        output = per_window(pieces, weight[records.piece_owner])
        prompts = window_of(records.first_s, first_s, window_s, count)
        prompt = per_window(prompts[completed], records.input_tokens[completed].astype(np.float64))
        rates.append((Metric.OUTPUT_THROUGHPUT, output / window_s))
        rates.append((Metric.TOTAL_THROUGHPUT, (output + prompt) / window_s))
    found = [(metric, parts, float(parts.mean())) for metric, parts in rates]
    sent = per_window(due[records.fate != Fate.OPEN])
    missed = per_window(due[~completed & (records.fate != Fate.OPEN)])
    if sent.sum():
        with np.errstate(invalid="ignore"):
            found.append((Metric.ERROR_RATE, missed / sent, float(missed.sum() / sent.sum())))
    return found


def _within_bounds(records: Records, plan: TrialPlan) -> Flags:
    """Which requests met every per-request bound, (n,).

    A bound on a statistic of latency, TTFT or TPOT bounds each request's own value; one on ITL bounds
    that statistic of the request's own gaps.
    """
    met = np.ones(len(records.due_s), dtype=np.bool_)
    bounds = [slo for slo in plan.slos if slo.metric.metric.is_population]
    values = request_values(records, plan.request_timeout_s)
    for slo in bounds:
        if slo.metric.metric in values:
            with np.errstate(invalid="ignore"):
                met &= ~(values[slo.metric.metric] > slo.bound)
        elif slo.metric.metric is Metric.ITL:
            met &= _gaps_within(records, plan.request_timeout_s, slo)
    return met


def _gaps_within(records: Records, timeout_s: float, slo: Slo) -> Flags:
    lengths, owners = gaps(records, timeout_s)
    order = np.argsort(owners, kind="stable")
    compute = statistic(slo.metric.statistic or "mean", slo.metric.percentile)
    met = np.ones(len(records.due_s), dtype=np.bool_)
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    for owner, own in zip(owners[order][starts], np.split(lengths[order], starts[1:]), strict=False):
        met[owner] = compute(own) <= slo.bound
    return met
