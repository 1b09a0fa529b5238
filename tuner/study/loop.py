"""The loop: asks, runs, tells, until nothing is left to do; and the ask/tell handle it stands on."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tuner.errors import RunError, TrialFault
from tuner.parameter import Config
from tuner.ports import Runner, SearchSpace
from tuner.space import Space
from tuner.strategies.history import Kind
from tuner.study import adapters
from tuner.study.agenda import Run, Stop, next_step
from tuner.study.definition import Study
from tuner.study.event import Event, StudyOpened, TrialEnded, TrialProgress, TrialStarted
from tuner.study.record import State, TrialRecord
from tuner.study.result import Result, spending
from tuner.study.session import Session
from tuner.study.space import study_space
from tuner.study.store import StudyStore
from tuner.study.strategy import Strategy
from tuner.trial import Attempt, Outcome, Phase, Progress

MAX_FAULTS_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A configuration to measure.

    Attributes:
        config: what to run.
        kind: search, or a repeat that confirms.
        attempt: identity of the attempt: hand it to the runner and back to `tell`.
    """

    config: Config
    kind: Kind
    attempt: Attempt


class Tuner:
    """A study one trial at a time.

    A pipeline that measures by itself calls `ask` and `tell`; `run` does both with the study's own
    runner. State after each call is in the storage: the process may die at any point and a new `Tuner`
    of the same study goes on.

    Example::

        tuner = Tuner(study)
        while (ask := tuner.ask()) is not None:
            tuner.tell(ask, my_measurement(ask.config))
        print(tuner.result().best)

    Args:
        study: what to tune.
        watch: called with every `tuner.study.event.Event`, from the calling thread.
        started: when the program began, s since the epoch, where its start-up is to count as spent time.
        create: false to open only a study that the storage already holds.

    Raises:
        UsageError: the study cannot be carried out here; nothing has been started.
        StorageError: the storage refused.
    """

    def __init__(
        self,
        study: Study,
        *,
        watch: Callable[[Event], None] | None = None,
        started: float | None = None,
        create: bool = True,
    ) -> None:
        study = adapters.with_runner_resolved(study)
        self.study = study
        self.engine: SearchSpace = adapters.search_space(study.engine.name, study.engine.options)
        self.space: Space = study_space(study, self.engine)
        self.watch = watch or _unwatched
        self._strategy = Strategy(study, self.space)
        self._store = StudyStore(study, self.space, create=create)
        self._session = Session(started)
        self._stop_reason = ""

    @property
    def default_config(self) -> Config:
        """The engine's default, or the valid configuration nearest to it."""
        return self._strategy.default_config

    def ask(self) -> Ask | None:
        """The next configuration to measure, or `None` when nothing is left to do.

        Raises:
            StorageError: the storage refused.
        """
        token = secrets.token_hex(8)
        self._store.recover()
        records = self._store.records()
        step = next_step(records, self.study, self.default_config, self._strategy.exhausted(records))
        if isinstance(step, Stop):
            self._stop_reason = step.reason
            return None
        if isinstance(step, Run):
            return self._ask_for(step.config, step.kind, token)
        if not records:
            return self._ask_for(self.default_config, Kind.SEARCH, token)
        attempt, config = self._store.ask(self._strategy.sampler(), Kind.SEARCH, token)
        return Ask(config=config, kind=Kind.SEARCH, attempt=attempt)

    def tell(self, ask: Ask, outcome: Outcome) -> TrialRecord:
        """Stores what came of an `ask`.

        Raises:
            StorageError: the storage refused, or another attempt has taken the trial over.
        """
        record = self._store.tell(ask.attempt, outcome)
        self._session.add(record)
        self._store.add_session(self._session.entry())
        return record

    def run(self) -> Result:
        """Asks, runs and tells with the study's runner until nothing is left to do.

        Ctrl-C closes the running trial as interrupted and is raised again; the same study run again
        goes on from there.

        Raises:
            UnavailableError: what the runner needs is not there; nothing was started.
            StorageError: the storage refused.
            RunError: several trials in a row failed by our own fault.
        """
        runner = adapters.runner(self.study.runner.name, self.study.runner.options)
        self._check(runner)
        self._strategy.prepare()
        reaped = runner.reap(self._store.study_id)
        self.watch(StudyOpened(records=tuple(self._store.records()), reaped=reaped, space_size=len(self._strategy)))
        with self._session_kept():
            self._run_all(runner)
        return self.result()

    def _run_all(self, runner: Runner) -> None:
        faults = 0
        while (ask := self.ask()) is not None:
            record = self._run_one(runner, ask)
            self.watch(TrialEnded(record=record))
            faults = faults + 1 if record.state is State.FAULT else 0
            if faults >= MAX_FAULTS_IN_A_ROW:
                raise RunError(
                    f"{faults} trials in a row failed by a fault that is not the configuration's. The last: "
                    f"{record.fault} "
                    "Nothing is lost: the same command goes on when the fault is mended."
                )

    @contextlib.contextmanager
    def _session_kept(self) -> Iterator[None]:
        try:
            yield
        finally:
            with contextlib.suppress(RunError):
                self._store.add_session(self._session.entry())

    def result(self) -> Result:
        """What has been found so far."""
        records = self._store.records()
        return Result(
            study=self.study,
            engine=self.engine,
            default_config=self.default_config,
            records=tuple(records),
            stop_reason=self._stop_reason,
            spending=spending(self._store.sessions()),
        )

    def _ask_for(self, config: Config, kind: Kind, token: str) -> Ask:
        return Ask(config=config, kind=kind, attempt=self._store.ask_for(config, kind, token))

    def _run_one(self, runner: Runner, ask: Ask) -> TrialRecord:
        number = ask.attempt.trial

        def watch(progress: Progress) -> None:
            if progress.phase is not Phase.STARTING:
                self._strategy.wait_until_prepared()
            self._store.renew(ask.attempt)
            self.watch(TrialProgress(number=number, progress=progress))

        with self._given_up_unless_told(ask):
            self.watch(TrialStarted(number=number, kind=ask.kind, config=ask.config))
            try:
                spec = self.engine.launch(self.study.task, ask.config, runner.target)
                device = self.study.task.device(ask.config.device)
                outcome = runner.run(spec, device, self.study.plan, ask.attempt, watch)
            except TrialFault as fault:
                return self._store.give_up(ask.attempt, State.FAULT, str(fault))
            return self.tell(ask, outcome)

    @contextlib.contextmanager
    def _given_up_unless_told(self, ask: Ask) -> Iterator[None]:
        """Whatever ends a trial without a result, Ctrl-C included, closes it as interrupted."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(RunError):
                self._store.give_up(ask.attempt, State.INTERRUPTED)
            raise

    def _check(self, runner: Runner) -> None:
        """That the default can be started on every device type, before anything is."""
        for device in self.study.task.devices:
            config = self.space.config({**self.space.complete(self.default_config), "device": device.name})
            runner.check(self.engine.launch(self.study.task, config, runner.target), device)


def _unwatched(event: Event) -> None:
    """Nobody looks."""
