"""Any Optuna sampler, searching our candidates.

Optuna's samplers know neither rules nor conditions, and ignore failed trials. So they are asked in a study of
their own, in memory, that mirrors the real one: every parameter is there all the time, a configuration that could
not run is a completed trial that violates a constraint and has the worst value measured so far, and what they
ask is moved to the nearest valid configuration that has not been tried.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from tuner.errors import UnavailableError, UnknownNameError, UsageError
from tuner.objective import Objective
from tuner.parameter import Parameter, Scale
from tuner.slo import Slo
from tuner.strategies.candidates import Candidates, Rows, config_of, levels, row_of
from tuner.strategies.history import History
from tuner.strategies.sampler import CandidateSampler

_RUNS: Final = "runs"
"""Constraint that a configuration which could not run violates."""

_MISSED: Final = 1.0
"""Excess of a bound whose metric has no value: missed by the whole of it, as in `tuner.slo.excesses`."""


class ForeignSampler(CandidateSampler):
    """Lets another sampler choose, and moves its choice to the nearest candidate that is left.

    Unlike our own samplers it has a memory, since theirs do: a study continued in another process tells its
    trials to a fresh sampler.

    Args:
        candidates: what may be asked.
        objectives, slos: of the study.
        seed: of ties.
        inner: the other sampler.

    Attributes:
        asked: how many suggestions the other sampler has made here.
        moved: how many of them were invalid or had been tried, and were moved.
    """

    def __init__(
        self,
        candidates: Candidates,
        objectives: Sequence[Objective],
        slos: Sequence[Slo] = (),
        seed: int = 0,
        *,
        inner: BaseSampler,
    ) -> None:
        super().__init__(candidates, objectives, slos, seed)
        self.asked = 0
        self.moved = 0
        self._axes = {parameter.name: _axis(parameter) for parameter in candidates.space.parameters}
        self._open_trials: dict[int, optuna.trial.Trial] = {}
        self._mirrored: set[int] = set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._mirror = optuna.create_study(
                directions=[objective.direction.value for objective in objectives], sampler=inner
            )

    def choose(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """See `CandidateSampler.choose`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._tell(history)
            try:
                trial = self._mirror.ask(self._axes)
            except ImportError as error:
                name = type(self._mirror.sampler).__name__
                raise _package_missing(name, error) from error
        wanted = self._row(trial.params)
        row = wanted if self._may_be_asked(wanted, history, open_positions) else None
        self.asked += 1
        if row is None:
            self.moved += 1
            row = self.candidates.rows[self.candidates.nearest(wanted[None], open_positions)]
            # What was asked is not what is measured: the measurement is told as a trial of its own.
            self._mirror.tell(trial, state=TrialState.FAIL)
        else:
            self._open_trials[number] = trial
        return row

    def _may_be_asked(self, row: Rows, history: History, open_positions: npt.NDArray[np.bool_]) -> bool:
        position = int(self.candidates.positions(row[None])[0])
        if position >= 0:
            return bool(open_positions[position])
        config = config_of(self.candidates.space, row)
        tried = bool((history.tried_rows == row).all(axis=1).any())
        return not self.candidates.complete and not tried and not self.candidates.space.violations(config)

    def _tell(self, history: History) -> None:
        """Tells the mirror every trial that has ended since."""
        if not len(history.rows):
            return  # without a value there is no worst value to give to a failure
        columns = [history.column(objective.metric) for objective in self.objectives]
        for number, row, values in zip(history.numbers, history.rows, history.values, strict=True):
            constraints = {_RUNS: -1.0} | {
                str(slo): _excess(slo, float(values[history.column(slo.metric)])) for slo in self.slos
            }
            self._mirror_trial(number, row, [float(values[column]) for column in columns], constraints)
        worst = [
            float(min(history.values[:, column], key=objective.gain))
            for objective, column in zip(self.objectives, columns, strict=True)
        ]
        missed = {_RUNS: _MISSED} | {str(slo): _MISSED for slo in self.slos}
        for number, row in zip(history.failed_numbers, history.failed_rows, strict=True):
            self._mirror_trial(number, row, worst, missed)

    def _mirror_trial(self, number: int, row: Rows, values: Sequence[float], constraints: Mapping[str, float]) -> None:
        if number in self._mirrored:
            return
        self._mirrored.add(number)
        trial = self._open_trials.pop(number, None)
        if trial is not None:
            for name, excess in constraints.items():
                trial.set_constraint(name, excess)
            self._mirror.tell(trial, values)
            return
        self._mirror.add_trial(
            create_trial(
                params=self._params(row), distributions=self._axes, values=values, constraints=dict(constraints)
            )
        )

    def _params(self, row: Rows) -> dict[str, Any]:
        """A row as the mirror's parameters: numeric ones by their position, which spaces them as their scale does."""
        filled = levels(self.candidates.space, row[None])[0].tolist()
        return {
            parameter.name: parameter.values[level] if parameter.scale is Scale.CATEGORICAL else level
            for parameter, level in zip(self.candidates.space.parameters, filled, strict=True)
        }

    def _row(self, params: Mapping[str, Any]) -> Rows:
        """Undoes `_params`."""
        space = self.candidates.space
        values = {
            parameter.name: params[parameter.name]
            if parameter.scale is Scale.CATEGORICAL
            else parameter.values[int(params[parameter.name])]
            for parameter in space.parameters
        }
        return row_of(space, space.config(values))


def sampler_by_name(name: str, seed: int) -> BaseSampler:
    """An Optuna sampler: `TPESampler`, `tpe`, `optuna.samplers.GPSampler`, or anyone's `module:Class`.

    Args:
        name: as above.
        seed: given to the sampler where it takes one.

    Raises:
        UnknownNameError: no sampler has that name.
        UnavailableError: its module, or a package that it needs, is not installed.
        UsageError: it is no sampler, or cannot be made without further arguments.
    """
    found = _class_by_path(name) if ":" in name else _class_by_name(name)
    arguments = {"seed": seed} if "seed" in inspect.signature(found).parameters else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = found(**arguments)
    except ImportError as error:
        raise _package_missing(name, error) from error
    except TypeError as error:
        raise UsageError(
            f"The sampler {name!r} cannot be made without further arguments ({error}). "
            "Write a class of your own that gives them, and name it as module:Class."
        ) from error
    if not isinstance(sampler, BaseSampler):
        raise UsageError(f"{name!r} is no Optuna sampler. Name a class that derives from optuna.samplers.BaseSampler.")
    return sampler


def _package_missing(sampler: str, error: ImportError) -> UnavailableError:
    package = error.name or "the package that it names"
    return UnavailableError(
        f"The sampler {sampler!r} needs a package that is not installed: {error}. Install {package}."
    )


def _class_by_name(name: str) -> Any:
    known = {each: getattr(optuna.samplers, each) for each in optuna.samplers.__all__ if each.endswith("Sampler")}
    known.pop("BaseSampler", None)
    short = {each.removesuffix("Sampler").lower(): each for each in known}
    plain = name.removeprefix("optuna.samplers.")
    plain = short.get(plain.lower(), plain)
    if plain not in known:
        raise UnknownNameError("sampler", name, [*known, *short])
    return known[plain]


def _class_by_path(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UnavailableError(
            f"The sampler {name!r} cannot be imported: {error}. Install its package, or put its folder on PYTHONPATH."
        ) from error
    except AttributeError as error:
        classes = [each for each, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]
        raise UnknownNameError(f"class in {module!r}", attribute, classes) from error


def _axis(parameter: Parameter) -> BaseDistribution:
    if parameter.scale is Scale.CATEGORICAL:
        return CategoricalDistribution(parameter.values)
    return IntDistribution(0, len(parameter.values) - 1)


def _excess(slo: Slo, value: float) -> float:
    return slo.excess(value) if np.isfinite(value) else _MISSED
