"""The meta-learned search as an Optuna sampler, for real studies.

Of a study's candidates at most `SHORTLIST` become the list that `tuner.strategies.meta_search` searches: everything
tried, what served the earlier tasks best, the neighbours of the best trials, and a uniform part of the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
from optuna.study import Study

from tuner.errors import UsageError
from tuner.objective import Objective
from tuner.parameter import Value
from tuner.slo import Slo
from tuner.strategies.candidates import Candidates, Rows, config_of, levels, row_of
from tuner.strategies.history import History, TrialRows, observations
from tuner.strategies.listed_problem import Answer, Bound, EarlierTask, ListedParameter, ListedProblem
from tuner.strategies.meta_prior import EarlierKnowledge, MetaSettings
from tuner.strategies.meta_search import MetaSearch
from tuner.strategies.prospects import Prospects
from tuner.strategies.sampler import CandidateSampler

SHORTLIST: Final = 400
"""Configurations that are looked at for a question."""
_FROM_EACH_EARLIER: Final = 20
_CLIMBED: Final = 3


class MetaSampler(CandidateSampler):
    """Searches a study's candidates with the knowledge of earlier tasks.

    Like every sampler over candidates it keeps no memory but caches: the same trials, seed and number lead to the
    same choice.

    Args:
        candidates: what may be asked.
        objectives: one.
        slos: all must hold.
        seed: of every random choice.
        earlier: earlier tasks, rows over the space's parameters in its order (`tuner.priors.earlier_tasks`).
        settings: of the search.
        descriptors: by parameter and value, numbers that describe it (see `ListedProblem`).
        features: numbers that describe the study, by name, as in `EarlierTask.features`.

    Raises:
        UsageError: there are two objectives.
    """

    def __init__(
        self,
        candidates: Candidates,
        objectives: Sequence[Objective],
        slos: Sequence[Slo] = (),
        seed: int = 0,
        *,
        earlier: Sequence[EarlierTask] = (),
        settings: MetaSettings | None = None,
        descriptors: Mapping[str, Mapping[Value, tuple[float, ...]]] | None = None,
        features: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(candidates, objectives, slos, seed)
        if len(objectives) != 1:
            raise UsageError(f"The sampler 'meta' searches one objective, not {len(objectives)}. Write sampler: auto.")
        self._earlier = tuple(task for task in earlier if task.compares)
        self._settings = settings
        self._descriptors = descriptors or {}
        self._features = features or {}

    def prepare(self) -> None:
        """Fits what the earlier tasks have in common, which may take seconds, before it is asked for anything."""
        nothing = observations([], TrialRows(self.candidates.space), self.objectives, self.slos)
        self._search(nothing, self._open(nothing), 1)

    def choose(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """See `CandidateSampler.choose`."""
        rows, search = self._search(history, open_positions, number)
        return np.asarray(rows[search.ask()], dtype=np.int16)

    def prospects(self, study: Study, tolerance: float = 0.05) -> Prospects | None:
        """What more trials may bring; `None` while nothing holds the SLOs."""
        history = self.history(study)
        settings = replace(self._settings or MetaSettings(), tolerance=tolerance)
        number = len(study.get_trials(deepcopy=False))
        rows, search = self._search(history, self._open(history), number, settings)
        found = search.prospects()
        if found.best is None:
            return None
        return Prospects(
            best=config_of(self.candidates.space, rows[found.best]),
            expected_gain=found.expected_gain,
            within=found.within,
            tolerance=tolerance,
            weights={"/".join(name): weight for name, weight in search.followed().items()},
        )

    def _search(
        self,
        history: History,
        open_positions: npt.NDArray[np.bool_],
        number: int,
        settings: MetaSettings | None = None,
    ) -> tuple[Rows, MetaSearch]:
        rows = self._shortlist(history, open_positions, number)
        problem = self._problem(rows)
        prior = self._knowledge.prior(problem.rows)
        search = MetaSearch(problem, seed=self.seed, settings=settings or self._settings, prior=prior)
        position = {row.tobytes(): at for at, row in enumerate(rows)}
        for row in history.tried_rows:
            search.ask_for(position[row.tobytes()])
        answers = zip(history.rows, history.values, history.std_errors, history.sides, strict=True)
        for row, values, errors, sides in answers:
            search.tell(position[row.tobytes()], self._answer(history, values, errors, sides))
        for row in history.failed_rows:
            search.tell(position[row.tobytes()], Answer(ran=False))
        return rows, search

    def _answer(
        self,
        history: History,
        values: npt.NDArray[np.float64],
        errors: npt.NDArray[np.float64],
        sides: npt.NDArray[np.int8],
    ) -> Answer:
        column = history.column(self.objectives[0].metric)
        value = float(values[column])
        return Answer(
            ran=True,
            objective=value,
            constraints=tuple(float(values[history.column(slo.metric)]) for slo in self.slos),
            noise=float(errors[column]) / abs(value) if value else None,
            sides=(int(sides[column]), *(int(sides[history.column(slo.metric)]) for slo in self.slos)),
        )

    def _problem(self, rows: Rows) -> ListedProblem:
        space = self.candidates.space
        columns = [
            np.array(parameter.values, dtype=object)[column].tolist()
            for parameter, column in zip(space.parameters, levels(space, rows).T, strict=True)
        ]
        return ListedProblem(
            parameters=tuple(
                ListedParameter(parameter.name, parameter.scale, parameter.values) for parameter in space.parameters
            ),
            rows=tuple(zip(*columns, strict=True)),
            direction=self.objectives[0].direction,
            bounds=tuple(Bound(name=str(slo), limit=slo.bound, at_most=slo.at_most) for slo in self.slos),
            earlier=self._earlier,
            features=self._features,
            descriptors=self._descriptors,
        )

    @functools.cached_property
    def _knowledge(self) -> EarlierKnowledge:
        """What does not depend on the trials; its fit takes seconds."""
        return EarlierKnowledge(self._problem(self.candidates.rows[:1]), self._settings or MetaSettings(), {})

    def _shortlist(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        tried = history.tried_rows
        if len(self.candidates) + len(tried) <= SHORTLIST:
            parts = [tried, self.candidates.rows]
        else:
            parts = [tried, self._best_of_earlier, self._neighbours_of_best(history)]
            generator = np.random.default_rng([self.seed, number])
            rest = np.flatnonzero(open_positions)
            picked = generator.choice(rest, size=min(SHORTLIST, len(rest)), replace=False)
            parts.append(self.candidates.rows[picked])
        rows = np.concatenate(parts)
        first = np.sort(np.unique(rows, axis=0, return_index=True)[1])
        return np.asarray(rows[first][: max(SHORTLIST, len(tried) + 1)], dtype=np.int16)

    @functools.cached_property
    def _best_of_earlier(self) -> Rows:
        """Candidates that served an earlier task best."""
        space = self.candidates.space
        bounds = tuple(Bound(name=str(slo), limit=slo.bound, at_most=slo.at_most) for slo in self.slos)
        found = []
        for task in self._earlier:
            gains = task.gains(self.objectives[0].direction, bounds)
            for at in np.argsort(-gains)[:_FROM_EACH_EARLIER]:
                values = dict(zip(space.names, task.rows[at], strict=True))
                if all(values[parameter.name] in parameter.values for parameter in space.parameters):
                    config = space.config(values)
                    if self.candidates.position(config) is not None:
                        found.append(row_of(space, config))
        return np.array(found, dtype=np.int16).reshape(len(found), len(space.parameters))

    def _neighbours_of_best(self, history: History) -> Rows:
        if not len(history.rows):
            return history.rows
        objective = self.objectives[0]
        gains = [objective.gain(float(value)) for value in history.values[:, history.column(objective.metric)]]
        best = np.argsort(-np.array(gains))[:_CLIMBED]
        return self.candidates.neighbours(history.rows[best])
