"""Search spaces: conditions, rules, and what a configuration of them is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import SpaceError, UnknownNameError
from tuner.parameter import DEVICE, Condition, Config, Parameter, Scale, Value
from tuner.space import Rule, Space


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Spaces with a device, up to five parameters, conditions on earlier ones, and a rule on two."""
    devices = draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
    parameters = [Parameter(name=DEVICE, values=tuple(devices), default=devices[0])]
    for number in range(draw(st.integers(1, 5))):
        domain: list[Value]
        if draw(st.booleans()):
            scale, domain = Scale.LINEAR, sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=4)))
        else:
            scale, domain = Scale.CATEGORICAL, draw(st.permutations(["x", "y", "z"]))
        conditions: tuple[Condition, ...] = ()
        if draw(st.booleans()):
            other = draw(st.sampled_from(parameters))
            wanted = draw(st.lists(st.sampled_from(other.values), min_size=1, unique=True))
            conditions = (Condition(parameter=other.name, values=tuple(wanted)),)
        parameters.append(
            Parameter(
                name=f"p{number}",
                values=tuple(domain),
                default=draw(st.sampled_from(domain)),
                scale=scale,
                active_when=conditions,
            )
        )
    first, last = parameters[0], parameters[-1]
    rule = Rule(
        over=(first.name, last.name),
        holds=lambda **values: not (values[first.name] == first.values[-1] and values[last.name] == last.values[0]),
        says="the last device does not take the first value",
    )
    return Space(parameters=tuple(parameters), rules=(rule,))


@st.composite
def points(draw: st.DrawFn) -> tuple[Space, dict[str, Value]]:
    """A space with a value for every parameter."""
    space = draw(spaces())
    return space, {parameter.name: draw(st.sampled_from(parameter.values)) for parameter in space.parameters}


@given(point=points())
def test_a_configuration_survives_being_completed(point: tuple[Space, dict[str, Value]]) -> None:
    space, values = point
    config = space.config(values)
    assert space.config(space.complete(config)) == config


@given(point=points())
def test_a_configuration_holds_exactly_its_active_parameters(point: tuple[Space, dict[str, Value]]) -> None:
    space, values = point
    config = space.config(values)
    for parameter in space.parameters:
        active = all(condition.holds(config.values) for condition in parameter.active_when)
        assert (parameter.name in config) == active
        if active:
            assert config[parameter.name] == values[parameter.name]


@given(point=points())
def test_inactive_values_make_no_difference(point: tuple[Space, dict[str, Value]]) -> None:
    space, values = point
    config = space.config(values)
    assert space.config({**values, **{n: space[n].default for n in space.names if n not in config}}) == config


@given(point=points())
def test_violations_are_the_rules_that_do_not_hold(point: tuple[Space, dict[str, Value]]) -> None:
    space, values = point
    config = space.config(values)
    first, last = space.parameters[0], space.parameters[-1]
    broken = config.get(first.name) == first.values[-1] and config.get(last.name) == last.values[0]
    assert space.violations(config) == (("the last device does not take the first value",) if broken else ())


@given(space=spaces())
def test_the_default_has_the_defaults_of_the_active_parameters(space: Space) -> None:
    assert all(space.default[name] == space[name].default for name in space.default)
    assert space.default.device == space[DEVICE].default


def _space(*parameters: Parameter, rules: tuple[Rule, ...] = ()) -> Space:
    return Space(parameters=(Parameter(name=DEVICE, values=("cpu",), default="cpu"), *parameters), rules=rules)


def test_a_space_that_contradicts_itself_is_refused() -> None:
    threads = Parameter(name="threads", values=(1, 2), default=1)
    with pytest.raises(SpaceError, match="given twice"):
        _space(threads, threads)
    with pytest.raises(SpaceError, match="no parameter 'device'"):
        Space(parameters=(threads,))
    late = Parameter(name="x", values=(1,), default=1, active_when=(Condition(parameter="y", values=(1,)),))
    with pytest.raises(SpaceError, match="depends on 'y'"):
        _space(late, Parameter(name="y", values=(1,), default=1))
    with pytest.raises(SpaceError, match="speaks of 'y'"):
        _space(threads, rules=(Rule(over=("y",), holds=lambda y: True, says="y is good"),))


def test_values_that_are_missing_unknown_or_outside_are_refused() -> None:
    space = _space(Parameter(name="threads", values=(1, 2), default=1))
    with pytest.raises(SpaceError, match="does not set 'threads'"):
        space.config({"device": "cpu"})
    with pytest.raises(SpaceError, match="has no value 3"):
        space.config({"device": "cpu", "threads": 3})
    with pytest.raises(UnknownNameError, match="Did you mean 'threads'"):
        space.config({"device": "cpu", "thread": 1})
    assert space.config({"device": "cpu", "threads": 2}) == Config({"device": "cpu", "threads": 2})
