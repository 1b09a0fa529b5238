"""Traces, schedulers and step times for tests of the serving simulator."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tuner.performance.simulation.continuous import Requests, Scheduler
from tuner.performance.simulation.step_tables import StepTables


def tables(token_s: float = 0.0001, step_s: float = 0.01) -> StepTables:
    """A step takes `step_s` and `token_s` for every token; attention costs nothing."""
    two = np.array([1.0, 2.0])
    return StepTables(
        tokens=np.array([1.0, 100_000.0]),
        token_s=np.array([step_s + token_s, step_s + 100_000 * token_s]),
        sequences=two,
        sequence_s=np.zeros(2),
        batches=two,
        contexts=two,
        decode_s=np.zeros((2, 2)),
        mixed_decode_s=np.zeros((2, 2)),
        chunks=two,
        cached=two,
        prefill_s=np.zeros((2, 2)),
        host_s=0.0,
        host_per_sequence_s=0.0,
        overlapped=True,
    )


def requests(arrivals: list[float], inputs: list[int], outputs: list[int]) -> Requests:
    return Requests(
        arrival_s=np.array(sorted(arrivals), dtype=np.float64),
        input_tokens=np.array(inputs, dtype=np.int64),
        output_tokens=np.array(outputs, dtype=np.int64),
    )


@st.composite
def traces(draw: st.DrawFn) -> Requests:
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    arrivals = np.cumsum(rng.exponential(draw(st.sampled_from([0.001, 0.05, 1.0])), count))
    return requests(
        list(arrivals), list(rng.integers(1, 300, count)), list(rng.integers(1, draw(st.sampled_from([2, 60])), count))
    )


@st.composite
def schedulers(draw: st.DrawFn) -> Scheduler:
    return Scheduler(
        max_num_seqs=draw(st.integers(1, 32)),
        max_num_batched_tokens=draw(st.sampled_from([32, 64, 512, 4096])),
        blocks=draw(st.integers(2, 200)),
        block_size=draw(st.sampled_from([1, 16])),
        prefix_caching=draw(st.booleans()),
        shared_prefix_tokens=draw(st.sampled_from([0, 32])),
        padded=draw(st.booleans()),
        prefill_first=draw(st.booleans()),
        reserve_input=draw(st.booleans()),
    )
