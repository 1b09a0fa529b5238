"""Parameters and configurations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import SpaceError
from tuner.parameter import Condition, Config, Parameter, Scale, format_config, powers_of_two

VALUES = st.booleans() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6) | st.text(max_size=8)
CONFIGS = st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=6).map(
    lambda values: Config({**values, "device": "cpu"})
)


@given(config=CONFIGS)
def test_reading_undoes_writing(config: Config) -> None:
    assert Config.from_json(config.to_json()) == config


@given(config=CONFIGS, data=st.data())
def test_the_order_of_values_does_not_matter(config: Config, data: st.DataObject) -> None:
    names = data.draw(st.permutations(list(config)))
    shuffled = Config({name: config[name] for name in names})
    assert shuffled == config
    assert hash(shuffled) == hash(config)
    assert shuffled.to_json() == config.to_json()
    assert shuffled.differing(config) == ()


@given(config=CONFIGS, other=CONFIGS)
def test_differing_is_symmetric_and_empty_exactly_between_equals(config: Config, other: Config) -> None:
    assert config.differing(other) == other.differing(config)
    assert (config.differing(other) == ()) == (config == other)


def test_a_configuration_does_not_change_with_what_it_was_made_of() -> None:
    values = {"device": "cpu", "threads": 2}
    config = Config(values)
    values["threads"] = 4
    assert config["threads"] == 2
    with pytest.raises(TypeError):
        config.values["threads"] = 4  # type: ignore[index]


@given(values=st.lists(st.integers(0, 1000), min_size=1, unique=True).map(sorted), data=st.data())
def test_every_value_stands_where_its_index_says(values: list[int], data: st.DataObject) -> None:
    parameter = Parameter(
        name="x", values=tuple(values), default=data.draw(st.sampled_from(values)), scale=Scale.LINEAR
    )
    for position, value in enumerate(values):
        assert parameter.index(value) == position


def test_true_is_not_one() -> None:
    assert Parameter(name="x", values=(0, 1), default=0).index(1) == 1
    with pytest.raises(SpaceError, match="no value True"):
        Parameter(name="x", values=(0, 1), default=0).index(True)


@pytest.mark.parametrize(
    ("values", "default", "scale", "words"),
    [
        ((), 1, Scale.LINEAR, "has no values"),
        ((1, 2, 1), 1, Scale.CATEGORICAL, "lists a value twice"),
        ((1, 2), 3, Scale.LINEAR, "has the default 3"),
        ((2, 1), 1, Scale.LINEAR, "not ascending"),
        (("a", "b"), "a", Scale.LINEAR, "not ascending"),
        ((False, True), True, Scale.LINEAR, "not ascending"),
        ((-1, 1), 1, Scale.LOG, "goes down to -1"),
    ],
)
def test_a_parameter_that_contradicts_itself_is_refused(
    values: tuple[int, ...], default: int, scale: Scale, words: str
) -> None:
    with pytest.raises(SpaceError, match=words):
        Parameter(name="x", values=values, default=default, scale=scale)


def test_an_inactive_parameter_satisfies_no_condition() -> None:
    condition = Condition(parameter="batching", values=(True,))
    assert condition.holds({"batching": True})
    assert not condition.holds({"batching": False})
    assert not condition.holds({})


@given(low=st.integers(1, 100), high=st.integers(1, 10_000))
def test_powers_of_two_double_within_their_bounds(low: int, high: int) -> None:
    values = powers_of_two(low, high)
    assert all(low <= value <= high for value in values)
    assert all(second == 2 * first for first, second in itertools.pairwise(values))
    assert (values == ()) == (low > high)


def test_a_configuration_is_shown_as_people_write_it() -> None:
    assert format_config({"a": 1, "b": True, "c": "x"}, ["c", "a", "z"]) == "c=x a=1"
    assert format_config({"b": True}) == "b=true"
