"""The loop: asks, runs, tells, until nothing is left to do; and the ask/tell handle it stands on."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tuner.errors import RunError, TrialFault, TunerError
from tuner.parameter import Config
from tuner.ports import Runner, SearchSpace
from tuner.priors.library import PriorLibrary
from tuner.space import Space
from tuner.strategies.history import Kind
from tuner.study import adapters
from tuner.study.agenda import Run, Search, Step, Stop, next_step
from tuner.study.definition import AUTO, META, NONE, Study
from tuner.study.earlier import Earlier, changed, chosen, from_json, remembered, standing_words, to_json
from tuner.study.event import Event, Notice, StudyOpened, TrialEnded, TrialProgress, TrialStarted
from tuner.study.forecast_note import RAN_OUT, ForecastNote
from tuner.study.limits import limits
from tuner.study.record import State, TrialRecord
from tuner.study.result import Result, spending
from tuner.study.session import Session
from tuner.study.space import study_space
from tuner.study.stopping import IN_A_ROW, little_left
from tuner.study.store import StudyStore, as_begun
from tuner.study.strategy import Strategy
from tuner.trial import Attempt, Outcome, Phase, Progress, TrialPlan

MAX_FAULTS_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A configuration to measure.

    Attributes:
        config: what to run.
        kind: search, or a repeat that confirms.
        attempt: identity of the attempt: hand it to the runner and back to `tell`.
        plan: how to measure it: the study's, with the limits beyond which the load may end early.
    """

    config: Config
    kind: Kind
    attempt: Attempt
    plan: TrialPlan


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

    Attributes:
        study: with the runner `auto` replaced by the one that it stands for.
        runner_as_begun: whether that is the one that the study's trials ran in before.

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
        begun = as_begun(study)
        self.runner_as_begun = begun.runner.name != study.runner.name
        study = adapters.with_runner_resolved(begun)
        self.study = study
        self.engine: SearchSpace = adapters.search_space(study.engine.name, study.engine.options)
        self.space: Space = study_space(study, self.engine)
        self.watch = watch or _unwatched
        self._store = StudyStore(study, self.space, create=create)
        self._earlier = self._settled(create)
        self._strategy = Strategy(study, self.engine, self.space, self._earlier.priors)
        self._session = Session(started)
        self._unpredicted: set[str] = set()
        self._foresight_kept = False
        self._ruled_out = 0

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
        self._learn(records)
        self._look_ahead(records)
        step = self._next_step(records)
        if isinstance(step, Stop):
            return None
        if isinstance(step, Run):
            return self._ask_for(step.config, step.kind, token, records)
        if not records:
            return self._ask_for(self.default_config, Kind.SEARCH, token, records)
        attempt, config = self._store.ask(self._strategy.sampler(), Kind.SEARCH, token, self._strategy.predicted)
        return Ask(config=config, kind=Kind.SEARCH, attempt=attempt, plan=self._plan(config, Kind.SEARCH, records))

    def tell(self, ask: Ask, outcome: Outcome) -> TrialRecord:
        """Stores what came of an `ask`.

        Raises:
            StorageError: the storage refused, or another attempt has taken the trial over.
        """
        self._keep_foresight(ask)
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
        for words in self._opening_notices():
            self.watch(Notice(text=words))
        with self._session_kept():
            self._run_all(runner)
        if self.study.search.remember:
            self._remember()
        return self.result()

    def _settled(self, create: bool) -> Earlier:
        """The earlier tasks of the study: those of its storage, or, where it begins, what the library has."""
        stored = self._store.priors()
        if stored is None:
            begun = bool(self._store.records())
            found = Earlier() if begun or not create else chosen(self.study, self.space)
            if create and not begun:
                self._store.fix_priors(to_json(found.priors))
            return found
        priors = from_json(stored)
        if self.study.search.priors == NONE or self.study.search.sampler not in (AUTO, META):
            return Earlier()
        return Earlier(priors=priors, notes=changed(self.study, priors) if create else ())

    def _opening_notices(self) -> list[str]:
        notices = [*self._earlier.notes]
        if self._strategy.meta:
            notices.append(standing_words(self._earlier.priors))
        elif self.study.search.sampler == META:
            notices.append("two objectives are searched by the Bayesian sampler, without earlier tasks")
        return notices

    def _remember(self) -> None:
        """Adds the study to the user's library, or says why not: what was found is worth more than that."""
        try:
            path = remembered(self.result(), self.space, PriorLibrary())
        except TunerError as error:
            self.watch(Notice(text=f"not remembered for later studies: {error}"))
        else:
            self.watch(Notice(text=f"remembered for later studies: {path}"))

    def _look_ahead(self, records: Sequence[TrialRecord]) -> None:
        """Stores what more trials may bring: once after each search trial that matters to the rules, and the last."""
        stopping = self.study.search.stop
        searched = sum(r.kind is Kind.SEARCH and r.state is State.DONE for r in records)
        match self._next_step(records):
            case Search():
                wanted = stopping is not None and searched > stopping.after - IN_A_ROW
            case Run(kind=kind):
                wanted = kind is Kind.CONFIRM
            case Stop():
                wanted = True
        if not wanted or not searched or any(r.kind is Kind.CONFIRM for r in records):
            return
        known = self._store.prospects().get(searched)
        if known is not None and (stopping is None or known.tolerance == stopping.tolerance):
            return
        found = self._strategy.prospects(self._store.optuna)
        if found is not None:
            self._store.add_prospects(searched, found)

    def _learn(self, records: Sequence[TrialRecord]) -> None:
        """Rules out what trials have shown to run out of memory, and says and keeps how much that is."""
        count = self._strategy.learn(records)
        if count == self._ruled_out:
            return
        self._ruled_out = count
        noun = "configuration" if count == 1 else "configurations"
        self.watch(Notice(text=f"not asked any more: {count:,} {noun}, {RAN_OUT}"))
        self._store.keep_forecast(self._noted(self._store.forecast() or ForecastNote()))

    def _noted(self, note: ForecastNote) -> ForecastNote:
        """What is kept of predictions, with what trials have ruled out beside."""
        return note.with_ran_out(self._ruled_out, len(self._strategy)) if self._ruled_out else note

    def _next_step(self, records: Sequence[TrialRecord]) -> Step:
        ended = self._strategy.exhausted(records) or little_left(self.study.search.stop, self._store.prospects())
        return next_step(records, self.study, self.default_config, ended)

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
        prospects = self._store.prospects()
        step = self._next_step(records)
        return Result(
            study=self.study,
            study_id=self._store.study_id,
            space=self.space,
            forecast=self._store.forecast(),
            engine=self.engine,
            default_config=self.default_config,
            records=tuple(records),
            ended=step.ended if isinstance(step, Stop) else None,
            prospects=prospects[max(prospects)] if prospects else None,
            earlier=tuple(prior.name for prior in self._earlier.priors),
            spending=spending(self._store.sessions()),
        )

    def _ask_for(self, config: Config, kind: Kind, token: str, records: Sequence[TrialRecord]) -> Ask:
        predicted = self._strategy.predicted(config)
        if predicted is None:
            self._unpredicted.add(token)
        attempt = self._store.ask_for(config, kind, token, predicted)
        return Ask(config=config, kind=kind, attempt=attempt, plan=self._plan(config, kind, records))

    def _plan(self, config: Config, kind: Kind, records: Sequence[TrialRecord]) -> TrialPlan:
        return replace(self.study.plan, limits=limits(self.study, records, config, kind, self.default_config))

    def _keep_foresight(self, ask: Ask) -> None:
        """Stores how predictions take part, and what was predicted of a trial that began before they were ready."""
        foresight = self._strategy.foresight
        if foresight is None:
            return
        if not self._foresight_kept:
            self._store.keep_forecast(self._noted(foresight.note))
            self._foresight_kept = True
        if ask.attempt.token in self._unpredicted:
            self._unpredicted.discard(ask.attempt.token)
            if (predicted := foresight.predicted(ask.config)) is not None:
                self._store.keep_prediction(ask.attempt, predicted)

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
                outcome = runner.run(spec, device, ask.plan, ask.attempt, watch)
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
