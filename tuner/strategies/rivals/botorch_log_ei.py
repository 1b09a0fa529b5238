"""BoTorch's constrained log expected improvement from scratch (Ament et al. 2023; Balandat et al. 2020).

One `SingleTaskGP` per metric with BoTorch's default priors, `LogConstrainedExpectedImprovement` evaluated on every
row that has not been asked; twice as many random rows as features, at most five, to start. While nothing holds, it asks
where the constraints most probably do. A row that did not run is known as one that violates its own constraint.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from botorch.acquisition.analytic import LogConstrainedExpectedImprovement, LogExpectedImprovement
from botorch.exceptions.warnings import BotorchWarning
from botorch.fit import fit_gpytorch_mll
from botorch.models.gp_regression import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.models.transforms import Standardize
from gpytorch.mlls import ExactMarginalLogLikelihood

from tuner.strategies.listed_problem import Answer, FloatArray, ListedProblem
from tuner.strategies.rivals.features import features
from tuner.strategies.rivals.told_trials import ToldTrials
from tuner.surrogates.one_thread import one_thread

_MOST_START = 5


class BotorchLogEi:
    """Constrained log EI on all rows."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        self._problem = problem
        self._points = torch.from_numpy(features(problem))
        self._trials = ToldTrials(problem)
        self._generator = np.random.default_rng(seed)
        self._start = min(2 * self._points.shape[1], _MOST_START)

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        open_rows = self._trials.open_rows
        if len(self._trials.asked) < self._start or len(self._trials.ran()[0]) < 2:
            return self._trials.ask(int(self._generator.choice(np.flatnonzero(open_rows))))
        with one_thread(), warnings.catch_warnings():
            warnings.simplefilter("ignore", BotorchWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            score = self._acquisition()
        return self._trials.ask(int(np.argmax(np.where(open_rows, score, -np.inf))))

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._trials.tell(row, answer)

    def _acquisition(self) -> FloatArray:
        trials = self._trials
        rows, _ = trials.ran()
        models = [self._model(rows, -trials.costs())]
        models += [self._model(rows, trials.excesses(bound)) for bound in range(len(self._problem.bounds))]
        ran = np.array([answer.ran for answer in trials.answers])
        if not ran.all():
            models.append(self._model(trials.rows, np.where(ran, -1.0, 1.0)))
        holding = trials.holding()
        constraints: dict[int, tuple[float | None, float | None]] = dict.fromkeys(range(1, len(models)), (None, 0.0))
        points = self._points[:, None, :]
        with torch.no_grad():
            if not holding.any():
                score = torch.zeros(len(points), dtype=torch.float64)
                for model in models[1:]:
                    posterior = model.posterior(points)
                    deviation = posterior.variance.squeeze().clamp_min(1e-12).sqrt()
                    score = score + torch.special.log_ndtr(-posterior.mean.squeeze() / deviation)
                return np.asarray(score.numpy())
            best = float((-trials.costs())[holding].max())
            # BoTorch refuses an empty list of constraints.
            acquisition = (
                LogConstrainedExpectedImprovement(ModelListGP(*models), best, 0, constraints)
                if constraints
                else LogExpectedImprovement(models[0], best)
            )
            return np.asarray(acquisition(points).numpy())

    def _model(self, rows: list[int], values: FloatArray) -> SingleTaskGP:
        model = SingleTaskGP(self._points[rows], torch.from_numpy(values)[:, None], outcome_transform=Standardize(m=1))
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        return model
