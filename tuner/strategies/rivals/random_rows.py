"""Random search without replacement (Bergstra & Bengio 2012, on a list)."""

from __future__ import annotations

import numpy as np

from tuner.strategies.listed_problem import Answer, ListedProblem


class RandomRows:
    """Asks the rows in random order; begins again when all have been asked."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        self._order = np.random.default_rng(seed).permutation(len(problem.rows)).tolist()
        self._next = 0

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        row = int(self._order[self._next % len(self._order)])
        self._next += 1
        return row

    def tell(self, row: int, answer: Answer) -> None:
        """Nothing is learned."""
