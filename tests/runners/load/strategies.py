"""Hypothesis strategies and small makers for load tests."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import strategies as st

from runners.load.exchange import Fate
from runners.load.records import Records
from tuner.slo import Slo
from tuner.trial import TrialPlan
from tuner.workload import ArrivalProcess, ClosedLoop, OpenLoop, RateBracket, TemplateShapes, TraceReplay, TraceRequest
from tuner.workload import Workload as Traffic

seeds = st.integers(0, 2**32 - 1)
rates = st.floats(0.5, 5000.0)

open_loops = st.builds(
    OpenLoop,
    process=st.sampled_from(ArrivalProcess),
    rate_rps=st.one_of(rates, st.builds(RateBracket, low=st.floats(0.1, 1.0), high=st.floats(2.0, 9.0))),
    cv=st.floats(0.1, 4.0),
)
traces = st.builds(
    TraceReplay,
    source=st.just("trace.csv"),
    requests=st.lists(
        st.builds(
            TraceRequest,
            arrival_s=st.floats(0, 100),
            input_tokens=st.none() | st.integers(1, 4096),
            output_tokens=st.none() | st.integers(1, 4096),
        ),
        min_size=1,
        max_size=20,
    ).map(lambda rows: tuple(sorted(rows, key=lambda row: row.arrival_s))),
    speed=st.floats(0.1, 10.0),
)
closed_loops = st.builds(ClosedLoop, clients=st.integers(1, 100), think_time_s=st.floats(0, 2))


def a_plan(*slos: str, arrival: OpenLoop | ClosedLoop | TraceReplay | None = None, **changes: float) -> TrialPlan:
    """A plan of five windows of one second, without warm-up."""
    settings = {"warmup_s": 0.0, "windows": 5, "window_s": 1.0, "request_timeout_s": 10.0, **changes}
    return TrialPlan(
        workload=Traffic(arrival=arrival or OpenLoop(rate_rps=10.0), requests=TemplateShapes()),
        slos=tuple(Slo.parse(text) for text in slos),
        **settings,  # type: ignore[arg-type]
    )


def a_request(
    due: float,
    finished: float | None = None,
    *,
    first: float | None = None,
    fate: Fate = Fate.COMPLETED,
    late: float = 0.0,
    prompt: int = 0,
    asked: int = 0,
    pieces: tuple[float, ...] = (),
) -> tuple[object, ...]:
    """One row for `records`."""
    return (
        due,
        due + late,
        finished,
        first if first is not None else (pieces or (None,))[0],
        fate,
        prompt,
        asked,
        pieces,
    )


def records(*rows: tuple[object, ...], first: float = 0.0, last: float = 5.0, ended: float = 100.0) -> Records:
    """Columns of the given requests; those due in [first, last) count."""
    due, dispatched, finished, first_token, fate, prompt, asked, pieces = zip(*rows, strict=True)
    lengths = [len(own) for own in pieces]
    return Records(
        due_s=np.array(due, dtype=float),
        dispatched_s=np.array(dispatched, dtype=float),
        finished_s=np.array(finished, dtype=float),
        first_s=np.array(first_token, dtype=float),
        fate=np.array(fate, dtype=np.int64),
        counted=(np.array(due, dtype=float) >= first) & (np.array(due, dtype=float) < last),
        input_tokens=np.array(prompt, dtype=np.int64),
        asked_tokens=np.array(asked, dtype=np.int64),
        output_tokens=np.array([length or -1 for length in lengths], dtype=np.int64),
        piece_s=np.array([time for own in pieces for time in own], dtype=float),
        piece_owner=np.repeat(np.arange(len(rows)), lengths),
        streamed=any(lengths),
        errors=Counter(),
        ended_s=ended,
    )
