"""Priors as the earlier tasks of a study: what overlaps is used, what does not is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Config, Value
from tuner.priors.prior_task import PriorTask, PriorTrial
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.listed_problem import EarlierTask


@dataclass(frozen=True, slots=True, kw_only=True)
class UsablePriors:
    """Earlier tasks for a study, and for people what was left out and why."""

    tasks: tuple[EarlierTask, ...]
    notes: tuple[str, ...]


def usable_priors(priors: Iterable[PriorTask], space: Space, objective: Objective, slos: Sequence[Slo]) -> UsablePriors:
    """What of `priors` speaks of this study.

    A parameter that a prior does not have stands at the engine's default; one that the space does not have is
    ignored, with a note. A prior without the objective's metric, or without any parameter of the space, is left out.
    """
    tasks, notes = [], []
    for prior in priors:
        shared = [name for name in space.names if name in prior.parameters]
        foreign = sorted(set(prior.parameters) - set(shared))
        if not shared or str(objective.metric) not in prior.metrics:
            missing = f"no {objective.metric}" if shared else "no parameter of this space"
            notes.append(f"prior {prior.name}: left out, it has {missing}")
            continue
        if foreign:
            notes.append(f"prior {prior.name}: {', '.join(foreign)} ignored, no parameter of this space")
        tasks.append(_earlier_task(prior, space, objective.metric, [slo.metric for slo in slos]))
    return UsablePriors(tasks=tuple(tasks), notes=tuple(notes))


def _earlier_task(prior: PriorTask, space: Space, objective: MetricRef, bounds: Sequence[MetricRef]) -> EarlierTask:
    def row(trial: PriorTrial) -> tuple[Value, ...]:
        return tuple(trial.config.get(parameter.name, parameter.default) for parameter in space.parameters)

    def column(metric: MetricRef) -> list[float]:
        return [trial.metrics.get(str(metric), np.nan) for trial in prior.trials]

    return EarlierTask(
        name=(prior.name,),
        rows=tuple(row(trial) for trial in prior.trials),
        ran=np.array([str(objective) in trial.metrics for trial in prior.trials], dtype=bool),
        objective=np.array(column(objective), dtype=float),
        constraints=np.array([column(metric) for metric in bounds], dtype=float).reshape(len(bounds), -1).T,
        features=prior.features,
    )


def prior_of_trials(
    name: str, source: str, space: Space, trials: Iterable[tuple[Config, Mapping[str, float]]]
) -> PriorTask:
    """The trials of a study as a prior: configurations and numbers, nothing of the model.

    Args:
        name, source: of the prior.
        space: of the study.
        trials: what was tried, and its metrics by name; none where it did not run.
    """
    return PriorTask(
        name=name,
        source=source,
        parameters={parameter.name: parameter.scale for parameter in space.parameters},
        trials=tuple(
            PriorTrial(
                config=dict(config.values),
                metrics={metric: value for metric, value in metrics.items() if math.isfinite(value)},
            )
            for config, metrics in trials
        ),
    )
