"""Parameters of a model server, and the configurations they span.

Every parameter has a finite, listed domain: serving knobs are discrete, or tuned on a grid.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tuner.errors import SpaceError

Value = bool | int | float | str
"""What a parameter can be set to."""

BEYOND_USE: Final = 1e100
"""No setting and no measured number is as large; its square can still be computed."""

DEVICE: Final = "device"
"""Name of the parameter that every search space has: the device type's name."""


class Scale(enum.Enum):
    """How distances between a parameter's values are measured."""

    CATEGORICAL = "categorical"
    LINEAR = "linear"
    LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A parameter matters only where another one has one of some values.

    Attributes:
        parameter: name of the other parameter.
        values: its values under which the dependent parameter is active.
    """

    parameter: str
    values: tuple[Value, ...]

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the condition holds; an absent (inactive) parameter never satisfies it."""
        return self.parameter in values and values[self.parameter] in self.values


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One thing that may be set.

    Attributes:
        name: as the engine's users know it, snake case.
        values: the domain, distinct, in ascending order unless categorical.
        default: what the engine does when nothing is set; one of `values`.
        scale: how distances are measured.
        active_when: conditions that must all hold for the parameter to matter.
        says: one line for people.
    """

    name: str
    values: tuple[Value, ...]
    default: Value
    scale: Scale = Scale.CATEGORICAL
    active_when: tuple[Condition, ...] = ()
    says: str = ""

    def __post_init__(self) -> None:
        if not self.values:
            raise SpaceError(f"Parameter {self.name!r} has no values. List at least one.")
        if len({(type(value), value) for value in self.values}) != len(self.values):
            raise SpaceError(f"Parameter {self.name!r} lists a value twice: {list(self.values)}. List each once.")
        if self.default not in self.values:
            raise SpaceError(
                f"Parameter {self.name!r} has the default {self.default!r}, which is not among {list(self.values)}. "
                "Add it to the values or choose another default."
            )
        if self.scale is not Scale.CATEGORICAL:
            numbers = [value for value in self.values if isinstance(value, int | float) and not isinstance(value, bool)]
            if len(numbers) != len(self.values) or numbers != sorted(numbers):
                raise SpaceError(
                    f"Parameter {self.name!r} is on a {self.scale.value} scale, but its values are not ascending "
                    f"numbers: {list(self.values)}."
                )
            if self.scale is Scale.LOG and numbers[0] < 0:
                raise SpaceError(f"Parameter {self.name!r} is on a log scale, but goes down to {numbers[0]}.")

    def index(self, value: Value) -> int:
        """Position of `value` in the domain.

        Raises:
            SpaceError: the value is not in the domain.
        """
        for position, candidate in enumerate(self.values):
            if candidate == value and isinstance(candidate, bool) == isinstance(value, bool):
                return position
        raise SpaceError(f"Parameter {self.name!r} has no value {value!r}. Choose one of {list(self.values)}.")


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration: the values of the active parameters, `device` among them.

    Immutable, hashable, and equal when the values are; inactive parameters are absent.
    """

    values: Mapping[str, Value]
    _key: tuple[tuple[str, Value], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "_key", tuple(sorted(self.values.items())))

    def __getitem__(self, name: str) -> Value:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def device(self) -> str:
        """Name of the device type."""
        return str(self.values[DEVICE])

    def get(self, name: str, default: Value | None = None) -> Value | None:
        """The value of `name`, or `default` where the parameter is inactive."""
        return self.values.get(name, default)

    def differing(self, other: Config) -> tuple[str, ...]:
        """Names of the parameters in which two configurations differ, in name order."""
        names = sorted({*self.values, *other.values})
        return tuple(name for name in names if self.get(name) != other.get(name))

    def to_json(self) -> str:
        """Canonical JSON, the same for equal configurations."""
        return json.dumps(dict(self._key), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The configuration that `to_json` wrote."""
        return cls(json.loads(text))


def powers_of_two(low: int, high: int) -> tuple[int, ...]:
    """`low`, `2 low`, `4 low`… up to and including `high` where it is one of them."""
    values: list[int] = []
    value = low
    while value <= high:
        values.append(value)
        value *= 2
    return tuple(values)


def format_config(values: Mapping[str, Value], names: Sequence[str] | None = None) -> str:
    """`max_batch_size=8 instance_count=2`, in the order of `names` or as given."""
    keys = list(values) if names is None else [name for name in names if name in values]
    return " ".join(f"{key}={_show(values[key])}" for key in keys)


def _show(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
