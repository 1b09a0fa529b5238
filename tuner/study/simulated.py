"""One configuration of a study in detail, simulated with the study's own traffic."""

from __future__ import annotations

from collections.abc import Mapping

from tuner.cost import with_costs
from tuner.errors import Fault, SpaceError, StudyFileError, TunerError, UnpredictableError, did_you_mean
from tuner.parameter import DEVICE, Config, Parameter, Value
from tuner.ports import Predictable
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.study import adapters
from tuner.study.definition import Override, Study
from tuner.study.device_models import device_model
from tuner.study.space import apply_overrides, study_space
from tuner.trial import Estimate, Measurement, Origin

_LARGEST = 2**53
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


def simulate(study: Study, config: Config) -> Measurement:
    """What a trial of `config` would show, from a simulation of the server under the study's traffic.

    Args:
        study: what is tuned.
        config: one of its configurations; values outside the study's domains are allowed.

    Returns:
        A measurement whose origin is simulated; it has no windows, and no intervals.

    Raises:
        UnpredictableError: the engine, the model or the device is not understood, or the configuration cannot run.
    """
    engine = adapters.search_space(study.engine.name, study.engine.options)
    if not isinstance(engine, Predictable):
        raise UnpredictableError(
            f"The engine {study.engine.name!r} does not say what its parameters mean to a server, so it cannot be "
            "simulated. Simulations are made for triton and vllm."
        )
    served = engine.served_model(study.task)
    device = study.task.device(config.device)
    load = device_model(served, device, study.plan).simulate(served.serving(config))
    measured = Measurement(
        metrics={str(ref): Estimate.exact(value) for ref, value in sorted(load.metrics.items(), key=str)},
        sent=load.sent,
        completed=load.completed,
        origin=Origin.SIMULATED,
    )
    return with_costs(measured, device)


def configured(study: Study, texts: Mapping[str, str]) -> Config:
    """The engine's default configuration with some parameters set, as `--set` writes them.

    Raises:
        StudyFileError: a parameter is unknown, a value is none of its, or they contradict one another; all faults.
    """
    engine = adapters.search_space(study.engine.name, study.engine.options)
    space = study_space(study, engine)
    faults: list[Fault] = []
    values: dict[str, Value] = {}
    for name, text in texts.items():
        if name not in space.names:
            problem = f"There is no parameter {name!r}."
            faults.append(Fault(where=name, problem=problem, remedy=did_you_mean(name, space.names)))
            continue
        try:
            values[name] = _value(space[name], text)
            if name != DEVICE:
                space = apply_overrides(space, [Override(parameter=name, values=_with(space, name, values[name]))])
            else:
                space[name].index(values[name])
        except TunerError as error:
            values.pop(name, None)
            faults.append(Fault(where=name, problem=str(error), remedy=""))
    config = _completed(space, values)
    for name in values:
        if name not in config.values and not faults:
            conditions = " and ".join(
                f"{condition.parameter} in {', '.join(map(str, condition.values))}"
                for condition in space[name].active_when
            )
            faults.append(Fault(where=name, problem=f"It has no effect unless {conditions}.", remedy="Set that too."))
    if not faults:
        faults += [Fault(where="", problem=f"The combination is not valid: {says}.", remedy="")
                   for says in space.violations(config)]  # fmt: skip
    if faults:
        raise StudyFileError("--set", faults)
    return config


def _with(space: Space, name: str, value: Value) -> tuple[Value, ...]:
    """The parameter's domain, widened by `value` where the user knows more."""
    known = space[name].values
    if any(type(value) is type(each) and value == each for each in known):
        return known
    return (*known, value)


def _completed(space: Space, values: Mapping[str, Value]) -> Config:
    """The valid default on the device type asked for, with the values set."""
    candidates = Candidates.of(space, limit=100_000)
    default = candidates.config(candidates.default_position)
    return space.config({**space.complete(default), **values})


def _value(parameter: Parameter, text: str) -> Value:
    """A value of the parameter's kind."""
    sample = parameter.values[0]
    if isinstance(sample, bool):
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise SpaceError(f"{text!r} is neither true nor false.")
    if isinstance(sample, str):
        if text in parameter.values:
            return text
        raise SpaceError(f"{text!r} is none of its values. {did_you_mean(text, [str(v) for v in parameter.values])}")
    try:
        number = float(text)
    except ValueError:
        raise SpaceError(f"{text!r} is no number. Write for example {sample}.") from None
    if not abs(number) <= _LARGEST:
        raise SpaceError(f"{text} is beyond all numbers of use. Write for example {sample}.")
    whole = all(isinstance(each, int) for each in parameter.values)
    if whole and number != int(number):
        raise SpaceError(f"{text} is no whole number. Write {round(number)}.")
    return int(number) if whole else number
