"""The strategy of a study: its candidates and its sampler, made ready without holding up the first trial."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from tuner.parameter import DEVICE, Config
from tuner.ports import SearchSpace
from tuner.priors.prior_task import PriorTask
from tuner.space import Space
from tuner.strategies.candidates import Candidates, Positions
from tuner.strategies.guidance import Guidance
from tuner.strategies.prospects import Prospects
from tuner.strategies.random import RandomSampler
from tuner.strategies.sampler import CandidateSampler
from tuner.study.definition import AUTO, META, RANDOM, Stopping, Study
from tuner.study.earlier import device_descriptors, usable
from tuner.study.read_model import model_features
from tuner.study.record import State, TrialRecord
from tuner.study.stopping import Ended, StopRule
from tuner.trial import Estimate

if TYPE_CHECKING:
    import optuna
    from optuna.samplers import BaseSampler

    from tuner.study.foresight import Foresight
    from tuner.study.learned_memory import LearnedMemory


@runtime_checkable
class Foresighted(Protocol):
    """A sampler that can say what more trials may bring."""

    def prospects(self, study: optuna.Study, tolerance: float) -> Prospects | None:
        """See `Prospects`; `None` where it cannot tell."""
        ...


class Strategy:
    """What a study asks for configurations.

    With one objective and earlier tasks it is the meta-learned search, else the Bayesian one, unless the study
    names another.

    Importing torch and BoTorch takes seconds, compiling the surrogates tens of seconds on a machine's first study, and
    the first trial is always the default, so `prepare` does both, and predicts every candidate, in a thread while
    that server starts; the loop lets no load be measured before `wait_until_prepared` returns, since it would take
    the load generator's core.

    Raises:
        SpaceError: no configuration is valid.
    """

    def __init__(self, study: Study, engine: SearchSpace, space: Space, priors: Sequence[PriorTask] = ()) -> None:
        self._study = study
        self._engine = engine
        self._priors = tuple(priors)
        self._space = space
        self._candidates = Candidates.of(space, seed=study.search.seed)
        self._sampler: BaseSampler | None = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._foresight: Foresight | None = None
        self._memory: LearnedMemory | None = None
        self._foreseen: Positions = np.zeros(0, dtype=np.int64)
        self._excluded: Positions = np.zeros(0, dtype=np.int64)
        self.default_config: Config = self._candidates.config(self._candidates.default_position)

    def __len__(self) -> int:
        """Number of valid configurations (of those enumerated)."""
        return len(self._candidates)

    @property
    def meta(self) -> bool:
        """Whether it is the meta-learned search."""
        sampler = self._study.search.sampler
        return len(self._study.objectives) == 1 and (sampler == META or (sampler == AUTO and bool(self._priors)))

    def prepare(self) -> None:
        """Begins to make the sampler, in a thread; further calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._make, name="prepare-strategy", daemon=True)
            self._thread.start()

    def wait_until_prepared(self) -> None:
        """Returns once the thread of `prepare`, if any, is done."""
        if self._thread is not None:
            self._thread.join()

    def sampler(self) -> BaseSampler:
        """The sampler, made now if need be.

        Raises:
            UnknownNameError: no sampler has the name that the study gives.
        """
        self.prepare()
        self.wait_until_prepared()
        if self._error is not None:
            raise self._error
        assert self._sampler is not None
        return self._sampler

    @property
    def foresight(self) -> Foresight | None:
        """What is predicted; `None` until the thread of `prepare` is done."""
        return None if self._thread is None or self._thread.is_alive() else self._foresight

    def predicted(self, config: Config) -> Mapping[str, Estimate] | None:
        """What is predicted of a configuration; `None` where nothing is, or not yet."""
        return None if self.foresight is None else self.foresight.predicted(config)

    def learn(self, records: Sequence[TrialRecord]) -> int:
        """Asks no more for what surely runs out of memory, as trials have shown; returns how many these are.

        Those that predictions rule out are not counted. Does nothing until the thread of `prepare` is done.
        """
        if self._thread is None or self._thread.is_alive() or self._memory is None:
            return 0
        self._excluded = np.union1d(self._foreseen, self._memory.excluded(records))
        if isinstance(self._sampler, CandidateSampler):
            self._sampler.guidance = replace(self._sampler.guidance, excluded=self._excluded)
        return len(self._excluded) - len(self._foreseen)

    def prospects(self, study: optuna.Study) -> Prospects | None:
        """What more trials may bring; `None` where the sampler cannot tell, or nothing holds the SLO yet."""
        sampler = self.sampler()
        if not isinstance(sampler, Foresighted):
            return None
        stopping = self._study.search.stop
        return sampler.prospects(study, Stopping().tolerance if stopping is None else stopping.tolerance)

    def exhausted(self, records: Sequence[TrialRecord]) -> Ended | None:
        """That every candidate has been tried; `None` while some are left."""
        tried = {record.config for record in records if record.state in (State.DONE, State.RUNNING)}
        if len(tried) + len(self._excluded) < len(self._candidates):
            return None
        never = sum(self._candidates.config(int(at)) not in tried for at in self._excluded)
        if len(tried) + never < len(self._candidates):
            return None
        return Ended(StopRule.EXHAUSTED, "every valid configuration has been tried")

    def _make(self) -> None:
        try:
            self._sampler = self._guided(self._made())
        except Exception as error:
            self._error = error

    def _guided(self, sampler: BaseSampler) -> BaseSampler:
        """The sampler, told what is predicted; one that the user names is only told what cannot run."""
        from tuner.study.foresight import Foresight  # imports numba: a second that the first trial need not wait for
        from tuner.study.learned_memory import LearnedMemory  # imports scipy's optimisers

        self._memory = LearnedMemory(self._study, self._engine, self._candidates)
        self._foresight = Foresight(self._study, self._engine, self._candidates)
        guidance = self._foresight.guidance()
        if self._study.search.sampler not in (AUTO, META):
            guidance = Guidance(excluded=guidance.excluded)
        self._foreseen = self._excluded = guidance.excluded
        if isinstance(sampler, CandidateSampler):
            sampler.guidance = guidance
        return sampler

    def _made(self) -> BaseSampler:
        search = self._study.search
        common = (self._candidates, self._study.objectives, self._study.slos)
        if self.meta:
            from tuner.strategies.meta import MetaSampler  # imports torch: see the class

            earlier = usable(self._study, self._space, self._priors)
            descriptors = {DEVICE: device_descriptors(earlier.devices)}
            sampler = MetaSampler(
                *common,
                seed=search.seed,
                earlier=earlier.tasks,
                descriptors=descriptors,
                features=model_features(self._study.task, self._engine) if self._priors else None,
            )
            sampler.prepare()
            return sampler
        if search.sampler in (AUTO, META):
            from tuner.strategies.bayesian import BayesianSampler  # as does this

            scratch = BayesianSampler(*common, seed=search.seed)
            scratch.prepare()
            return scratch
        if search.sampler == RANDOM:
            return RandomSampler(*common, seed=search.seed)
        from tuner.strategies.foreign import ForeignSampler, sampler_by_name  # as does this, for some

        return ForeignSampler(*common, seed=search.seed, inner=sampler_by_name(search.sampler, search.seed))
