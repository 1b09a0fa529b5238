"""Arrivals and lengths of a workload, drawn as the load generator draws them: one seed, one traffic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from tuner.performance.grid import Array
from tuner.performance.simulation.continuous import Counts
from tuner.workload import ArrivalProcess, Lengths, LengthShape, OpenLoop, TokenShapes, TraceReplay

_Run = TypeVar("_Run")
_ARRIVALS, _LENGTHS = 0x617272, 0x6C656E


def arrivals_until(arrival: OpenLoop | TraceReplay, rate_rps: float, end_s: float, seed: int) -> Array:
    """Arrival times below `end_s`, at least one; a trace starts over as often as needed.

    Args:
        arrival: of the workload.
        rate_rps: of an open loop; a trace has its own.
        end_s: length of the load.
        seed: of the trial plan.
    """
    if isinstance(arrival, TraceReplay):
        times = np.array([row.arrival_s for row in arrival.requests])
        offsets = (times - times[0]) / arrival.speed
        span = float(offsets[-1])
        period = span + span / (len(offsets) - 1) if span > 0 else 1.0 / arrival.speed
        rounds = max(1, math.ceil(end_s / period))
        found = (offsets[None, :] + period * np.arange(rounds)[:, None]).ravel()
    else:
        found = _drawn(arrival, rate_rps, end_s, seed)
    within = found[found < end_s]
    return np.asarray(within if within.size else found[:1], dtype=np.float64)


def whole_load(
    run: Callable[[int], tuple[_Run, Array, Array]], least: int, load_s: float, most: int
) -> tuple[_Run, float]:
    """A closed loop as long as a trial's load, its clients still sending when the last counted answer comes.

    Args:
        run: simulates so many requests; returns the run, and when each was sent and answered, in the order of sending.
        least, most: requests to simulate at least and at most.
        load_s: length of the load.

    Returns:
        The run, and where its load ends: before `load_s` only where `most` requests do not reach.
    """
    count = min(least, most)
    while True:
        found, sent, answered = run(count)
        reached = float(sent[-1])
        wanted = max(load_s, float(np.nanmax(answered[sent < load_s], initial=0.0)))
        if reached >= wanted or count >= most:
            return found, min(load_s, reached)
        count = min(most, math.ceil(count * min(max(wanted / max(reached, 1e-3) * 1.1, 1.2), 20.0)))


def counted_from(warmup_s: float, end_s: float) -> float:
    """Where counting begins in a load that ends at `end_s`: after the warm-up, or in the middle of a shorter one."""
    return warmup_s if end_s > warmup_s else end_s / 2.0


def mean_rate(arrival: TraceReplay) -> float:
    """Requests/s of a trace."""
    span = (arrival.requests[-1].arrival_s - arrival.requests[0].arrival_s) / arrival.speed
    return (len(arrival.requests) - 1) / span if span > 0 else float(len(arrival.requests)) * arrival.speed


def token_lengths(
    shapes: TokenShapes, count: int, seed: int, trace: TraceReplay | None = None
) -> tuple[Counts, Counts]:
    """Input and output tokens of `count` requests; those of a trace go before drawn ones."""
    generator = np.random.default_rng([seed, _LENGTHS])
    inputs, outputs = (_lengths(each, count, generator) for each in (shapes.input_tokens, shapes.output_tokens))
    if trace is not None:
        rows = [trace.requests[place % len(trace.requests)] for place in range(count)]
        inputs = np.array([row.input_tokens or own for row, own in zip(rows, inputs, strict=True)], dtype=np.int64)
        outputs = np.array([row.output_tokens or own for row, own in zip(rows, outputs, strict=True)], dtype=np.int64)
    return np.maximum(inputs, shapes.shared_prefix_tokens), outputs


def _drawn(arrival: OpenLoop, rate_rps: float, end_s: float, seed: int) -> Array:
    generator = np.random.default_rng([seed, _ARRIVALS])
    parts: list[Array] = []
    reached = 0.0
    while reached < end_s:
        if arrival.process is ArrivalProcess.POISSON:
            gaps = generator.exponential(size=4096)
        elif arrival.process is ArrivalProcess.GAMMA:
            gaps = generator.gamma(arrival.cv**-2, arrival.cv**2, size=4096)
        else:
            gaps = np.ones(4096)
        parts.append(reached + np.cumsum(gaps) / rate_rps)
        reached = float(parts[-1][-1])
    return np.concatenate(parts)


def _lengths(lengths: Lengths, count: int, generator: np.random.Generator) -> Counts:
    if lengths.shape is LengthShape.CONSTANT:
        drawn = np.full(count, lengths.mean)
    elif lengths.shape is LengthShape.UNIFORM:
        drawn = generator.integers(lengths.low, lengths.high, size=count, endpoint=True).astype(np.float64)
    elif lengths.shape is LengthShape.NORMAL:
        drawn = generator.normal(lengths.mean, lengths.std, size=count)
    else:
        variance = math.log1p((lengths.std / lengths.mean) ** 2)
        drawn = generator.lognormal(math.log(lengths.mean) - variance / 2, math.sqrt(variance), size=count)
    return np.clip(np.round(drawn), lengths.low, lengths.high).astype(np.int64)
