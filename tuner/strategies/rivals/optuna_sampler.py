"""Optuna's own samplers on a list: the multivariate TPE (Watanabe 2023) and its Gaussian process, with constraints.

Optuna (Akiba et al. 2019) cannot be given a list of rows. Its samplers are asked within the box of the recorded
values, ordinal parameters by position, and an ask that is no recorded row, or was asked before, is moved to the
nearest row that is left; the share of such asks is reported. They ignore failed trials, so a configuration that did
not run is told as a completed trial with the worst value so far and a violated constraint.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from tuner.parameter import Scale, Value
from tuner.strategies.listed_problem import Answer, ListedProblem
from tuner.strategies.rivals.told_trials import ToldTrials

_MISSED = 1.0


class OptunaRows:
    """An Optuna sampler that searches the rows of a problem.

    Attributes:
        moved: asks that were moved to the nearest row.
    """

    def __init__(self, problem: ListedProblem, sampler: BaseSampler) -> None:
        self._problem = problem
        self._trials = ToldTrials(problem)
        self._position = {row: at for at, row in enumerate(problem.rows)}
        self._domains = [_domain(problem, at) for at in range(len(problem.parameters))]
        self._distributions: dict[str, BaseDistribution] = {
            parameter.name: CategoricalDistribution(domain)
            if parameter.scale is Scale.CATEGORICAL
            else IntDistribution(0, len(domain) - 1)
            for parameter, domain in zip(problem.parameters, self._domains, strict=True)
        }
        self._open: dict[int, Trial] = {}
        self._failed: list[int] = []
        self.moved = 0
        # One line for every study made says nothing to those who compare strategies.
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(direction=problem.direction.value, sampler=sampler)

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        wanted = self._row(trial)
        open_rows = self._trials.open_rows
        found = self._position.get(wanted)
        if found is not None and open_rows[found]:
            self._open[found] = trial
            return self._trials.ask(found)
        self.moved += 1
        self._study.tell(trial, state=TrialState.FAIL)
        return self._trials.ask(self._nearest(wanted, np.flatnonzero(open_rows)))

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._trials.tell(row, answer)
        if answer.ran:
            self._tell(row, float(answer.objective or 0.0), self._excesses(answer) | {"runs": -1.0})
        else:
            self._failed.append(row)
        values = [float(told.objective or 0.0) for told in self._trials.ran()[1]]
        if values:
            worst = max(values) if self._problem.direction.value == "minimize" else min(values)
            missed = dict.fromkeys([*(bound.name for bound in self._problem.bounds), "runs"], _MISSED)
            while self._failed:
                self._tell(self._failed.pop(), worst, missed)

    def _tell(self, row: int, value: float, constraints: dict[str, float]) -> None:
        trial = self._open.pop(row, None)
        if trial is None:
            self._study.add_trial(
                create_trial(
                    params=self._params(row), distributions=self._distributions, values=[value], constraints=constraints
                )
            )
            return
        for name, excess in constraints.items():
            trial.set_constraint(name, excess)
        self._study.tell(trial, value)

    def _excesses(self, answer: Answer) -> dict[str, float]:
        found = {}
        for bound, value in zip(self._problem.bounds, answer.constraints, strict=True):
            gap = (value - bound.limit) / (abs(bound.limit) or 1.0)
            found[bound.name] = (gap if bound.at_most else -gap) if math.isfinite(gap) else _MISSED
        return found

    def _row(self, trial: Trial) -> tuple[Value, ...]:
        return tuple(
            trial.params[parameter.name]
            if parameter.scale is Scale.CATEGORICAL
            else domain[trial.params[parameter.name]]
            for parameter, domain in zip(self._problem.parameters, self._domains, strict=True)
        )

    def _params(self, row: int) -> dict[str, Value]:
        return {
            parameter.name: value if parameter.scale is Scale.CATEGORICAL else domain.index(value)
            for parameter, domain, value in zip(
                self._problem.parameters, self._domains, self._problem.rows[row], strict=True
            )
        }

    def _nearest(self, wanted: tuple[Value, ...], choices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
        """The open row with the smallest sum of rank differences; another word counts as the whole range."""
        gaps = np.zeros(len(choices))
        for at, (parameter, domain) in enumerate(zip(self._problem.parameters, self._domains, strict=True)):
            places = np.array([domain.index(self._problem.rows[row][at]) for row in choices], dtype=float)
            gap = np.abs(places - domain.index(wanted[at]))
            gaps += (gap > 0) if parameter.scale is Scale.CATEGORICAL else gap / max(len(domain) - 1, 1)
        return int(choices[int(np.argmin(gaps))])


class OptunaTpe(OptunaRows):
    """Optuna's TPE sampler with its defaults."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        super().__init__(problem, TPESampler(seed=seed))


class OptunaGp(OptunaRows):
    """Optuna's GP sampler with its defaults."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = GPSampler(seed=seed)
        super().__init__(problem, sampler)


def _domain(problem: ListedProblem, column: int) -> list[Value]:
    distinct = list(dict.fromkeys(row[column] for row in problem.rows))
    if problem.parameters[column].scale is Scale.CATEGORICAL:
        return distinct
    return sorted(distinct, key=float)
