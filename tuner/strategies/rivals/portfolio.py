"""Transfer only: the configurations that served the earlier tasks best, in a fixed order.

`Portfolio` is the greedy portfolio of algorithm configuration (Xu, Hoos & Leyton-Brown 2010, Hydra; Feurer et al.
2022, Auto-Sklearn 2.0): each next configuration lowers the mean, over earlier tasks, of the regret of the best one
so far the most. `BestAverage` goes by each configuration's own mean regret. There is no model, and the target's own
answers are not looked at.
"""

from __future__ import annotations

import numpy as np

from tuner.parameter import Value
from tuner.strategies.listed_problem import Answer, EarlierTask, FloatArray, ListedProblem

_WORST = 1.0
"""Regret of a configuration that did not hold in an earlier task."""


class _FixedOrder:
    """Asks rows in an order that is settled before the first answer."""

    def __init__(self, order: list[int]) -> None:
        self._order = order
        self._next = 0

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        row = self._order[self._next % len(self._order)]
        self._next += 1
        return row

    def tell(self, row: int, answer: Answer) -> None:
        """Nothing is learned."""


class Portfolio(_FixedOrder):
    """The greedy portfolio, then the rest by mean regret."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        super().__init__(_greedy_order(_known_regrets(problem), np.random.default_rng(seed), len(problem.rows)))


class BestAverage(_FixedOrder):
    """By mean regret over the earlier tasks, ties at random."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        regrets = _known_regrets(problem)
        shuffled: list[int] = np.random.default_rng(seed).permutation(len(problem.rows)).tolist()
        super().__init__(_by_mean(regrets, shuffled) if len(regrets) else shuffled)


def _known_regrets(problem: ListedProblem) -> FloatArray:
    """Of every row of the problem in each earlier task that tells anything, shape (tasks, rows)."""
    regrets = np.array([_regrets(problem, task) for task in problem.earlier]).reshape(-1, len(problem.rows))
    return _completed(regrets[(np.nan_to_num(regrets, nan=_WORST) < _WORST).any(axis=1)])


def _regrets(problem: ListedProblem, task: EarlierTask) -> FloatArray:
    """Of every row of the problem, its relative regret in an earlier task, at most `_WORST`; NaN where unknown."""
    gains = task.gains(problem.direction, problem.bounds)
    by_row: dict[tuple[Value, ...], list[float]] = {}
    for row, gain in zip(task.rows, gains, strict=True):
        by_row.setdefault(row, []).append(float(gain))
    medians = {row: float(np.median(found)) for row, found in by_row.items() if np.isfinite(found).all()}
    if not medians:
        return np.full(len(problem.rows), _WORST)
    best = max(medians.values())
    scale = max(abs(best), 1e-12)
    worst = {row: min((best - gain) / scale, _WORST) for row, gain in medians.items()}
    return np.array([worst.get(row, _WORST if row in by_row else np.nan) for row in problem.rows])


def _completed(regrets: FloatArray) -> FloatArray:
    """A task that did not try a configuration is taken to agree with those that did."""
    known = ~np.isnan(regrets)
    totals = np.where(known, regrets, 0.0).sum(axis=0)
    means = np.where(known.any(axis=0), totals / np.maximum(known.sum(axis=0), 1), _WORST)
    return np.where(known, regrets, means)


def _greedy_order(regrets: FloatArray, generator: np.random.Generator, rows: int) -> list[int]:
    order: list[int] = []
    left: list[int] = generator.permutation(rows).tolist()
    reached = np.full(len(regrets), _WORST)
    while left and len(regrets):
        scores = np.minimum(regrets[:, left], reached[:, None]).mean(axis=0)
        if scores.min() >= reached.mean() - 1e-12:
            # Nothing improves the portfolio: go on by mean regret alone.
            left = _by_mean(regrets, left)
            break
        row = left.pop(int(np.argmin(scores)))
        reached = np.minimum(reached, regrets[:, row])
        order.append(row)
    return order + left


def _by_mean(regrets: FloatArray, rows: list[int]) -> list[int]:
    return sorted(rows, key=lambda row: float(regrets[:, row].mean()))
