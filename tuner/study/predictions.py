"""What a study may expect, without running anything: the best configurations, and why others are ruled out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from tuner.errors import UsageError
from tuner.parameter import Config
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.study import adapters
from tuner.study.definition import Study
from tuner.study.forecast import Exclusion, Forecast, Prospect
from tuner.study.record import TrialRecord
from tuner.study.space import study_space
from tuner.study.store import StudyStore
from tuner.study.study_calibration import calibrated

LIMIT: Final = 100_000
"""Configurations that are predicted where nothing else waits for it."""
_MOST_COMBINATIONS: Final = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What is predicted of a study.

    Attributes:
        study: which.
        default: the engine's default configuration, or the valid one nearest to it.
        best: by device type, the best configurations, best first.
        exclusions: why configurations are ruled out, with counts among those looked at.
        invalid: rules of the engine, each with how many combinations of all parameters it rules out.
        looked_at, valid: configurations predicted, and valid ones.
        origins: by device type, where its times come from.
        silent: by device type of which nothing can be predicted, why.
        calibrated_on: measured trials of this study that the numbers are corrected by.
    """

    study: Study
    default: Config
    best: Mapping[str, tuple[Prospect, ...]]
    exclusions: tuple[Exclusion, ...]
    invalid: Mapping[str, int]
    looked_at: int
    valid: int
    origins: Mapping[str, str]
    silent: Mapping[str, str]
    calibrated_on: int


def predict(study: Study, count: int = 5, limit: int = LIMIT) -> Predictions:
    """The configurations of a study that are predicted best on each device type; nothing is started.

    Where the study has measured trials already, predictions are corrected by them.

    Args:
        study: what is tuned.
        count: configurations per device type.
        limit: configurations looked at; of a larger space a random part of this size is.

    Raises:
        UnpredictableError: nothing can be predicted of its engine, model or devices.
        UsageError: the study contradicts itself.
    """
    if count < 1:
        raise UsageError(f"The best {count} configurations are none. Write 1 or more.")
    engine = adapters.search_space(study.engine.name, study.engine.options)
    space = study_space(study, engine)
    candidates = Candidates.of(space, seed=study.search.seed)
    forecast = Forecast(study, engine, candidates, limit=limit)
    records = [record for record in _records(study, space) if record.measurement is not None and record.predicted]
    best = {}
    for device in study.task.devices:
        prospects = forecast.best(count, device.name)
        best[device.name] = tuple(
            replace(each, metrics=calibrated(space, each.config, each.metrics, records)) if records else each
            for each in prospects
        )
    return Predictions(
        study=study,
        default=candidates.config(candidates.default_position),
        best=best,
        exclusions=tuple(forecast.exclusions()),
        invalid=invalid_combinations(space),
        looked_at=len(forecast.positions),
        valid=len(candidates),
        origins=forecast.origins,
        silent=forecast.silent,
        calibrated_on=len({record.config for record in records}),
    )


def invalid_combinations(space: Space) -> dict[str, int]:
    """By rule, how many combinations of all parameters it alone rules out, most first."""
    found = {}
    for rule in space.rules:
        parameters = [space[name] for name in dict.fromkeys(rule.over)]
        size = math.prod(len(parameter.values) for parameter in parameters)
        if not 0 < size <= _MOST_COMBINATIONS:
            continue
        names = [parameter.name for parameter in parameters]
        broken = sum(
            not rule.holds(**dict(zip(names, values, strict=True)))
            for values in itertools.product(*(parameter.values for parameter in parameters))
        )
        if broken:
            found[rule.says] = round(broken / size * space.size)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _records(study: Study, space: Space) -> list[TrialRecord]:
    """Trials of the study so far; none where its storage does not hold it."""
    try:
        return StudyStore(study, space, create=False).records()
    except UsageError:
        return []
