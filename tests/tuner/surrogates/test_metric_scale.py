"""A metric is modelled on the scale on which tasks and configurations add up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuner.surrogates.metric_scale import fits_logarithms


def _sums(seed: int, tasks: int, configurations: int, shared: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Levels of tasks and configurations, and errors: all of order one."""
    draw = np.random.default_rng(seed)
    surface = draw.normal(size=configurations * (1 if shared else tasks))
    found = []
    for task in range(tasks):
        index = np.arange(configurations) + (0 if shared else task * configurations)
        found.append((index, surface[index] + draw.normal() + 0.3 * draw.normal(size=configurations)))
    return found


@given(seed=st.integers(0, 10**6), tasks=st.integers(3, 8))
def test_products_are_logarithmic(seed: int, tasks: int) -> None:
    sums = _sums(seed, tasks, 40, shared=True)
    assert fits_logarithms([(index, np.exp(1.5 * values)) for index, values in sums])


@given(seed=st.integers(0, 10**6), tasks=st.integers(3, 8))
def test_sums_that_come_near_nothing_are_not(seed: int, tasks: int) -> None:
    sums = _sums(seed, tasks, 40, shared=True)
    least = min(values.min() for _, values in sums)
    assert not fits_logarithms([(index, values - least + 1e-4) for index, values in sums])


@given(seed=st.integers(0, 10**6), scale=st.floats(1e-9, 1e9))
def test_units_do_not_matter(seed: int, scale: float) -> None:
    tables = [(index, np.exp(0.3 * values)) for index, values in _sums(seed, 4, 30, shared=True)]
    assert fits_logarithms(tables) == fits_logarithms([(index, scale * values) for index, values in tables])


def test_tasks_without_common_configurations_are_told_by_their_own_spread() -> None:
    sums = _sums(7, 5, 15, shared=False)
    assert fits_logarithms([(index, np.exp(2.0 * values)) for index, values in sums])


def test_nothing_measured_says_nothing_against_logarithms() -> None:
    assert fits_logarithms([])
    assert fits_logarithms([(np.zeros(0, dtype=np.int64), np.zeros(0))])
    assert fits_logarithms([(np.array([0, 1]), np.array([2.0, 2.0]))])
