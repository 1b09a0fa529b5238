"""Domains that the user sets, laid over an engine's own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import SpaceError, UnknownNameError
from tuner.parameter import DEVICE, Parameter, Scale, Value
from tuner.space import Space
from tuner.study.definition import Override
from tuner.study.space import Range, apply_overrides, overridden, values_in

NUMBERS = st.sets(st.integers(1, 512), min_size=1, max_size=6).map(lambda found: tuple(sorted(found)))


@st.composite
def numeric(draw: st.DrawFn) -> Parameter:
    values = draw(NUMBERS)
    scale = draw(st.sampled_from([Scale.LINEAR, Scale.LOG]))
    return Parameter(name="batch", values=values, default=draw(st.sampled_from(values)), scale=scale)


def _space(*parameters: Parameter) -> Space:
    return Space(parameters=(Parameter(name=DEVICE, values=("cpu",), default="cpu"), *parameters))


@given(parameter=numeric(), values=NUMBERS, data=st.data())
def test_the_new_domain_is_what_the_user_wrote_in_order(
    parameter: Parameter, values: tuple[int, ...], data: st.DataObject
) -> None:
    changed = overridden(parameter, data.draw(st.permutations(values)))
    assert changed.values == values
    assert changed.scale is parameter.scale
    assert changed.default in values


@given(parameter=numeric(), values=NUMBERS)
def test_the_default_stays_or_moves_to_the_nearest_value(parameter: Parameter, values: tuple[int, ...]) -> None:
    changed = overridden(parameter, values)
    if parameter.default in values:
        assert changed.default == parameter.default
    elif parameter.scale is Scale.LINEAR:
        assert isinstance(parameter.default, int)
        assert isinstance(changed.default, int)
        assert all(abs(changed.default - parameter.default) <= abs(value - parameter.default) for value in values)


@given(parameter=numeric())
def test_a_parameter_overridden_by_its_own_values_stays_as_it_is(parameter: Parameter) -> None:
    assert overridden(parameter, parameter.values) == parameter


@given(parameter=numeric(), low=st.integers(1, 512), more=st.integers(0, 512), by=st.integers(1, 100))
def test_ranges_keep_within_their_ends(parameter: Parameter, low: int, more: int, by: int) -> None:
    high = low + more
    own = values_in(parameter, Range(low=low, high=high))
    assert (own[0], own[-1]) == (low, high)
    assert {value for value in parameter.values if low <= float(value) <= high} <= set(own)
    assert values_in(parameter, Range(low=low, high=high, step=by)) == tuple(range(low, high + 1, by))
    factors = values_in(parameter, Range(low=low, high=high, factor=by + 1))
    assert factors == tuple(low * (by + 1) ** n for n in range(len(factors)))
    assert float(factors[-1]) <= high < float(factors[-1]) * (by + 1)


@pytest.mark.parametrize(
    ("domain", "values", "fitted"),
    [
        ((0.8, 0.9), [1], (1,)),
        ((1, 2), [4.0, 3], (3, 4)),
        ((False, True), [False], (False,)),
        (("auto", 16, 32), [64, "auto"], (64, "auto")),
    ],
)
def test_values_fit_when_their_kind_does(
    domain: tuple[Value, ...], values: list[Any], fitted: tuple[Value, ...]
) -> None:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in domain)
    scale = Scale.LINEAR if numeric else Scale.CATEGORICAL
    assert overridden(Parameter(name="x", values=domain, default=domain[0], scale=scale), values).values == fitted


def test_overrides_touch_only_what_they_name() -> None:
    batch = Parameter(name="batch", values=(1, 2, 4), default=1, scale=Scale.LOG)
    mode = Parameter(name="mode", values=("a", "b"), default="a")
    space = apply_overrides(_space(batch, mode), [Override(parameter="batch", values=(8,))])
    assert space["batch"].values == (8,)
    assert space["mode"] is mode
    with pytest.raises(UnknownNameError, match="Did you mean 'batch'"):
        apply_overrides(space, [Override(parameter="btch", values=(1,))])
    with pytest.raises(SpaceError, match="List the device types under devices"):
        apply_overrides(space, [Override(parameter=DEVICE, values=("cpu",))])
