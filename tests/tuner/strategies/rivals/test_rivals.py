"""Laws that every strategy over a list keeps, and what makes each rival itself."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from tuner.bench.contenders import NAMES, contender
from tuner.metric import Direction
from tuner.parameter import Scale, Value
from tuner.strategies.listed_problem import Answer, Bound, EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.meta_prior import HyperparameterCache
from tuner.strategies.rivals.cherrypick import CherryPick, expected_improvement
from tuner.strategies.rivals.optuna_sampler import OptunaTpe
from tuner.strategies.rivals.portfolio import BestAverage, Portfolio

PARAMETERS = (
    ListedParameter("kind", Scale.CATEGORICAL),
    ListedParameter("batch", Scale.LOG),
    ListedParameter("workers", Scale.LINEAR),
)
CACHE: HyperparameterCache = {}
"""What is learned from the earlier tasks once serves all tests."""

# Not a full grid: workers 3 exists for the large kind only.
ROWS: tuple[tuple[Value, ...], ...] = tuple(
    (kind, batch, workers)
    for kind in ("small", "large")
    for batch in (1, 2, 4, 8)
    for workers in ((1, 2, 3) if kind == "large" else (1, 2))
)


def answer(row: tuple[Value, ...], size: float) -> Answer:
    """Throughput grows with the batch until latency is too high; the largest run out of memory."""
    kind, batch, workers = row[0], float(row[1]), float(row[2])
    if batch * workers * size > 20:
        return Answer(ran=False)
    latency = size * (2.0 + batch * workers**0.5) / (2.0 if kind == "large" else 1.0)
    return Answer(ran=True, objective=batch * workers / latency, constraints=(latency,))


def problem(earlier: bool = True) -> ListedProblem:
    """Three earlier models and a target in between."""
    tasks = []
    for size in (0.7, 1.0, 1.6):
        answers = [answer(row, size) for row in ROWS]
        tasks.append(
            EarlierTask(
                name=(str(size),),
                rows=ROWS,
                ran=np.array([each.ran for each in answers]),
                objective=np.array([np.nan if each.objective is None else each.objective for each in answers]),
                constraints=np.array([each.constraints or (np.nan,) for each in answers]),
            )
        )
    return ListedProblem(
        parameters=PARAMETERS,
        rows=ROWS,
        direction=Direction.MAXIMIZE,
        bounds=(Bound(name="latency", limit=6.0),),
        earlier=tuple(tasks) if earlier else (),
    )


def asked(name: str, seed: int, steps: int, earlier: bool = True) -> list[int]:
    strategy = contender(name, CACHE)(problem(earlier), seed)
    rows = []
    for _ in range(steps):
        rows.append(strategy.ask())
        strategy.tell(rows[-1], answer(ROWS[rows[-1]], 1.2))
    return rows


walked = functools.cache(asked)
"""The same for tests that look at one course."""


@pytest.mark.parametrize("name", NAMES)
def test_no_row_is_asked_twice_before_all_have_been(name: str) -> None:
    rows = walked(name, 3, 9)
    assert len(set(rows)) == len(rows)
    assert all(0 <= row < len(ROWS) for row in rows)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_asks_the_same(name: str) -> None:
    assert asked(name, 3, 6) == walked(name, 3, 9)[:6]


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_works_without_earlier_tasks(name: str) -> None:
    assert len(set(asked(name, seed=1, steps=6, earlier=False))) == 6


@pytest.mark.parametrize("name", NAMES)
def test_several_trials_may_be_in_flight_and_fail(name: str) -> None:
    strategy = contender(name, CACHE)(problem(), 0)
    rows = [strategy.ask() for _ in range(4)]
    assert len(set(rows)) == 4
    for row in reversed(rows):
        strategy.tell(row, Answer(ran=False))
    assert strategy.ask() not in rows


@pytest.mark.parametrize("name", NAMES)
def test_an_earlier_task_in_which_nothing_ran_is_borne(name: str) -> None:
    failed = EarlierTask(
        name=("failed",),
        rows=ROWS,
        ran=np.zeros(len(ROWS), bool),
        objective=np.full(len(ROWS), np.nan),
        constraints=np.full((len(ROWS), 1), np.nan),
    )
    strategy = contender(name, CACHE)(replace(problem(), earlier=(*problem().earlier, failed)), 0)
    for _ in range(7):
        row = strategy.ask()
        strategy.tell(row, answer(ROWS[row], 1.2))


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_needs_no_bounds_and_bears_objectives_of_zero(name: str) -> None:
    def value(row: tuple[Value, ...]) -> float:
        return -float(row[1]) * (float(row[2]) - 1.0)

    task = EarlierTask(
        name=("zero",),
        rows=ROWS,
        ran=np.ones(len(ROWS), bool),
        objective=np.array([value(row) for row in ROWS]),
        constraints=np.empty((len(ROWS), 0)),
    )
    strategy = contender(name, CACHE)(replace(problem(), bounds=(), earlier=(task,)), 0)
    rows = []
    for _ in range(7):
        rows.append(strategy.ask())
        strategy.tell(rows[-1], Answer(ran=True, objective=value(ROWS[rows[-1]])))
    assert len(set(rows)) == 7


@pytest.mark.parametrize("name", ["botorch", "meta"])
def test_a_model_beats_random_search(name: str) -> None:
    gains = np.array([problem().gain(answer(row, 1.2)) for row in ROWS])
    good = gains >= 0.95 * gains.max()

    def steps(name: str) -> float:
        counts = []
        for seed in range(3):
            strategy = contender(name, CACHE)(problem(), seed)
            step = 0
            while step < len(ROWS):
                step += 1
                row = strategy.ask()
                strategy.tell(row, answer(ROWS[row], 1.2))
                if good[row]:
                    break
            counts.append(step)
        return float(np.mean(counts))

    assert steps(name) < steps("random")


def test_the_portfolio_begins_with_what_serves_the_earlier_tasks_best() -> None:
    given = problem()
    shares = np.zeros(len(ROWS))
    for task in given.earlier:
        gains = task.gains(given.direction, given.bounds)
        shares += np.maximum(gains / gains.max(), 0.0)
    assert Portfolio(given, 0).ask() == int(np.argmax(shares))


def test_best_average_asks_in_the_order_of_mean_regret() -> None:
    """Of three tasks two are served best by row 0 or 1; row 2 is second everywhere, and best on average."""
    shares = [(1.0, 0.2, 0.9), (0.2, 1.0, 0.9), (0.2, 0.2, 1.0)]
    earlier = tuple(
        EarlierTask(
            name=(str(at),),
            rows=((1,), (2,), (3,)),
            ran=np.ones(3, bool),
            objective=np.array(values),
            constraints=np.empty((3, 0)),
        )
        for at, values in enumerate(shares)
    )
    given = ListedProblem(
        parameters=(ListedParameter("x", Scale.LINEAR),),
        rows=((1,), (2,), (3,)),
        direction=Direction.MAXIMIZE,
        earlier=earlier,
    )
    strategy = BestAverage(given, 0)
    assert strategy.ask() == 2
    assert {strategy.ask(), strategy.ask()} == {0, 1}


def test_cherrypick_starts_with_three_points_and_stops_by_its_rule() -> None:
    strategy = CherryPick(problem(), 0)
    for step in range(len(ROWS)):
        if step <= 5:
            assert not strategy.stopped
        row = strategy.ask()
        strategy.tell(row, answer(ROWS[row], 1.2))
    assert strategy.stopped


def test_expected_improvement_agrees_with_monte_carlo() -> None:
    draws = np.random.default_rng(0).normal(1.0, 0.5, 200_000)
    closed = expected_improvement(np.array([1.0]), np.array([0.5]), 0.8)[0]
    assert closed == pytest.approx(np.maximum(0.8 - draws, 0.0).mean(), rel=0.02)


def test_asks_outside_of_the_list_are_counted() -> None:
    strategy = OptunaTpe(problem(), 0)
    for _ in range(len(ROWS)):
        row = strategy.ask()
        strategy.tell(row, answer(ROWS[row], 1.2))
    assert 0 < strategy.moved <= len(ROWS)
