"""The library's front door."""

from __future__ import annotations

from collections.abc import Callable

from tuner.study.definition import Study, study_from_json
from tuner.study.event import Event, TrialEnded
from tuner.study.loop import Tuner
from tuner.study.record import TrialRecord
from tuner.study.result import Result
from tuner.study.store import stored_definition


def tune(study: Study, on_trial: Callable[[TrialRecord], object] | None = None) -> Result:
    """Carries a study out, or goes on with it where an earlier run left off.

    Args:
        study: what to tune (`tuner.load_study`).
        on_trial: called with each trial as it ends.

    Returns:
        What has been found; `result.best` is `None` when no configuration meets the SLO.

    Raises:
        UsageError: the study cannot be carried out here; nothing has been started.
        RunError: the storage refused, or trials failed by a fault that is not the configuration's.
    """

    def watch(event: Event) -> None:
        if on_trial is not None and isinstance(event, TrialEnded):
            on_trial(event.record)

    return Tuner(study, watch=watch).run()


def load_result(study: Study | str, storage: str | None = None) -> Result:
    """What a study has found so far, without running anything.

    Args:
        study: the study, or its name together with the `storage` URL that holds it.

    Raises:
        UsageError: the storage holds no such study.
        StudyMismatchError: it holds a different one under that name.
    """
    if isinstance(study, str):
        if storage is None:
            raise TypeError("a study by name needs its storage")
        study = study_from_json(stored_definition(study, storage), storage)
    return Tuner(study, create=False).result()
