"""Populations: the latency, TTFT, TPOT and ITL values of a set of requests.

Every request counts. One that failed or timed out is a miss, worse than any answer: it counts with the
request timeout, which no answered request exceeds since timeouts run from the intended send time too.
That keeps percentiles exact and finite: a percentile that falls among the misses reads as the timeout.
A missed request likewise misses its TTFT, its TPOT, and each gap that it still owed.

Requests are open only in a load that was cut short: they count with the time they had waited by then.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from runners.load.exchange import Fate
from runners.load.records import Floats, Ints, Records
from tuner.metric import Metric
from tuner.trial import TrialPlan


def request_values(records: Records, timeout_s: float) -> Mapping[Metric, Floats]:
    """Per request, (n,): latency, and where answers are streamed TTFT and TPOT; NaN where undefined.

    A request due at 100 whose first of 11 tokens came at 110 and whose last came at 160 has a TTFT of
    10, a latency of 60 and a TPOT of (60 - 10) / (11 - 1) = 5.
    """
    completed = records.completed
    still_open = np.equal(records.fate, Fate.OPEN)
    missed = np.where(still_open, records.ended_s - records.due_s, timeout_s)
    latency = np.where(completed, records.finished_s - records.due_s, missed)
    if not records.streamed:
        return {Metric.LATENCY: latency}
    begun = completed | (still_open & ~np.isnan(records.first_s))
    ttft = np.where(begun, records.first_s - records.due_s, missed)
    values = {Metric.LATENCY: latency, Metric.TTFT: ttft}
    if np.any(records.asked_tokens > 0):
        tokens = np.where(completed, records.output_tokens, records.asked_tokens)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = (records.finished_s - records.first_s) / (tokens - 1)
        values[Metric.TPOT] = np.where((tokens < 2) | still_open, np.nan, np.where(completed, tpot, timeout_s))
    return values


def gaps(records: Records, timeout_s: float) -> tuple[Floats, Ints]:
    """Every gap between successive pieces, and the request each belongs to."""
    if not records.streamed:
        return np.empty(0), np.empty(0, dtype=np.int64)
    inner = np.diff(records.piece_owner) == 0
    lengths = np.diff(records.piece_s)[inner]
    owners = records.piece_owner[1:][inner]
    missed = (records.fate == Fate.FAILED) | (records.fate == Fate.TIMED_OUT)
    received = np.bincount(records.piece_owner, minlength=len(records.due_s))
    # What a missed request asked for tells how many gaps it owes; at least the one that never ended.
    owed = np.where(missed, np.maximum(records.asked_tokens - np.maximum(received, 1), 1), 0)
    missed_owners = np.repeat(np.arange(len(owed), dtype=np.int64), owed)
    return (
        np.concatenate([lengths, np.full(len(missed_owners), timeout_s)]),
        np.concatenate([owners, missed_owners]),
    )


def due_windows(records: Records, plan: TrialPlan) -> Ints:
    """Index of the steady window in which each request was due, (n,), -1 outside all of them."""
    position = np.floor((records.due_s - plan.warmup_s) / plan.window_s)
    # A request due exactly at a boundary may be rounded across it: whether it counts has been decided.
    return np.where(records.counted, np.clip(position, 0, plan.windows - 1), -1).astype(np.int64)


def window_of(times_s: Floats, first_s: float, window_s: float, windows: int) -> Ints:
    """Index of the steady window in which each time falls, -1 outside all of them or for NaN."""
    with np.errstate(invalid="ignore"):
        position = np.floor((times_s - first_s) / window_s)
    inside: npt.NDArray[np.bool_] = (position >= 0) & (position < windows)
    return np.where(inside, position, -1).astype(np.int64)
