"""The rate search against simulated servers of known capacity."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.rate_search import RateSearch
from tests.runners.load.strategies import seeds
from tuner.trial import RateProbe
from tuner.workload import RateBracket


def run(search: RateSearch, excess: Callable[[float], float], capacity: float | None = None) -> list[RateProbe]:
    probes: list[RateProbe] = []
    while (rate := search.next_rate()) is not None:
        beyond = excess(rate)
        probe = RateProbe(rate_rps=rate, held=beyond <= 0, excess=beyond)
        probes.append(probe)
        served = capacity if capacity is not None and rate > capacity else None
        search.tell(probe, served_rps=served)
        assert len(probes) <= search.max_probes
    return probes


def one_server(capacity: float, bound_s: float) -> Callable[[float], float]:
    """Excess of p99 in an M/M/1 queue over a bound; overloaded, requests time out at 100 times the bound."""

    def excess(rate: float) -> float:
        p99_s = math.log(100) / (capacity - rate) if rate < capacity else math.inf
        return min(p99_s / bound_s, 100.0) - 1

    return excess


brackets = st.tuples(st.floats(0.5, 50), st.floats(1.5, 500)).map(
    lambda pair: RateBracket(low=pair[0], high=pair[0] * pair[1])
)


@given(bracket=brackets, position=st.floats(0.01, 0.99), headroom=st.floats(0.02, 2.0), tells=st.booleans())
@settings(max_examples=300)
def test_finds_the_crossing_within_its_resolution(
    bracket: RateBracket, position: float, headroom: float, tells: bool
) -> None:
    crossing = bracket.low * (bracket.high / bracket.low) ** position
    capacity = crossing * (1 + headroom)
    excess = one_server(capacity, math.log(100) / (capacity - crossing))
    search = RateSearch(bracket)
    probes = run(search, excess, capacity if tells else None)
    assert search.held_rps is not None
    assert search.held_rps <= crossing * (1 + 1e-9)
    assert crossing <= search.held_rps * (1 + bracket.resolution) * (1 + 1e-9)
    assert probes[-1].held
    assert probes[-1].rate_rps == search.held_rps
    assert all(bracket.low <= probe.rate_rps <= bracket.high for probe in probes)


def test_takes_few_probes() -> None:
    """1 to 1000 rps in steps of 5 % are 142 rates; bisection and a confirmation would take 9 probes."""
    bracket = RateBracket(low=1.0, high=1000.0)
    counts = []
    for crossing in np.geomspace(2.0, 900.0, 50):
        capacity = crossing * 1.3
        excess = one_server(capacity, math.log(100) / (capacity - crossing))
        counts.append(len(run(RateSearch(bracket), excess, capacity)))
    assert np.median(counts) <= 6
    assert max(counts) <= 11


def test_everything_holds_up_to_the_highest_rate() -> None:
    search = RateSearch(RateBracket(low=1.0, high=100.0))
    probes = run(search, lambda rate: -0.9)
    assert search.held_rps == 100.0
    assert search.failed_rps is None
    assert len(probes) <= 5


def test_nothing_holds_ends_at_the_lowest_rate() -> None:
    search = RateSearch(RateBracket(low=1.0, high=100.0))
    probes = run(search, lambda rate: 2.0)
    assert search.held_rps is None
    assert probes[-1].rate_rps == 1.0


@given(bracket=brackets, seed=seeds)
@settings(max_examples=100)
def test_ends_whatever_it_is_told(bracket: RateBracket, seed: int) -> None:
    generator = np.random.default_rng(seed)
    probes = run(RateSearch(bracket), lambda rate: float(generator.normal()), float(generator.uniform(0.1, 100)))
    assert all(bracket.low <= probe.rate_rps <= bracket.high for probe in probes)


def test_rate_that_does_not_hold_again_is_stepped_down() -> None:
    search = RateSearch(RateBracket(low=50.0, high=200.0))
    asked: list[float] = []
    while (rate := search.next_rate()) is not None:
        held = rate <= 100.0 and rate not in asked
        asked.append(rate)
        search.tell(RateProbe(rate_rps=rate, held=held, excess=-0.1 if held else 0.1))
    assert search.held_rps == asked[-1] < asked[-2]


@pytest.mark.parametrize("high", [1.02, 1.2])
def test_bracket_narrower_than_a_step_is_searched_too(high: float) -> None:
    search = RateSearch(RateBracket(low=1.0, high=high))
    run(search, lambda rate: -0.5 if rate < 1.01 else 0.5)
    assert search.held_rps is not None
