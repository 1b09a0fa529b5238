"""Time of a whole pass from a profile of its operators."""

from __future__ import annotations

from profilers.microbenchmark import Profile
from profilers.probe import Probe, ProbeKind
from tuner.model_graph import ModelGraph
from tuner.operators import Attention, MatMul, Operator, Pointwise
from tuner.step import Rows


def operator_s(operator: Operator, profile: Profile, batch: int, length: int) -> float | None:
    """All `count` runs of an operator for a batch of sequences, s; `None` where it was not timed."""
    rows = batch * length if getattr(operator, "rows", Rows.TOKEN) is Rows.TOKEN else batch
    if isinstance(operator, MatMul):
        probe = Probe(ProbeKind.MATMUL.value, rows, operator.outputs, operator.inputs)
    elif isinstance(operator, Attention):
        width = operator.heads * operator.head_dim
        probe = Probe(ProbeKind.ATTENTION.value, rows, width, operator.head_dim, length, operator.causal)
    elif isinstance(operator, Pointwise):
        kind = ProbeKind.NORMALIZATION if operator.normalizes else ProbeKind.ACTIVATION
        probe = Probe(kind.value, rows, operator.width)
    else:
        return None
    timing = profile.timings.get(probe)
    return None if timing is None else operator.count * timing.median_s


def pass_s(graph: ModelGraph, profile: Profile, batch: int, length: int) -> float:
    """One pass over a batch, s: the sum of its operators; what was not timed is left out."""
    times = (operator_s(operator, profile, batch, length) for operator in graph.operators)
    return sum(time for time in times if time is not None)
