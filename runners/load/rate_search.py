"""The search for the highest arrival rate that holds the SLO: which rate to probe next.

Between a rate that held and one that did not, the crossing is guessed from the margin
y = bound / metric = 1 / (1 + excess), which is 1 there. For a queue of one server y is a straight line in
the rate (M/M/1: 1 / W = mu - lambda), where the metric itself is a hockey stick; guesses are held inside
the bracket and mixed with bisection of the log rate, so that a wrong shape costs probes, not correctness.

The search ends with the bracket's ends within the resolution, and the rate that held is probed once more:
it was chosen because it held, so only the second look at it is unbiased. Where that fails, it steps down.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from tuner.trial import RateProbe
from tuner.workload import RateBracket

_MAX_GROWTH: Final = 4.0
"""Largest step upwards: a load many times too high leaves queues that take long to drain."""

_MAX_MARGIN: Final = 100.0
_PATIENCE: Final = 3
"""Guesses in a row that may each gain less than a halving of the bracket."""

_BELOW_CAPACITY: Final = 0.9
"""An overloaded server shows its capacity; latencies hold only somewhat below it."""


class _Stage(enum.Enum):
    BRACKETING = "bracketing"
    CONFIRMING = "confirming"
    STEPPING_DOWN = "stepping down"
    DONE = "done"


class RateSearch:
    """Ask `next_rate`, tell what came of it, until it is `None`.

    With a server of 100 rps in the bracket 10 to 1000: asks 100; told that it failed while serving 97,
    asks 0.9 x 97; told that this held, asks between, until both ends are within the resolution; then asks
    the highest held rate again.

    Attributes:
        held_rps: the highest rate that held, `None` as long as none has.
        failed_rps: the lowest rate above it that did not hold, `None` as long as none has failed.
    """

    def __init__(self, bracket: RateBracket) -> None:
        self.held_rps: float | None = None
        self.failed_rps: float | None = None
        self._bracket = bracket
        self._step = 1.0 + bracket.resolution
        self._margins: dict[float, float] = {}
        self._capacity_rps: float | None = None
        self._slow_turns = 0
        self._stage = _Stage.BRACKETING

    @property
    def max_probes(self) -> int:
        """More probes than any search takes: two per halving, and the steps down at the end."""
        width = math.log(self._bracket.high / self._bracket.low) / math.log(self._step)
        return 2 * math.ceil(math.log2(max(width, 1.0))) + 8

    def next_rate(self) -> float | None:
        """The rate to probe, `None` when the search has ended."""
        low, high = self.held_rps, self.failed_rps
        match self._stage:
            case _Stage.DONE:
                return None
            case _Stage.CONFIRMING:
                return low
            case _Stage.STEPPING_DOWN:
                assert high is not None
                return max(high / self._step, self._bracket.low)
        if low is not None and high is not None:
            return self._between(low, high)
        if low is not None:
            return self._above(low)
        if high is not None:
            return self._below(high)
        return math.sqrt(self._bracket.low * self._bracket.high)

    def tell(self, probe: RateProbe, *, served_rps: float | None = None) -> None:
        """What came of the rate that was asked; `served_rps` of an overloaded server is its capacity."""
        width = self._width()
        if probe.held:
            self.held_rps = probe.rate_rps
        else:
            self.failed_rps = probe.rate_rps
            if self._stage is _Stage.CONFIRMING:
                self.held_rps = None
        self._margins[probe.rate_rps] = min(1.0 / max(1.0 + probe.excess, 1e-9), _MAX_MARGIN)
        if served_rps is not None and not probe.held:
            self._capacity_rps = served_rps
        self._slow_turns = self._slow_turns + 1 if self._width() > width / 2 else 0
        self._advance(held=probe.held)

    def _advance(self, *, held: bool) -> None:
        lowest_failed = self.failed_rps is not None and self.failed_rps <= self._bracket.low
        if lowest_failed or (held and self._stage is not _Stage.BRACKETING):
            self._stage = _Stage.DONE
        elif self._stage is not _Stage.BRACKETING:
            self._stage = _Stage.STEPPING_DOWN
        elif self.held_rps is not None and (
            self.held_rps >= self._bracket.high
            or (self.failed_rps is not None and self.failed_rps <= self.held_rps * self._step * (1 + 1e-9))
        ):
            self._stage = _Stage.CONFIRMING

    def _width(self) -> float:
        return math.log((self.failed_rps or self._bracket.high) / (self.held_rps or self._bracket.low))

    def _below(self, failed: float) -> float:
        """Nothing has held yet: somewhat below the capacity, or where y, 0 at the capacity, reaches 1."""
        low = self._bracket.low
        guess = math.sqrt(low * failed)
        capacity = self._capacity_rps
        if capacity is not None and capacity < failed:
            guess = max(_BELOW_CAPACITY * capacity, low)
        elif capacity is not None:
            guess = max(guess, capacity - (capacity - failed) / self._margins[failed])
        guess = min(guess, failed / self._step)
        return low if guess < low * self._step else guess

    def _above(self, held: float) -> float:
        """Nothing has failed yet: steps of up to `_MAX_GROWTH`, shorter the nearer the bound was."""
        high = self._bracket.high
        margin = self._margins[held]
        # One server: y is linear in the rate; from an idle server's y, unknown but larger, to 1.
        guess = held * min(max(margin, self._step**2), _MAX_GROWTH)
        return high if guess * self._step > high else guess

    def _between(self, held: float, failed: float) -> float:
        """Inside the bracket: where y reaches 1, or in its middle when guesses have gained little."""
        end, end_margin, middle = failed, self._margins[failed], math.sqrt(held * failed)
        if self._capacity_rps is not None and held < self._capacity_rps < failed:
            # At its capacity a server's latency has no bound, and y is 0.
            end, end_margin, middle = self._capacity_rps, 0.0, min(middle, self._capacity_rps * self._step)
        guess = middle
        margin = self._margins[held]
        if self._slow_turns < _PATIENCE:
            guess = held + (end - held) * (margin - 1.0) / max(margin - end_margin, 1e-9)
        # A guess beside an end asks at one resolution from it: if the end stays, the bracket is closed.
        return min(max(guess, held * self._step), max(failed / self._step, math.sqrt(held * failed)))
