"""The study in its Optuna storage: opened, asked, told, and picked up again after an interruption.

Optuna owns study and trials, so optuna-dashboard opens a study as it is. What we keep beside:

=================  ==========================================================================
study attribute
``fingerprint``    hash of what makes two trials comparable
``definition``     the study as JSON, without storage URL
``study_id``       unique id that labels containers and processes
``forecast``       how predictions take part
``sessions``       one entry per run of the loop: wall time and how much of it was trials
``priors``         the earlier tasks that the search stands on, each with its hash
``prospects:N``    what more trials may bring, as believed after N search trials
trial attribute
``kind``           search or confirm
``outcome``        the measurement or the infeasibility, written before the trial is told
``lease``          who is at work on it
``ended_as``       interrupted or fault, for trials without an outcome; ``fault`` says which
``predicted``      what was predicted of the configuration, uncalibrated
=================  ==========================================================================

A measured trial is COMPLETE with its objective values and constraints, or the bounds on them where its load was ended
early. An infeasible one is FAIL with its outcome: Optuna demands values of a complete trial, and none is ever invented.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

import optuna
import sqlalchemy.event
import sqlalchemy.exc
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from tuner.errors import StorageError, StudyMismatchError, TunerError, UnknownNameError, UsageError, first_ones
from tuner.metric import Direction
from tuner.parameter import Config
from tuner.space import Space
from tuner.strategies.history import (
    KIND,
    OUTCOME,
    Kind,
    distributions,
    kind_of_trial,
    outcome_from_json,
    outcome_to_json,
)
from tuner.strategies.prospects import Prospects
from tuner.study.definition import AUTO, Study, definition_json, differences, is_moved, with_stored_runner
from tuner.study.faults import masked
from tuner.study.forecast_note import ForecastNote
from tuner.study.lease import RENEW_EVERY_S, Lease, LeaseHolder
from tuner.study.predicted import from_json as predicted_from_json
from tuner.study.predicted import to_json as predicted_to_json
from tuner.study.record import State, TrialRecord
from tuner.study.stopping import prospects_from_json, prospects_to_json
from tuner.trial import Attempt, Estimate, Outcome

_FINGERPRINT: Final = "fingerprint"
_DEFINITION: Final = "definition"
_STUDY_ID: Final = "study_id"
_SESSIONS: Final = "sessions"
_PRIORS: Final = "priors"
_PROSPECTS: Final = "prospects:"
_LEASE: Final = "lease"
_ENDED_AS: Final = "ended_as"
_FAULT: Final = "fault"
_PREDICTED: Final = "predicted"
_FORECAST: Final = "forecast"
_SHOWN_DIFFERENCES: Final = 4


class StudyStore:
    """One study in its storage.

    Args:
        study: what is tuned.
        space: its search space, overrides applied.
        create: false to open only what is there.

    Raises:
        StudyMismatchError: the storage holds another study under this name.
        StorageError: the storage cannot be reached, read or written.
        UsageError: the storage URL makes no sense.
    """

    def __init__(self, study: Study, space: Space, *, create: bool = True) -> None:
        self._study = study
        self._space = space
        self._distributions: dict[str, BaseDistribution] = distributions(space)
        self._renewed = 0.0
        self._holder = LeaseHolder()
        if create:
            _make_folder(study.storage)
        else:
            stored_definition(study.name, study.storage)
        with translated_errors(study.storage):
            self.optuna = optuna.create_study(
                study_name=study.name,
                storage=open_storage(study.storage),
                directions=[objective.direction.value for objective in study.objectives],
                load_if_exists=True,
            )
            self._adopt()
            self._study_id = str(self.optuna.user_attrs[_STUDY_ID])

    def _adopt(self) -> None:
        attributes = self.optuna.user_attrs
        if _FINGERPRINT not in attributes:
            if self.optuna.get_trials(deepcopy=False):
                raise StudyMismatchError(
                    f"{masked(self._study.storage)} holds a study {self._study.name!r} that was not made by tune. "
                    "Choose another name or storage."
                )
            self.optuna.set_user_attr(_STUDY_ID, uuid.uuid4().hex)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.optuna.set_metric_names([str(objective) for objective in self._study.objectives])
            self._define()
            return
        directions = [Direction(direction.name.lower()) for direction in self.optuna.directions]
        if attributes[_FINGERPRINT] != self._study.fingerprint or directions != [
            objective.direction for objective in self._study.objectives
        ]:
            path = _sqlite_path(self._study.storage)
            if path is not None and is_moved(attributes[_DEFINITION], self._study, path):
                self._define()
                return
            found = differences(attributes[_DEFINITION], self._study)
            raise StudyMismatchError(
                f"{masked(self._study.storage)} holds a different study named {self._study.name!r}, whose trials "
                f"cannot be compared with this one's ({first_ones(found, _SHOWN_DIFFERENCES)}). "
                "Give the study another name, or another storage."
            )

    def _define(self) -> None:
        self.optuna.set_user_attr(_DEFINITION, definition_json(self._study))
        self.optuna.set_user_attr(_FINGERPRINT, self._study.fingerprint)

    @property
    def study_id(self) -> str:
        """Unique id of the study."""
        return self._study_id

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""
        with translated_errors(self._study.storage):
            trials = self.optuna.get_trials(deepcopy=False)
        return [self._record(trial) for trial in trials]

    def ask(
        self, sampler: BaseSampler, kind: Kind, token: str, predict: Callable[[Config], Mapping[str, Estimate] | None]
    ) -> tuple[Attempt, Config]:
        """Opens a trial whose configuration `sampler` chooses, with what `predict` says of it.

        The trial enters the storage in one piece, lease and all, so that a process that dies while it asks
        leaves nothing half made; that is why Optuna's own `ask`, which writes parameter by parameter, is
        not used.
        """
        with translated_errors(self._study.storage):
            draft = optuna.trial.create_trial(state=TrialState.RUNNING)
            draft.number = len(self.optuna.get_trials(deepcopy=False))
            sampler.before_trial(self.optuna, draft)
            relative = sampler.infer_relative_search_space(self.optuna, draft)
            values = sampler.sample_relative(self.optuna, draft, relative)
            for name, distribution in self._distributions.items():
                if name not in values:
                    values[name] = sampler.sample_independent(self.optuna, draft, name, distribution)
        config = self._space.config(values)
        return self.ask_for(config, kind, token, predict(config)), config

    def ask_for(
        self, config: Config, kind: Kind, token: str, predicted: Mapping[str, Estimate] | None = None
    ) -> Attempt:
        """Opens a trial of a given configuration."""
        lease = Lease.of_this_process(token)
        self._holder.tokens.add(token)
        trial = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=self._space.complete(config),
            distributions=self._distributions,
            user_attrs={
                _LEASE: lease.to_json(),
                KIND: kind.value,
                **({} if predicted is None else {_PREDICTED: predicted_to_json(predicted)}),
            },
        )
        with translated_errors(self._study.storage):
            trial_id = self.optuna._storage.create_new_trial(self.optuna._study_id, template_trial=trial)
            number = self.optuna._storage.get_trial_number_from_id(trial_id)
        self._renewed = time.monotonic()
        return Attempt(study_id=self.study_id, trial=number, token=token)

    def keep_prediction(self, attempt: Attempt, predicted: Mapping[str, Estimate]) -> None:
        """Keeps what was predicted of the configuration that an attempt runs."""
        self._set(attempt.trial, _PREDICTED, predicted_to_json(predicted))

    def renew(self, attempt: Attempt) -> None:
        """Says that the attempt is still at work; cheap to call often."""
        if time.monotonic() - self._renewed < RENEW_EVERY_S:
            return
        self._renewed = time.monotonic()
        self._set(attempt.trial, _LEASE, Lease.of_this_process(attempt.token).to_json())

    def tell(self, attempt: Attempt, outcome: Outcome) -> TrialRecord:
        """Stores what came of an attempt.

        Raises:
            StorageError: the storage refused, or the trial was meanwhile given to another attempt.
        """
        self._holder.tokens.discard(attempt.token)
        with translated_errors(self._study.storage):
            trial = self._trial(attempt.trial)
        held = trial.user_attrs.get(_LEASE)
        if trial.state.is_finished() or (held is not None and Lease.from_json(held).token != attempt.token):
            raise StorageError(
                f"Trial {attempt.trial} was meanwhile taken over by another process; its result is not stored twice."
            )
        self._set(attempt.trial, OUTCOME, outcome_to_json(outcome))
        self._finish(trial, outcome)
        return replace(self._record(trial), state=State.DONE, outcome=outcome, ended=datetime.now())

    def give_up(self, attempt: Attempt, ended_as: State, fault: str = "") -> TrialRecord:
        """Closes an attempt that has no result: it was interrupted, or failed by our own fault."""
        self._holder.tokens.discard(attempt.token)
        if fault:
            self._set(attempt.trial, _FAULT, fault)
        self._set(attempt.trial, _ENDED_AS, ended_as.value)
        with translated_errors(self._study.storage):
            self.optuna.tell(attempt.trial, state=TrialState.FAIL, skip_if_finished=True)
            return self._record(self._trial(attempt.trial))

    def recover(self) -> None:
        """Closes the trials of processes that died: those with an outcome are told, others interrupted."""
        with translated_errors(self._study.storage):
            running = self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            outcome = trial.user_attrs.get(OUTCOME)
            lease = trial.user_attrs.get(_LEASE)
            if lease is not None and Lease.from_json(lease).alive():
                continue
            if outcome is not None:
                self._finish(trial, outcome_from_json(outcome))
            else:
                if lease is not None and Lease.from_json(lease).machine_went_down():
                    self._set(trial.number, _FAULT, "the machine went down while it ran")
                self._set(trial.number, _ENDED_AS, State.INTERRUPTED.value)
                with translated_errors(self._study.storage):
                    self.optuna.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)

    def add_session(self, session: Mapping[str, float | str]) -> None:
        """Keeps what a run of the loop spent; a session with the same `id` is replaced."""
        with translated_errors(self._study.storage):
            sessions = [s for s in self.optuna.user_attrs.get(_SESSIONS, []) if s["id"] != session["id"]]
            self.optuna.set_user_attr(_SESSIONS, [*sessions, dict(session)])

    def sessions(self) -> list[dict[str, float | str]]:
        """What the runs of the loop spent, in order."""
        with translated_errors(self._study.storage):
            return list(self.optuna.user_attrs.get(_SESSIONS, []))

    def priors(self) -> str | None:
        """The earlier tasks that were fixed for the study, as text; `None` where none have been."""
        with translated_errors(self._study.storage):
            found = self.optuna.user_attrs.get(_PRIORS)
        return None if found is None else str(found)

    def fix_priors(self, text: str) -> None:
        """Fixes the earlier tasks, once."""
        with translated_errors(self._study.storage):
            self.optuna.set_user_attr(_PRIORS, text)

    def prospects(self) -> dict[int, Prospects]:
        """What was believed of more trials, by number of search trials."""
        with translated_errors(self._study.storage):
            attributes = self.optuna.user_attrs
        return {
            int(name.removeprefix(_PROSPECTS)): prospects_from_json(str(text))
            for name, text in attributes.items()
            if name.startswith(_PROSPECTS)
        }

    def keep_forecast(self, note: ForecastNote) -> None:
        """Keeps how predictions take part, unless that is known already."""
        with translated_errors(self._study.storage):
            if self.optuna.user_attrs.get(_FORECAST) != note.to_json():
                self.optuna.set_user_attr(_FORECAST, note.to_json())

    def forecast(self) -> ForecastNote | None:
        """What `keep_forecast` kept last."""
        with translated_errors(self._study.storage):
            text = self.optuna.user_attrs.get(_FORECAST)
        return None if text is None else ForecastNote.from_json(str(text))

    def add_prospects(self, trials: int, prospects: Prospects) -> None:
        """Keeps what is believed after so many search trials."""
        with translated_errors(self._study.storage):
            self.optuna.set_user_attr(f"{_PROSPECTS}{trials}", prospects_to_json(prospects))

    def _finish(self, trial: FrozenTrial, outcome: Outcome) -> None:
        """Tells Optuna an outcome that is already in the attributes of a running trial; may be called again.

        Written as `Trial.set_constraint` and `Study.tell` would, which read the trial anew for every step.
        """
        record = replace(self._record(trial), state=State.DONE, outcome=outcome)
        values = record.objective_values(self._study.objectives)
        storage = self.optuna._storage
        with translated_errors(self._study.storage):
            for bound, excess in record.excess(self._study.slos).items():
                storage.set_trial_system_attr(trial._trial_id, f"constraints:{bound}", excess)
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
            storage.set_trial_state_values(trial._trial_id, state, values)

    def _trial_id(self, number: int) -> int:
        return self.optuna._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)

    def _trial(self, number: int) -> FrozenTrial:
        return self.optuna._storage.get_trial(self._trial_id(number))

    def _set(self, number: int, key: str, value: str) -> None:
        with translated_errors(self._study.storage):
            self.optuna._storage.set_trial_user_attr(self._trial_id(number), key, value)

    def _config(self, trial: FrozenTrial) -> Config:
        return self._space.config(trial.params)

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        outcome, predicted = trial.user_attrs.get(OUTCOME), trial.user_attrs.get(_PREDICTED)
        if trial.state is TrialState.RUNNING:
            state = State.RUNNING
        elif outcome is not None:
            state = State.DONE
        else:
            state = State(trial.user_attrs.get(_ENDED_AS, State.INTERRUPTED.value))
        return TrialRecord(
            number=trial.number,
            kind=kind_of_trial(trial),
            state=state,
            config=self._config(trial),
            outcome=outcome_from_json(outcome) if outcome is not None and state is State.DONE else None,
            started=trial.datetime_start,
            ended=trial.datetime_complete,
            fault=str(trial.user_attrs.get(_FAULT, "")),
            predicted=None if predicted is None else predicted_from_json(str(predicted)),
        )


def as_begun(study: Study) -> Study:
    """The study with the runner `auto` replaced by the one that its trials ran in, where there are any.

    Raises:
        StorageError: the storage cannot be reached or read.
    """
    if study.runner.name != AUTO:
        return study
    try:
        return with_stored_runner(study, stored_definition(study.name, study.storage))
    except UsageError:  # there is no such study yet, or none of ours, which is told when it is opened
        return study


def stored_definition(name: str, storage: str) -> str:
    """The definition, as JSON, of the study called `name`.

    Raises:
        UsageError: the storage holds no study of that name made by tune.
    """
    path = _sqlite_path(storage)
    if path is not None and not path.exists():
        raise UsageError(f"There is no storage {path}. Run the study first, or name its storage.")
    with translated_errors(storage):
        opened = open_storage(storage)
        names = optuna.study.get_all_study_names(opened)
        if name not in names:
            raise UnknownNameError("study", name, names)
        attributes = optuna.load_study(study_name=name, storage=opened).user_attrs
    if _DEFINITION not in attributes:
        raise UsageError(f"The study {name!r} in {masked(storage)} was not made by tune.")
    return str(attributes[_DEFINITION])


def _sqlite_path(url: str) -> Path | None:
    path = url.removeprefix("sqlite:///")
    return Path(path) if path not in (url, "", ":memory:") else None


def _make_folder(url: str) -> None:
    """The folder of a storage that is a file; SQLite makes the file, but not its folder."""
    path = _sqlite_path(url)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The storage {path} has no folder, and it cannot be made: {error.strerror}. Choose another place."
        ) from error


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """The Optuna storage at a URL, without Optuna's chatter.

    SQLite writes ahead to a log: a commit then costs no wait for the disk, and what was committed still
    survives the death of the process, and is whole after that of the machine.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    if _sqlite_path(url) is None:
        return optuna.storages.get_storage(url)
    storage = optuna.storages.RDBStorage(url)
    sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return optuna.storages.get_storage(storage)


def _write_ahead(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


@contextlib.contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Turns what the database and Optuna raise into errors with a remedy, never showing a password."""
    place = masked(url)
    try:
        yield
    except TunerError:
        raise
    except sqlalchemy.exc.ArgumentError as error:
        raise UsageError(
            f"{place} is no storage URL. Write for example sqlite:///study.db or postgresql://user@host/database."
        ) from error
    except (ModuleNotFoundError, ImportError) as error:
        raise UsageError(
            f"The storage {place} needs a driver that is not installed ({error.name}). "
            "For PostgreSQL: pip install 'serving-tuner[postgresql]'."
        ) from error
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        cause = str(getattr(error.__cause__ or error, "orig", None) or error.__cause__ or error).splitlines()[0]
        raise StorageError(f"The storage {place} refused: {cause} {_remedy(cause)}".rstrip()) from error


def _remedy(cause: str) -> str:
    text = cause.lower()
    if "full" in text or "disk i/o" in text:
        return "Free some space; the study goes on where it was when the same command runs again."
    if "unable to open" in text:
        return "Check that its folder exists and can be written."
    if "readonly" in text or "read-only" in text:
        return "Make the file writable, or choose another storage."
    if "locked" in text:
        return "Another program holds the database; run the same command again."
    if "not a database" in text:
        return "That file is something else; choose another name."
    return ""
