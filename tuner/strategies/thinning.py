"""Fewer rows of earlier tasks, where these are so many that beliefs about all would take minutes."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from tuner.parameter import Value
from tuner.strategies.listed_problem import EarlierTask, ListedProblem
from tuner.surrogates.hierarchical_kernel import IntArray

MOST_CONFIGURATIONS: Final = 500
"""Of all earlier tasks together: covariances of so many are factored in tens of milliseconds."""
_BEST_SHARE: Final = 0.5
_SEED: Final = 20260101


def thinned(problem: ListedProblem, most: int = MOST_CONFIGURATIONS) -> ListedProblem:
    """The problem with at most `most` distinct configurations in its earlier tasks, the same ones in all.

    Half of them are what served some earlier task best, each task's best in turn; the others are drawn evenly from the
    rest, always the same for the same earlier tasks, and show how the metrics run away from the best.
    """
    distinct = list(dict.fromkeys(row for task in problem.earlier for row in task.rows))
    if len(distinct) <= most:
        return problem
    ranked = [_best_first(task, problem) for task in problem.earlier]
    kept: dict[tuple[Value, ...], None] = {}
    for place in range(max(len(rows) for rows in ranked)):
        for task, rows in zip(problem.earlier, ranked, strict=True):
            if place < len(rows) and len(kept) < _BEST_SHARE * most:
                kept[task.rows[rows[place]]] = None
        if len(kept) >= _BEST_SHARE * most:
            break
    rest = [row for row in distinct if row not in kept]
    drawn = np.random.default_rng(_SEED).permutation(len(rest))[: most - len(kept)]
    chosen = {*kept, *(rest[place] for place in drawn)}
    return replace(problem, earlier=tuple(_cut(task, chosen) for task in problem.earlier))


def _best_first(task: EarlierTask, problem: ListedProblem) -> IntArray:
    """Rows that hold the bounds, the best first."""
    gains = task.gains(problem.direction, problem.bounds)
    order = np.argsort(-gains, kind="stable")
    return order[np.isfinite(gains[order])]


def _cut(task: EarlierTask, chosen: set[tuple[Value, ...]]) -> EarlierTask:
    keep = np.array([row in chosen for row in task.rows], dtype=bool)
    return replace(
        task,
        rows=tuple(row for row, kept in zip(task.rows, keep, strict=True) if kept),
        ran=task.ran[keep],
        objective=task.objective[keep],
        constraints=task.constraints[keep],
    )
