"""Times of a model's operators, and of whole passes, from a profile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from profilers.collectives import KINDS
from profilers.microbenchmark import Profile
from profilers.probe import Probe, ProbeKind, probe_of
from tuner.model_graph import ModelGraph
from tuner.operators import Operator
from tuner.step import Shard, StepLoad

_ITEM_BYTES: Final = 4.0
"""Of one value, as CPUs are timed."""


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """Of all `count` runs of an operator.

    Attributes:
        seconds: median, or bound.
        is_timed: whether it was timed (perhaps at other batch sizes); else it is the device's roofline.
    """

    seconds: float
    is_timed: bool


class PassTime:
    """Times of operators from what was timed.

    A time between two numbers of rows is interpolated, one beyond the last grows with the rows. What no probe times is
    bounded by the best rates that the profile has seen: FLOP/s of its products, bytes/s of its additions.

    Args:
        profile: of the device.
        shard: how the model is cut.
    """

    def __init__(self, profile: Profile, shard: Shard | None = None) -> None:
        self._shard = shard or Shard()
        self._curves: dict[Probe, list[tuple[int, float]]] = defaultdict(list)
        for probe, timing in profile.timings.items():
            self._curves[_curve_of(probe)].append((_place(probe), timing.median_s))
        for points in self._curves.values():
            points.sort()
        rates = [probe.flops / timing.median_s for probe, timing in profile.timings.items() if probe.flops]
        streams = [
            probe.values_moved * _ITEM_BYTES / timing.median_s
            for probe, timing in profile.timings.items()
            if probe.kind in (ProbeKind.ARITHMETIC.value, ProbeKind.NORMALIZATION.value, ProbeKind.ACTIVATION.value)
        ]
        self._flops_per_s = max(rates, default=0.0)
        self._bytes_per_s = max(streams, default=0.0)

    def operator(self, operator: Operator, batch: int, length: int) -> OperatorTime | None:
        """For a batch of sequences; `None` where nothing that was timed says anything of it."""
        probe = probe_of(operator, batch, length, self._shard)
        points = self._curves.get(_curve_of(probe)) if probe is not None else None
        if probe is not None and points:
            return OperatorTime(operator.count * _between(points, _place(probe)), is_timed=True)
        load = StepLoad.prefill(batch, length)
        flops, moved = operator.flops(load, self._shard), operator.bytes_moved(load, self._shard)
        if (flops and not self._flops_per_s) or (moved and not self._bytes_per_s):
            return None
        compute = flops / self._flops_per_s if flops else 0.0
        return OperatorTime(max(compute, moved / self._bytes_per_s if moved else 0.0), is_timed=False)

    def pass_s(self, graph: ModelGraph, batch: int, length: int) -> float:
        """One pass over a batch, s: the sum of its operators; what nothing is known of is left out."""
        times = (self.operator(operator, batch, length) for operator in graph.operators)
        return sum(time.seconds for time in times if time is not None)


def _curve_of(probe: Probe) -> Probe:
    """What stays the same along a curve: all but the rows, or but the message of a collective."""
    return replace(probe, inner=0) if probe.kind in KINDS else replace(probe, rows=0)


def _place(probe: Probe) -> int:
    return probe.inner if probe.kind in KINDS else probe.rows


def _between(points: Sequence[tuple[int, float]], rows: int) -> float:
    low = max((point for point in points if point[0] <= rows), default=None)
    high = min((point for point in points if point[0] >= rows), default=None)
    if low is None and high is not None:
        return high[1]
    if high is None and low is not None:
        return low[1] * rows / low[0]
    assert low is not None
    assert high is not None
    if low[0] == high[0]:
        return low[1]
    return low[1] + (high[1] - low[1]) * (rows - low[0]) / (high[0] - low[0])
