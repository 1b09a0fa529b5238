"""What a rival remembers: rows asked, answers told, and the metrics on the scale it models."""

from __future__ import annotations

import math

import numpy as np

from tuner.metric import Direction
from tuner.strategies.listed_problem import Answer, BoolArray, FloatArray, ListedProblem


class ToldTrials:
    """The trials of a search, as arrays."""

    def __init__(self, problem: ListedProblem) -> None:
        self._problem = problem
        self.asked: list[int] = []
        self.rows: list[int] = []
        self.answers: list[Answer] = []

    def ask(self, row: int) -> int:
        """Notes that a row was asked, and returns it."""
        self.asked.append(row)
        return row

    def tell(self, row: int, answer: Answer) -> None:
        """Notes an answer."""
        self.rows.append(row)
        self.answers.append(answer)

    @property
    def open_rows(self) -> BoolArray:
        """Rows that have not been asked; all of them once none is left."""
        mask = np.ones(len(self._problem.rows), bool)
        mask[self.asked] = False
        return mask if mask.any() else ~mask

    def ran(self) -> tuple[list[int], list[Answer]]:
        """The rows that ran, with their answers."""
        kept = [(row, answer) for row, answer in zip(self.rows, self.answers, strict=True) if answer.ran]
        return [row for row, _ in kept], [answer for _, answer in kept]

    def costs(self) -> FloatArray:
        """Objectives of those that ran, less is better, in logarithms where all are positive."""
        values = np.array([float(answer.objective or 0.0) for answer in self.ran()[1]])
        minimise = self._problem.direction is Direction.MINIMIZE
        if len(values) and values.min() > 0:
            values = np.log(values)
        return values if minimise else -values

    def excesses(self, bound: int) -> FloatArray:
        """Of those that ran, how far a constraint is beyond its limit; it holds at 0 or less; in logarithms
        where all values are positive."""
        limit = self._problem.bounds[bound]
        values = np.array([answer.constraints[bound] for answer in self.ran()[1]])
        positive = limit.limit > 0 and bool((values > 0).all())
        gap: FloatArray = np.log(values) - math.log(limit.limit) if positive else values - limit.limit
        return np.asarray(gap if limit.at_most else -gap)

    def holding(self) -> BoolArray:
        """Of those that ran, which hold every bound."""
        return np.array([math.isfinite(self._problem.gain(answer)) for answer in self.ran()[1]], dtype=bool)
