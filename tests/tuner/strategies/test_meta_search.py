"""The search over long lists: what it draws jointly is bounded, and does not cost it the best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tuner.metric import Direction
from tuner.parameter import Scale
from tuner.strategies.listed_problem import Answer, Bound, EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.meta_prior import HyperparameterCache
from tuner.strategies.meta_search import MetaSearch

BATCHES, WORKERS = tuple(range(1, 31)), tuple(range(1, 25))
ROWS = tuple((batch, workers) for batch in BATCHES for workers in WORKERS)
LIMIT_S = 0.1
FITTED: HyperparameterCache = {}


def served(size: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Throughput and latency of every row, for a model of some size."""
    batch, workers = np.array(ROWS, dtype=float).T
    latency = size * 0.002 * (2.0 + batch) * workers**0.6
    return batch * workers / latency, latency


def problem(*sizes: float) -> ListedProblem:
    kept = np.sort(np.random.default_rng(0).choice(len(ROWS), 60, replace=False))
    tasks = []
    for size in sizes:
        throughput, latency = served(size)
        tasks.append(
            EarlierTask(
                name=(str(size),),
                rows=tuple(ROWS[at] for at in kept),
                ran=np.ones(len(kept), bool),
                objective=throughput[kept],
                constraints=latency[kept, None],
            )
        )
    return ListedProblem(
        parameters=(
            ListedParameter(name="batch", scale=Scale.LINEAR, values=BATCHES),
            ListedParameter(name="workers", scale=Scale.LINEAR, values=WORKERS),
        ),
        rows=ROWS,
        direction=Direction.MAXIMIZE,
        bounds=(Bound(name="latency", limit=LIMIT_S, at_most=True),),
        earlier=tuple(tasks),
    )


@pytest.mark.parametrize("size", [0.7, 1.0])
def test_before_anything_is_measured_a_long_list_is_asked_where_the_earlier_tasks_point(size: float) -> None:
    throughput, latency = served(size)
    best = throughput[latency <= LIMIT_S].max()
    search = MetaSearch(problem(0.6, 0.8, 1.1), cache=FITTED)
    for _ in range(3):
        row = search.ask()
        if latency[row] <= LIMIT_S and throughput[row] >= 0.95 * best:
            return
        search.tell(row, Answer(ran=True, objective=float(throughput[row]), constraints=(float(latency[row]),)))
    raise AssertionError("not within 5 % after three questions")


def test_failures_tell_no_level_and_the_search_goes_on() -> None:
    search = MetaSearch(problem(0.6, 0.8, 1.1), cache=FITTED)
    asked = []
    for _ in range(3):
        asked.append(search.ask())
        search.tell(asked[-1], Answer(ran=False, objective=None, constraints=()))
    assert len(set(asked)) == 3


def test_it_says_how_likely_what_it_asks_for_is_good_unless_it_asks_for_something_else() -> None:
    search = MetaSearch(problem(0.6, 0.8, 1.1), cache=FITTED)
    throughput, latency = served(1.0)
    chances = []
    for _ in range(6):
        row = search.ask()
        chances.append(search.chance)
        search.tell(row, Answer(ran=True, objective=float(throughput[row]), constraints=(float(latency[row]),)))
    # The sixth is asked without the earlier tasks, for the expected improvement.
    assert all(chance is not None and 0.0 < chance <= 1.0 for chance in chances[:5])
    assert chances[5] is None
    search.ask_for(0)
    search.ask()
    assert search.chance is None


def test_a_collapse_under_one_load_does_not_give_up_the_loads_around_it() -> None:
    throughput, latency = served(1.0)
    best = int(np.argmax(np.where(latency <= LIMIT_S, throughput, -np.inf)))
    batch, workers = ROWS[best]
    beside = ROWS.index((batch - 2, workers))
    search = MetaSearch(problem(0.6, 0.8, 1.1), cache=FITTED)
    for row in (ROWS.index((4, 4)), ROWS.index((20, 2)), ROWS.index((10, 20)), beside):
        broken = 0.05 if row == beside else 1.0
        search.ask_for(row)
        answer = Answer(ran=True, objective=broken * float(throughput[row]), constraints=(float(latency[row]),))
        search.tell(row, answer)
    row = search.ask()
    assert latency[row] <= LIMIT_S
    assert throughput[row] >= 0.95 * throughput[best]
