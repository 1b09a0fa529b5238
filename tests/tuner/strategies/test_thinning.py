"""Large earlier tables are cut to configurations that tell most, the same ones in every task."""

from __future__ import annotations

import numpy as np

from tuner.metric import Direction
from tuner.parameter import Scale
from tuner.strategies.listed_problem import EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.thinning import thinned


def _problem(configurations: int, tasks: int) -> ListedProblem:
    rows = tuple((place,) for place in range(configurations))
    draw = np.random.default_rng(0)
    earlier = tuple(
        EarlierTask(
            name=(str(task),), rows=rows, ran=np.ones(configurations, bool),
            objective=draw.permutation(configurations).astype(float), constraints=np.zeros((configurations, 0)),
        )
        for task in range(tasks)
    )  # fmt: skip
    parameter = ListedParameter(name="x", scale=Scale.LINEAR, values=tuple(range(configurations)))
    return ListedProblem(parameters=(parameter,), rows=rows, direction=Direction.MAXIMIZE, earlier=earlier)


def test_small_tables_are_left_as_they_are() -> None:
    problem = _problem(50, 3)
    assert thinned(problem, 50) is problem


def test_large_ones_keep_every_tasks_best_and_a_part_of_the_rest_the_same_in_all() -> None:
    problem = _problem(400, 3)
    found = thinned(problem, 60)
    assert {len(task.rows) for task in found.earlier} == {60}
    assert len({task.rows for task in found.earlier}) == 1
    for task in problem.earlier:
        best = {task.rows[place] for place in np.argsort(-task.objective)[:9]}
        assert best <= set(found.earlier[0].rows)
    assert found.rows == problem.rows
    assert [task.rows for task in thinned(problem, 60).earlier] == [task.rows for task in found.earlier]
