"""The search space of a study: the engine's, with the domains that the user sets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tuner.errors import SpaceError, UnknownNameError, did_you_mean
from tuner.parameter import DEVICE, Parameter, Scale, Value
from tuner.ports import SearchSpace
from tuner.space import Space
from tuner.study.definition import Override, Study

_MOST_VALUES: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A range of numbers, as a study file states it.

    Attributes:
        low, high: both ends belong to it.
        step: the values are low, low + step…; `factor`: low, low factor…; with neither, the engine's own
            values between the ends, and the ends.
    """

    low: float
    high: float
    step: float | None = None
    factor: float | None = None


def study_space(study: Study, engine: SearchSpace) -> Space:
    """The space that a study searches.

    Raises:
        SpaceError: an override does not fit the engine's parameters.
        UsageError: what the engine's `space` raises.
    """
    return apply_overrides(engine.space(study.task), study.search.overrides)


def apply_overrides(space: Space, overrides: Iterable[Override]) -> Space:
    """`space` with the domains that the user set.

    A domain may go beyond the engine's own, since the user may know more; its values must be of the
    parameter's kind, and texts among those the engine knows. A default that is left out moves to the
    value nearest to it.

    Raises:
        SpaceError: an override does not fit its parameter.
        UnknownNameError: a parameter does not exist.
    """
    parameters = {parameter.name: parameter for parameter in space.parameters}
    for override in overrides:
        parameters[override.parameter] = overridden(tunable(space, override.parameter), override.values)
    return replace(space, parameters=tuple(parameters.values()))


def tunable(space: Space, name: str) -> Parameter:
    """The parameter called `name`, which a user may override.

    Raises:
        SpaceError: it is the device, which is chosen elsewhere.
        UnknownNameError: there is none.
    """
    if name == DEVICE:
        raise SpaceError("'device' is no parameter to set here. List the device types under devices.")
    if name not in space.names:
        raise UnknownNameError("parameter", name, set(space.names) - {DEVICE})
    return space[name]


def overridden(parameter: Parameter, values: Sequence[Value]) -> Parameter:
    """`parameter` with another domain.

    Raises:
        SpaceError: see `apply_overrides`.
    """
    fitted = [_fitted(parameter, value) for value in values]
    if len({(type(value), value) for value in fitted}) != len(fitted):
        raise SpaceError(f"{parameter.name!r} lists a value twice: {_listed(values)}. List each once.")
    if parameter.scale is not Scale.CATEGORICAL:
        fitted.sort(key=float)  # numbers, by _fitted
    default = parameter.default if parameter.default in fitted else _nearest(parameter, fitted)
    return replace(parameter, values=tuple(fitted), default=default)


def values_in(parameter: Parameter, wanted: Range) -> tuple[Value, ...]:
    """The values of a parameter that a range stands for.

    Raises:
        SpaceError: the parameter is no number, or the range is empty or has too many values.
    """
    own = [value for value in parameter.values if isinstance(value, int | float) and not isinstance(value, bool)]
    if not own:
        raise SpaceError(
            f"{parameter.name!r} is no number, so it has no range. Write values among {_listed(parameter.values)}."
        )
    low, high = wanted.low, wanted.high
    if low > high:
        raise SpaceError(f"The range from {low:g} to {high:g} is empty. Write low <= high.")
    if wanted.step is not None and wanted.factor is not None:
        raise SpaceError("The range has a step and a factor. Write one of them.")
    whole = all(isinstance(value, int) for value in own)
    if wanted.step is not None:
        _bound(parameter, (high - low) / wanted.step)
        numbers = [low + position * wanted.step for position in range(int((high - low) / wanted.step + 1e-9) + 1)]
    elif wanted.factor is not None:
        if low <= 0:
            raise SpaceError(f"A range by factors cannot start at {low:g}. Write low above 0, or a step.")
        span = math.log(high / low) / math.log(wanted.factor)
        _bound(parameter, span)
        numbers = [low * wanted.factor**position for position in range(int(span + 1e-9) + 1)]
    else:
        numbers = sorted({low, high, *(float(value) for value in own if low <= value <= high)})
    if not whole:
        return tuple(float(f"{number:.12g}") for number in numbers)
    return tuple(dict.fromkeys(_whole(parameter, number, exact=wanted.factor is None) for number in numbers))


def _bound(parameter: Parameter, steps: float) -> None:
    if not steps < _MOST_VALUES:
        raise SpaceError(f"The range of {parameter.name!r} has more than {_MOST_VALUES} values. Write a larger step.")


def _whole(parameter: Parameter, number: float, exact: bool) -> int:
    if exact and number != round(number):
        raise SpaceError(
            f"{parameter.name!r} takes whole numbers, but its range holds {number:g}. Write whole numbers."
        )
    return round(number)


def _fitted(parameter: Parameter, value: Value) -> Value:
    """`value` as the parameter's domain writes it: `1.0` becomes 1 among whole numbers."""
    own = parameter.values
    if isinstance(value, bool):
        if any(isinstance(known, bool) for known in own):
            return value
        raise _misfit(parameter, value)
    if isinstance(value, str):
        if value in own:
            return value
        texts = [known for known in own if isinstance(known, str)]
        if texts:
            raise SpaceError(f"{parameter.name!r} has no value {value!r}. {did_you_mean(value, texts)}")
        raise _misfit(parameter, value)
    numbers = [known for known in own if isinstance(known, int | float) and not isinstance(known, bool)]
    if not numbers:
        raise _misfit(parameter, value)
    if all(isinstance(known, int) for known in numbers):
        if value != int(value):
            raise SpaceError(f"{parameter.name!r} takes whole numbers, not {value:g}. Write {round(value)}.")
        value = int(value)
    if value < 0 <= min(numbers):
        raise SpaceError(f"{parameter.name!r} cannot be {value:g}. Write 0 or more.")
    if value == 0 < min(numbers):
        raise SpaceError(f"{parameter.name!r} cannot be 0. Write a value above 0.")
    return value


def _misfit(parameter: Parameter, value: Value) -> SpaceError:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return SpaceError(f"{parameter.name!r} cannot be {shown}. Write values such as {_listed(parameter.values)}.")


def _listed(values: Sequence[Value]) -> str:
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values[:8]]
    return ", ".join(texts) + (", …" if len(values) > len(texts) else "")


def _nearest(parameter: Parameter, values: Sequence[Value]) -> Value:
    default = parameter.default
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if isinstance(default, bool) or not isinstance(default, int | float) or not numbers:
        return values[0]
    logarithmic = parameter.scale is Scale.LOG and default > 0

    def distance(value: float) -> float:
        if logarithmic:
            return abs(math.log(value / default)) if value > 0 else math.inf
        return abs(value - default)

    return min(numbers, key=distance)
