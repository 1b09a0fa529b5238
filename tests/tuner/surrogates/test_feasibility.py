from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.surrogates.grids import grids, points
from tuner.surrogates.feasibility import FailureModel
from tuner.surrogates.kernel import Axis, Grid, Points

LINE = Grid([Axis(11, np.linspace(0, 1, 11)), Axis(2)])


def rows(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, dtype=np.int16)


def chances(grid: Grid, model: FailureModel, levels: np.ndarray) -> np.ndarray:
    return np.exp(model.log_success(Points(grid, levels)).numpy())


@settings(max_examples=40)
@given(grids(), st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 2**20), st.booleans())
def test_success_has_a_probability_above_zero_whatever_failed(
    grid: Grid, failed: list[bool], seed: int, trend: bool
) -> None:
    tried = points(grid, len(failed), seed)
    model = FailureModel.fit(grid, tried, np.array(failed), trend=trend)
    chance = chances(grid, model, points(grid, 30, seed + 1))
    assert (chance > 0).all()
    assert (chance <= 1).all()


def test_what_failed_is_less_likely_to_run_than_what_ran() -> None:
    tried = rows((0, 0), (3, 0), (5, 1), (8, 1), (10, 0))
    failed = np.array([False, False, False, True, True])
    for trend in (False, True):
        chance = chances(LINE, FailureModel.fit(LINE, tried, failed, trend=trend), tried)
        assert chance[failed].max() < chance[~failed].min()


def test_where_a_resource_ran_out_more_of_the_same_is_worse() -> None:
    tried, failed = rows((0, 0), (2, 0), (4, 0), (7, 0)), np.array([False, False, False, True])
    along = rows(*((level, 0) for level in range(11)))
    chance = chances(LINE, FailureModel.fit(LINE, tried, failed, trend=True), along)
    assert (np.diff(chance) < 1e-12).all()
    assert chance[10] < 0.3 < 0.7 < chance[0]


def test_a_local_failure_is_forgotten_far_away() -> None:
    grid = Grid([Axis(101, np.linspace(0, 10, 101))])
    model = FailureModel.fit(grid, rows_of(50), np.array([True]), trend=False)
    near, far = chances(grid, model, rows_of(50, 51)), chances(grid, model, rows_of(0, 100))
    assert near.max() < far.min() - 0.1


def rows_of(*levels: int) -> np.ndarray:
    return np.array(levels, dtype=np.int16)[:, None]


def test_a_separable_history_of_many_trials_is_learned() -> None:
    grid = Grid([Axis(8, np.linspace(0, 1, 8)), Axis(8, np.linspace(0, 1, 8)), Axis(3)])
    everything = np.array(np.meshgrid(range(8), range(8), range(3))).reshape(3, -1).T.astype(np.int16)
    failed = everything[:, 0] + everything[:, 1] > 9
    chosen = np.random.default_rng(0).choice(len(everything), 30, replace=False)
    model = FailureModel.fit(grid, everything[chosen], failed[chosen], trend=True)
    chance = chances(grid, model, everything)
    assert ((chance < 0.5) == failed).mean() > 0.9


def test_single_precision_is_good_to_three_digits() -> None:
    tried = points(LINE, 12, 0)
    model = FailureModel.fit(LINE, tried, tried[:, 0] > 6, trend=True)
    everything = points(LINE, 100, 1)
    exact, quick = (model.log_success(Points(LINE, everything, kind)) for kind in (np.float64, np.float32))
    assert quick.numpy() == pytest.approx(exact.numpy(), rel=1e-2, abs=1e-3)
