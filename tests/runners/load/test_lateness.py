"""When the generator is to blame, and when it is not."""

from __future__ import annotations

import numpy as np

from runners.load.lateness import WindowLateness, by_window, generator_bound
from runners.load.records import Records
from tests.runners.load.strategies import a_plan, a_request, records


def a_window(**changes: float) -> WindowLateness:
    return WindowLateness(**{"lateness_tail_s": 0.0001, "median_share": 0.0, "tail_share": 0.0, "busy": 0.3, **changes})


def loaded(own_s: float, lateness_s: list[float], late: int = 15) -> Records:
    """A hundred requests per window, the last `late` of which are late by the given time."""
    generator = np.random.default_rng(1)
    rows = []
    for window, lateness in enumerate(lateness_s):
        for index in range(100):
            own_late = lateness if index >= 100 - late else 1e-4
            due = window + index / 100
            rows.append(a_request(due, due + own_late + own_s * generator.uniform(0.8, 1.2), late=own_late))
    return records(*rows)


def verdict(loads: Records, busy: float = 0.3) -> str | None:
    return generator_bound(by_window(loads, a_plan(), [busy] * 5), closed_loop=False)


def test_lateness_that_makes_up_the_tail_in_most_windows_is_the_generators() -> None:
    message = verdict(loaded(0.002, [0.02] * 5))
    assert message is not None
    assert "20 ms late (in the tail) in 5 of 5 windows" in message


def test_one_stalled_window_is_not_the_generators() -> None:
    assert verdict(loaded(0.002, [0.2, 0.0001, 0.0001, 0.2, 0.0001])) is None


def test_few_requests_hit_by_short_stalls_are_no_tail() -> None:
    assert verdict(loaded(0.002, [0.02] * 5, late=5)) is None


def test_lateness_beside_a_slow_server_is_not_the_generators() -> None:
    assert verdict(loaded(0.1, [0.02] * 5)) is None


def test_tiny_lateness_beside_a_tiny_latency_is_tolerated() -> None:
    assert verdict(loaded(0.0001, [0.004] * 5)) is None


def test_busy_generator_that_is_punctual_is_not_bound() -> None:
    assert verdict(loaded(0.002, [0.0001] * 5), busy=0.99) is None


def test_closed_loop_is_bound_when_the_generator_never_rests() -> None:
    message = generator_bound([a_window(busy=0.99)] * 3 + [a_window()] * 2, closed_loop=True)
    assert message is not None
    assert "99% of a core in 3 of 5 windows" in message


def test_closed_loop_that_waits_for_the_server_is_not_bound() -> None:
    assert generator_bound([a_window(busy=0.99)] * 2 + [a_window(busy=0.9)] * 3, closed_loop=True) is None


def test_nothing_completed_is_not_the_generators() -> None:
    assert generator_bound([], closed_loop=False) is None
    assert generator_bound([], closed_loop=True) is None
