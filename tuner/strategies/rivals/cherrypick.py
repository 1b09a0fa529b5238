"""CherryPick (Alipourfard et al., NSDI 2017), as its paper states it.

Minimise the logarithm of the cost subject to the constraints; a Gaussian process with a Matern 5/2 covariance per
metric; acquisition EI(x) x P(constraints hold); three quasi-random configurations to start; stop when the expected
improvement falls below 10 % of the incumbent after at least six observations (section 3.5, 4). Machine features
are used where the problem describes its values, as the paper does. It has no model of failures: a configuration
that did not run is known to have missed, at the worst cost seen.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from tuner.strategies.listed_problem import Answer, FloatArray, ListedProblem
from tuner.strategies.rivals.features import features
from tuner.strategies.rivals.matern_process import MaternProcess
from tuner.strategies.rivals.told_trials import ToldTrials

_START = 3
_LEAST_OBSERVED = 6
_STOP_BELOW = 0.10


class CherryPick:
    """Constrained Bayesian optimisation from scratch.

    Attributes:
        stopped: whether its own rule would have ended the search.
    """

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        self._problem = problem
        self._points = features(problem)
        self._trials = ToldTrials(problem)
        self._start = qmc.Sobol(self._points.shape[1], seed=np.random.default_rng(seed)).random(4)[:_START]
        self._generator = np.random.default_rng(seed)
        self.stopped = False

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        open_rows = self._trials.open_rows
        if len(self._trials.asked) < _START:
            gaps = ((self._points - self._start[len(self._trials.asked)]) ** 2).sum(axis=1)
            return self._trials.ask(int(np.argmin(np.where(open_rows, gaps, np.inf))))
        if not self._trials.ran()[0]:
            return self._trials.ask(int(self._generator.choice(np.flatnonzero(open_rows))))
        score = np.where(open_rows, self._acquisition(), -1.0)
        best = np.flatnonzero(score >= score.max() - 1e-15)
        return self._trials.ask(int(self._generator.choice(best)))

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._trials.tell(row, answer)

    def _acquisition(self) -> FloatArray:
        trials = self._trials
        rows, _ = trials.ran()
        costs, holding = trials.costs(), trials.holding()
        failed = [row for row, answer in zip(trials.rows, trials.answers, strict=True) if not answer.ran]
        points = self._points[[*rows, *failed]]
        mean, std = MaternProcess(points, np.append(costs, np.full(len(failed), costs.max()))).predict(self._points)
        probability = np.ones(len(self._points))
        for bound in range(len(self._problem.bounds)):
            excess, spread = MaternProcess(self._points[rows], trials.excesses(bound)).predict(self._points)
            probability = probability * ndtr(-excess / spread)
        if not holding.any():
            return np.asarray(probability)
        improvement = expected_improvement(mean, std, float(costs[holding].min()))
        # In logarithms an improvement is relative to the incumbent already.
        self.stopped = len(trials.rows) >= _LEAST_OBSERVED and float(improvement.max()) < _STOP_BELOW
        return np.asarray(improvement * probability)


def expected_improvement(mean: FloatArray, std: FloatArray, incumbent: float) -> FloatArray:
    """E[max(incumbent - f, 0)] for f ~ N(mean, std^2), minimising (Jones et al. 1998, Eq. 15)."""
    gap = (incumbent - mean) / std
    density = np.exp(-0.5 * gap**2) / np.sqrt(2.0 * np.pi)
    return np.asarray(std * (gap * ndtr(gap) + density))
