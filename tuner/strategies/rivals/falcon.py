"""Falcon (Wu et al., SoCC 2022): what is known of parts narrows the space, a local search does the rest.

Falcon predicts a model's response to each resource from the curves of its key operators, keeps the promising region
of the tree of resources, and searches it by Bayesian optimisation in a trust region (TuRBO). Recorded tasks have no
operator profiles, so the curves here are the earlier tasks': per parameter value the mean over tasks of the share of
the optimum that the value's best configuration reaches (the response of a part of the workload to one resource, in
the paper's terms). The score of a row is the product of its values' curves; the upper fifth of the rows is the
region, widened to its neighbours in rank whenever a search within it has not improved for three trials.
"""

from __future__ import annotations

import numpy as np

from tuner.parameter import Value
from tuner.strategies.listed_problem import Answer, EarlierTask, FloatArray, ListedProblem
from tuner.strategies.rivals.cherrypick import expected_improvement
from tuner.strategies.rivals.features import features
from tuner.strategies.rivals.matern_process import MaternProcess
from tuner.strategies.rivals.told_trials import ToldTrials

_REGION = 0.2
_START = 3
_PATIENCE = 3


class Falcon:
    """Curves, a region, and expected improvement within it."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        self._problem = problem
        self._points = features(problem)
        self._trials = ToldTrials(problem)
        generator = np.random.default_rng(seed)
        # Ties, and everything where there is no earlier task, in random order.
        self._score = _curve_scores(problem) + 1e-9 * generator.random(len(problem.rows))
        self._ranked = np.argsort(-self._score)
        self._size = max(_START, round(_REGION * len(problem.rows)))
        self._best = np.inf
        self._idle = 0

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        open_rows = self._trials.open_rows
        while not open_rows[self._ranked[: self._size]].any():
            self._widen()
        region = np.zeros(len(open_rows), bool)
        region[self._ranked[: self._size]] = True
        score = self._score
        if len(self._trials.asked) >= _START and self._trials.holding().any():
            costs = np.where(self._trials.holding(), self._trials.costs(), self._trials.costs().max())
            mean, std = MaternProcess(self._points[self._trials.ran()[0]], costs).predict(self._points)
            score = expected_improvement(mean, std, float(costs[self._trials.holding()].min()))
        return self._trials.ask(int(np.argmax(np.where(open_rows & region, score, -np.inf))))

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._trials.tell(row, answer)
        holding = self._trials.holding()
        best = float(self._trials.costs()[holding].min()) if holding.any() else np.inf
        self._idle = 0 if best < self._best else self._idle + 1
        self._best = min(best, self._best)
        if self._idle >= _PATIENCE:
            self._widen()
            self._idle = 0

    def _widen(self) -> None:
        self._size = min(len(self._ranked), self._size + max(1, self._size // 2))


def _curve_scores(problem: ListedProblem) -> FloatArray:
    scores = np.zeros(len(problem.rows))
    for column in range(len(problem.parameters)):
        curves = [_curve(problem, task, column) for task in problem.earlier]
        curves = [curve for curve in curves if curve]
        for at, row in enumerate(problem.rows):
            shares = [curve[row[column]] for curve in curves if row[column] in curve]
            scores[at] += np.log(max(float(np.mean(shares)), 1e-3)) if shares else 0.0
    return scores


def _curve(problem: ListedProblem, task: EarlierTask, column: int) -> dict[Value, float]:
    """The share of an earlier task's optimum that each value's best configuration reaches."""
    gains = task.gains(problem.direction, problem.bounds)
    if not np.isfinite(gains).any():
        return {}
    best = float(gains.max())
    found: dict[Value, float] = {}
    for row, gain in zip(task.rows, gains, strict=True):
        share = 0.0
        if np.isfinite(gain) and best != 0.0:
            share = float(gain / best) if best > 0 else float(best / gain)
        found[row[column]] = max(found.get(row[column], 0.0), share)
    return found
