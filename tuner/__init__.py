"""serving-tuner: the cheapest model-server configuration that meets an SLO, in a handful of real trials.

Example::

    import tuner

    study = tuner.load_study("study.yaml")
    result = tuner.tune(study, on_trial=print)
    if result.best is not None:
        result.export("compose", "deploy/")

The public names are those of `__all__`; they are loaded when first used, so that adapters and the load
generator, which need the ground floor alone, start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.errors import StudyFileError, TunerError
    from tuner.parameter import Config
    from tuner.study.api import load_result, tune
    from tuner.study.definition import Study
    from tuner.study.file import load_study
    from tuner.study.loop import Ask, Tuner
    from tuner.study.predictions import Predictions, predict
    from tuner.study.record import TrialRecord
    from tuner.study.result import Result
    from tuner.study.simulated import simulate
    from tuner.trial import Infeasible, Measurement

__all__ = [
    "Ask",
    "Config",
    "Infeasible",
    "Measurement",
    "Predictions",
    "Result",
    "Study",
    "StudyFileError",
    "TrialRecord",
    "Tuner",
    "TunerError",
    "load_result",
    "load_study",
    "predict",
    "simulate",
    "tune",
]

_HOMES = {
    "Ask": "tuner.study.loop",
    "Config": "tuner.parameter",
    "Infeasible": "tuner.trial",
    "Measurement": "tuner.trial",
    "Predictions": "tuner.study.predictions",
    "Result": "tuner.study.result",
    "Study": "tuner.study.definition",
    "StudyFileError": "tuner.errors",
    "TrialRecord": "tuner.study.record",
    "Tuner": "tuner.study.loop",
    "TunerError": "tuner.errors",
    "load_result": "tuner.study.api",
    "load_study": "tuner.study.file",
    "predict": "tuner.study.predictions",
    "simulate": "tuner.study.simulated",
    "tune": "tuner.study.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuner' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
