"""Search spaces: parameters, the rules that tie them, and which configurations are valid.

A rule speaks of a few named parameters only, so its truth table over their values is small; that is
what lets `tuner.strategies.candidates` enumerate millions of configurations with array operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuner.errors import SpaceError, UnknownNameError
from tuner.parameter import DEVICE, Config, Parameter, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A constraint that is known before anything runs.

    Attributes:
        over: names of the parameters that the rule speaks of (`device` may be one of them).
        holds: called with those parameters by keyword, `None` for an inactive one; true where valid.
        says: why it must hold, for people: "max_num_batched_tokens must be at least max_num_seqs".
    """

    over: tuple[str, ...]
    holds: Callable[..., bool]
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be set, and which combinations are valid.

    Attributes:
        parameters: in the order people read them; a parameter follows those its conditions name.
            The one called `device` is always present.
        rules: all must hold.

    Raises:
        SpaceError: a name is given twice, a condition or rule names an unknown or later parameter,
            or there is no `device`.
    """

    parameters: tuple[Parameter, ...]
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for parameter in self.parameters:
            if parameter.name in seen:
                raise SpaceError(f"Parameter {parameter.name!r} is given twice. Remove one.")
            for condition in parameter.active_when:
                if condition.parameter not in seen:
                    raise SpaceError(
                        f"Parameter {parameter.name!r} depends on {condition.parameter!r}, which must come before it."
                    )
            seen.add(parameter.name)
        if DEVICE not in seen:
            raise SpaceError("The space has no parameter 'device'. Add one whose values are the device types' names.")
        for rule in self.rules:
            for name in rule.over:
                if name not in seen:
                    raise SpaceError(f"The rule {rule.says!r} speaks of {name!r}, which is no parameter of the space.")

    def __getitem__(self, name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        raise UnknownNameError("parameter", name, self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def size(self) -> int:
        """Number of combinations before conditions and rules: an upper bound of the valid ones."""
        return math.prod(len(parameter.values) for parameter in self.parameters)

    @property
    def default(self) -> Config:
        """The engine's own defaults, on the first device type; it need not satisfy the rules."""
        return self.config({parameter.name: parameter.default for parameter in self.parameters})

    def config(self, values: Mapping[str, Value]) -> Config:
        """The configuration that full `values` mean: inactive parameters are dropped.

        Raises:
            SpaceError: an active parameter is missing, or a value is outside its domain.
            UnknownNameError: a name is no parameter.
        """
        known = set(self.names)
        for name in values:
            if name not in known:
                self[name]
        active: dict[str, Value] = {}
        for parameter in self.parameters:
            if not all(condition.holds(active) for condition in parameter.active_when):
                continue
            if parameter.name not in values:
                raise SpaceError(f"The configuration does not set {parameter.name!r}.")
            active[parameter.name] = parameter.values[parameter.index(values[parameter.name])]
        return Config(active)

    def complete(self, config: Config) -> dict[str, Value]:
        """Every parameter's value, inactive ones at their default; `config` undoes it."""
        return {
            parameter.name: config.get(parameter.name, parameter.default)  # type: ignore[misc]
            for parameter in self.parameters
        }

    def violations(self, config: Config) -> tuple[str, ...]:
        """What is wrong with a configuration, rule by rule; empty when it is valid."""
        return tuple(
            rule.says for rule in self.rules if not rule.holds(**{name: config.get(name) for name in rule.over})
        )
