"""How alike tasks are by what describes them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.metric import Direction
from tuner.parameter import Scale
from tuner.strategies.listed_problem import EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.meta_prior import likeness


def problem(own: dict[str, float], *earlier: dict[str, float]) -> ListedProblem:
    tasks = tuple(
        EarlierTask(
            name=(str(at),),
            rows=((1,),),
            ran=np.ones(1, bool),
            objective=np.ones(1),
            constraints=np.empty((1, 0)),
            features=features,
        )
        for at, features in enumerate(earlier)
    )
    return ListedProblem(
        parameters=(ListedParameter("batch", Scale.LOG),),
        rows=((1,), (2,)),
        direction=Direction.MAXIMIZE,
        earlier=tasks,
        features=own,
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_likeness_is_a_probability_of_which_every_task_has_half_its_even_share(sizes: list[float]) -> None:
    own, *earlier = sizes
    found = likeness(problem({"size": own}, *({"size": size} for size in earlier)))
    assert found.sum() == pytest.approx(1.0)
    assert (found >= 0.5 / len(earlier) - 1e-12).all()


def test_a_model_of_like_size_counts_for_more_than_one_ten_times_as_large() -> None:
    found = likeness(problem({"parameters": 7e9}, {"parameters": 70e9}, {"parameters": 8e9}, {"parameters": 60e9}))
    assert found[1] > 2.0 * found[0]
    assert found[1] > 2.0 * found[2]


def test_without_features_that_all_tasks_have_each_is_as_likely() -> None:
    assert likeness(problem({"size": 1.0}, {"size": 2.0}, {})) == pytest.approx([0.5, 0.5])
    assert likeness(problem({}, {"size": 2.0}, {"size": 3.0})) == pytest.approx([0.5, 0.5])
