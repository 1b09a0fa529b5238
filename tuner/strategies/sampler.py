"""What all samplers over a list of candidates share: the default first, nothing twice, an end."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import RunError
from tuner.objective import Objective
from tuner.slo import Slo
from tuner.strategies.candidates import Candidates, Rows, config_of
from tuner.strategies.guidance import Guidance
from tuner.strategies.history import History, TrialRows, distributions, observations


class SpaceExhausted(RunError):
    """Every valid configuration has been tried: there is nothing left to ask."""


class CandidateSampler(BaseSampler, abc.ABC):
    """A sampler that chooses among candidates.

    The first trial is the engine's default (or the valid configuration nearest to it); later ones are
    what `choose` says. It keeps no memory of its own: the same trials, seed and trial number lead to the
    same choice, in whatever process.

    Args:
        candidates: what may be asked.
        objectives, slos: of the study.
        seed: of every random choice.

    Attributes:
        guidance: what is known beforehand; nothing, unless it is set before the first trial is asked.
    """

    def __init__(
        self, candidates: Candidates, objectives: Sequence[Objective], slos: Sequence[Slo] = (), seed: int = 0
    ) -> None:
        self.candidates = candidates
        self.objectives = tuple(objectives)
        self.slos = tuple(slos)
        self.seed = seed
        self.guidance = Guidance()
        self._distributions = distributions(candidates.space)
        self._trial_rows = TrialRows(candidates.space)

    @abc.abstractmethod
    def choose(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """The next row to ask, shape (d,).

        Args:
            history: all that is known; the default has been tried.
            open_positions: shape (n,), candidates not tried yet; at least one.
            number: of the trial, to draw random numbers by.
        """

    def remaining(self, study: Study) -> int:
        """How many candidates have not been tried; at 0, asking raises `SpaceExhausted`."""
        return int(self._open(self.history(study)).sum())

    def history(self, study: Study) -> History:
        """The study's trials as arrays."""
        return observations(study.get_trials(deepcopy=False), self._trial_rows, self.objectives, self.slos)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Refuses a trial for which nothing is left.

        Raises:
            SpaceExhausted: every candidate has been tried; the trial has been closed as failed.
        """
        asked = len(study.get_trials(deepcopy=False)) - 1
        if asked + len(self.guidance.excluded) < len(self.candidates):
            return  # something is left, without a look at what each trial was
        if not self.remaining(study):
            study.tell(trial.number, state=TrialState.FAIL)
            raise SpaceExhausted(f"All {len(self.candidates)} valid configurations have been tried.")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter of the space, whatever has been tried."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A full set of parameter values: a configuration that was not asked before."""
        history = self.history(study)
        open_positions = self._open(history)
        default = self.candidates.default_position
        space = self.candidates.space
        if open_positions[default]:
            row = self.candidates.rows[default]
        elif (opening := next((at for at in self.guidance.openings if open_positions[at]), None)) is not None:
            row = self.candidates.rows[opening]
        else:
            row = self._allowed(self.choose(history, open_positions, trial.number), open_positions, trial.number)
        return dict(space.complete(config_of(space, row)))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed within the space.

        Raises:
            RunError: the parameter is none of the space.
        """
        raise RunError(f"{param_name!r} is no parameter of this search space.")

    def _allowed(self, row: Rows, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """`row`, or another one where it surely cannot run, as a neighbour of good ones may."""
        position = int(self.candidates.positions(row[None])[0])
        if position not in self.guidance.excluded or not open_positions.any():
            return row
        generator = np.random.default_rng([self.seed, number, 3])
        other: Rows = self.candidates.rows[generator.choice(np.flatnonzero(open_positions))]
        return other

    def _open(self, history: History) -> npt.NDArray[np.bool_]:
        positions = self.candidates.positions(history.tried_rows)
        mask = np.ones(len(self.candidates), dtype=bool)
        mask[positions[positions >= 0]] = False
        default = self.candidates.default_position
        mask[self.guidance.excluded[self.guidance.excluded != default]] = False
        return mask
