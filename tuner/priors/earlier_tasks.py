"""Priors as the earlier tasks of a study: what overlaps is used, what does not is said."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tuner.device import DeviceType
from tuner.metric import Metric, MetricRef
from tuner.objective import Objective
from tuner.parameter import DEVICE, Config, Scale, Value
from tuner.priors.prior_task import PriorTask, PriorTrial
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.listed_problem import EarlierTask

_RATES = {
    Metric.COST_PER_MILLION_REQUESTS.value: (Metric.MAX_ARRIVAL_RATE.value, Metric.THROUGHPUT.value),
    Metric.COST_PER_MILLION_TOKENS.value: (Metric.OUTPUT_THROUGHPUT.value,),
}
"""By cost, the rates that it may be over: the first one that a trial has (see `tuner.cost`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsablePriors:
    """What of some priors speaks of a study.

    Attributes:
        tasks: as earlier tasks.
        priors: that they are of.
        devices: what each device type is, by its name in the tasks and in the study (see `device_shape`).
        notes: for people, what was left out and why.
    """

    tasks: tuple[EarlierTask, ...]
    priors: tuple[PriorTask, ...]
    devices: Mapping[str, Mapping[str, Value]]
    notes: tuple[str, ...]


def usable_priors(
    priors: Iterable[PriorTask],
    space: Space,
    objective: Objective,
    slos: Sequence[Slo],
    devices: Sequence[DeviceType] = (),
) -> UsablePriors:
    """What of `priors` speaks of this study.

    A parameter that a prior does not have stands at the engine's default; one that the space does not have is
    ignored, with a note, as are trials that set a word where the space has numbers. A prior without the objective's
    metric, or without any parameter that is searched, is left out. A device of the prior that is one of `devices` by
    another name, or the only one where there is only one here, counts as that one, and what it costs is computed from
    the rates at today's prices.
    """
    tasks, kept, notes = [], [], []
    shapes: dict[str, Mapping[str, Value]] = {}
    searched = {parameter.name for parameter in space.parameters if len(parameter.values) > 1} - {DEVICE}
    for prior in priors:
        here, unreadable = _readable(_at_home(prior, devices), space)
        notes += unreadable
        foreign = sorted(set(here.parameters) - set(space.names))
        if not searched & set(here.parameters) or str(objective.metric) not in here.metrics:
            missing = f"no {objective.metric}" if searched & set(here.parameters) else "no parameter that is searched"
            notes.append(f"prior {prior.name}: left out, it has {missing}")
            continue
        if foreign:
            notes.append(f"prior {prior.name}: {', '.join(foreign)} ignored, no parameter of this space")
        tasks.append(_earlier_task(here, space, objective.metric, [slo.metric for slo in slos]))
        kept.append(prior)
        shapes |= here.devices
    shapes |= {device.name: device_shape(device) for device in devices}
    return UsablePriors(tasks=tuple(tasks), priors=tuple(kept), devices=shapes, notes=tuple(notes))


def prior_of_trials(
    name: str,
    source: str,
    space: Space,
    trials: Iterable[tuple[Config, Mapping[str, float]]],
    *,
    engine: str = "",
    devices: Sequence[DeviceType] = (),
    features: Mapping[str, float] | None = None,
) -> PriorTask:
    """The trials of a study as a prior: configurations and numbers, nothing of the model.

    Args:
        name, source: of the prior.
        space: of the study.
        trials: what was tried, and its metrics by name; none where it did not run.
        engine: of the study.
        devices: of the study.
        features: numbers that describe the model (`tuner.make_up`).
    """
    return PriorTask(
        name=name,
        source=source,
        engine=engine,
        devices={device.name: device_shape(device) for device in devices},
        parameters={parameter.name: parameter.scale for parameter in space.parameters},
        trials=tuple(
            PriorTrial(
                config=dict(config.values),
                metrics={metric: value for metric, value in metrics.items() if math.isfinite(value)},
            )
            for config, metrics in trials
        ),
        features=features or {},
    )


def device_shape(device: DeviceType) -> dict[str, Value]:
    """What a device type is, whatever it is called and costs."""
    shape: dict[str, Value | None] = {
        "kind": device.kind.value,
        "cpus": device.cpus,
        "gpus": device.gpus or None,
        "gpu_model": device.gpu_model,
        "gpu_memory_bytes": device.gpu_memory_bytes,
    }
    return {name: value for name, value in shape.items() if value is not None}


def _readable(prior: PriorTask, space: Space) -> tuple[PriorTask, list[str]]:
    """The prior without the trials that set a word where the space has numbers, and a note on them."""
    numeric = [parameter.name for parameter in space.parameters if parameter.scale is not Scale.CATEGORICAL]
    words = [
        f"{name}={trial.config[name]}"
        for trial in prior.trials
        for name in numeric
        if isinstance(trial.config.get(name), str)
    ]
    if not words:
        return prior, []
    kept = tuple(t for t in prior.trials if not any(isinstance(t.config.get(name), str) for name in numeric))
    left = len(prior.trials) - len(kept)
    return replace(prior, trials=kept), [
        f"prior {prior.name}: {left} trials left out, {words[0]} is no number, as this space has there"
    ]


def _at_home(prior: PriorTask, devices: Sequence[DeviceType]) -> PriorTask:
    """The prior with its devices called as here, and costs at today's prices."""
    names = {name: _name_here(name, shape, prior.name, devices) for name, shape in prior.devices.items()}
    if len(devices) == 1 and len(names) == 1:
        # Neither study chose between devices: that theirs was another is a matter of the task's level.
        names = dict.fromkeys(names, devices[0].name)
    prices = {device.name: device.price_per_second for device in devices}
    trials = []
    for trial in prior.trials:
        was = str(trial.config.get(DEVICE, ""))
        device = names.get(was, was)
        config = {**trial.config, DEVICE: device} if DEVICE in trial.config else trial.config
        metrics = dict(trial.metrics)
        if was in names and prices.get(device):
            metrics |= {
                cost: prices[device] * 1e6 / rate
                for cost, rates in _RATES.items()
                if (rate := next((metrics[name] for name in rates if name in metrics), 0.0)) > 0
            }
        trials.append(PriorTrial(config=config, metrics=metrics))
    return replace(prior, devices={names[name]: shape for name, shape in prior.devices.items()}, trials=tuple(trials))


def _name_here(name: str, shape: Mapping[str, Value], prior: str, devices: Sequence[DeviceType]) -> str:
    alike = [device.name for device in devices if device_shape(device) == dict(shape)]
    if alike:
        return name if name in alike else alike[0]
    # Another device that happens to be called as one of ours.
    return f"{name} ({prior})" if any(device.name == name for device in devices) else name


def _earlier_task(prior: PriorTask, space: Space, objective: MetricRef, bounds: Sequence[MetricRef]) -> EarlierTask:
    def row(trial: PriorTrial) -> tuple[Value, ...]:
        return tuple(trial.config.get(parameter.name, parameter.default) for parameter in space.parameters)

    def column(metric: MetricRef) -> list[float]:
        return [trial.metrics.get(str(metric), np.nan) for trial in prior.trials]

    shape = len(bounds), len(prior.trials)
    return EarlierTask(
        name=(prior.name,),
        rows=tuple(row(trial) for trial in prior.trials),
        ran=np.array([str(objective) in trial.metrics for trial in prior.trials], dtype=bool),
        objective=np.array(column(objective), dtype=float),
        constraints=np.array([column(metric) for metric in bounds], dtype=float).reshape(shape).T,
        features=prior.features,
    )
