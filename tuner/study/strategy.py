"""The strategy of a study: its candidates and its sampler, made ready without holding up the first trial."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tuner.parameter import Config
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.strategies.random import RandomSampler
from tuner.study.definition import AUTO, RANDOM, Study
from tuner.study.record import State, TrialRecord

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


class Strategy:
    """What a study asks for configurations.

    Importing torch and BoTorch takes seconds and the first trial is always the default, so `prepare`
    imports them in a thread while that server starts; the loop lets no load be measured before
    `wait_until_prepared` returns, since the import would take the load generator's core.

    Raises:
        SpaceError: no configuration is valid.
    """

    def __init__(self, study: Study, space: Space) -> None:
        self._study = study
        self._space = space
        self._candidates = Candidates.of(space, seed=study.search.seed)
        self._sampler: BaseSampler | None = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self.default_config: Config = self._candidates.config(self._candidates.default_position)

    def __len__(self) -> int:
        """Number of valid configurations (of those enumerated)."""
        return len(self._candidates)

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

    def exhausted(self, records: Sequence[TrialRecord]) -> str | None:
        """In words, that every candidate has been tried; `None` while some are left."""
        tried = {record.config for record in records if record.state in (State.DONE, State.RUNNING)}
        return "every valid configuration has been tried" if len(tried) >= len(self._candidates) else None

    def _make(self) -> None:
        try:
            self._sampler = self._made()
        except Exception as error:
            self._error = error

    def _made(self) -> BaseSampler:
        search = self._study.search
        common = (self._candidates, self._study.objectives, self._study.slos)
        if search.sampler == AUTO:
            from tuner.strategies.bayesian import BayesianSampler  # imports torch: see the class

            return BayesianSampler(*common, seed=search.seed)
        if search.sampler == RANDOM:
            return RandomSampler(*common, seed=search.seed)
        from tuner.strategies.foreign import ForeignSampler, sampler_by_name  # as does this, for some

        return ForeignSampler(*common, seed=search.seed, inner=sampler_by_name(search.sampler, search.seed))
