from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.tuner.strategies.problems import server_space, spaces
from tuner.errors import SpaceError
from tuner.parameter import Config, Parameter, Scale
from tuner.space import Rule, Space
from tuner.strategies.candidates import Candidates, config_of, coordinates, encode, levels, row_of


def valid_configs(space: Space) -> set[Config]:
    combinations = itertools.product(*(parameter.values for parameter in space.parameters))
    configs = {space.config(dict(zip(space.names, values, strict=True))) for values in combinations}
    return {config for config in configs if not space.violations(config)}


def candidates_of(space: Space) -> Candidates:
    assume(valid_configs(space))
    return Candidates.of(space)


@given(spaces())
def test_candidates_are_exactly_the_valid_configurations_each_once(space: Space) -> None:
    expected = valid_configs(space)
    if not expected:
        with pytest.raises(SpaceError, match="rule"):
            Candidates.of(space)
        return
    candidates = Candidates.of(space)
    found = [candidates.config(position) for position in range(len(candidates))]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert candidates.complete


@given(spaces())
def test_a_row_is_its_configuration_and_the_other_way_round(space: Space) -> None:
    candidates = candidates_of(space)
    for position in range(len(candidates)):
        config = candidates.config(position)
        assert np.array_equal(row_of(space, config), candidates.rows[position])
        assert config_of(space, row_of(space, config)) == config
        assert candidates.position(config) == position


@given(spaces())
def test_no_two_candidates_are_encoded_alike(space: Space) -> None:
    candidates = candidates_of(space)
    points = encode(space, candidates.rows)
    assert len(np.unique(levels(space, candidates.rows), axis=0)) == len(candidates)
    assert len(np.unique(points, axis=0)) == len(candidates)
    assert points.min() >= 0
    assert points.max() <= 1


@given(spaces(), st.data())
def test_neighbours_are_valid_and_one_step_away(space: Space, data: st.DataObject) -> None:
    candidates = candidates_of(space)
    row = candidates.rows[data.draw(st.integers(0, len(candidates) - 1))]
    near = candidates.neighbours(row[None])
    here = space.complete(config_of(space, row))
    for other in near:
        config = config_of(space, other)
        assert not space.violations(config)
        there = space.complete(config)
        # A change may switch parameters off, which puts them back to their defaults.
        moved = [name for name in here if here[name] != there[name] and name in config]
        assert len(moved) <= 1
        assert config != config_of(space, row)


@given(spaces())
def test_the_default_comes_first_or_else_the_fewest_changes(space: Space) -> None:
    candidates = candidates_of(space)
    first = candidates.config(candidates.default_position)
    if not space.violations(space.default):
        assert first == space.default
        return
    default = space.complete(space.default)

    def changes(config: Config) -> int:
        return sum(space.complete(config)[name] != default[name] for name in default)

    assert changes(first) == min(changes(config) for config in valid_configs(space))


@given(spaces(), st.integers(1, 8), st.integers(0, 3))
def test_a_space_filling_design_starts_at_the_default_and_repeats_nothing(space: Space, count: int, seed: int) -> None:
    candidates = candidates_of(space)
    design = candidates.space_filling(count, seed)
    assert design[0] == candidates.default_position
    assert len(set(design.tolist())) == len(design) == min(count, len(candidates))
    assert np.array_equal(design, candidates.space_filling(count, seed))


def test_a_space_filling_design_is_more_spread_out_than_chance() -> None:
    candidates = Candidates.of(server_space())

    def closest(positions: np.ndarray) -> float:
        points = encode(candidates.space, candidates.rows[positions])
        distance = np.abs(points[:, None] - points[None]).sum(axis=-1)
        return float(distance[np.triu_indices(len(points), 1)].min())

    chance = [closest(np.random.default_rng(s).choice(len(candidates), 6, replace=False)) for s in range(50)]
    assert closest(candidates.space_filling(6, 0)) > np.percentile(chance, 90)


def test_a_rule_is_called_only_over_its_own_parameters() -> None:
    calls = []

    def holds(a: int, b: int) -> bool:
        calls.append((a, b))
        return a <= b

    many = tuple(range(20))
    space = Space(
        parameters=(
            Parameter(name="device", values=("d",), default="d"),
            *(Parameter(name=name, values=many, default=0, scale=Scale.LINEAR) for name in "abcd"),
        ),
        rules=(Rule(over=("a", "b"), holds=holds, says="a must be at most b"),),
    )
    assert len(Candidates.of(space)) == 210 * 400
    assert len(calls) == 400


def test_an_empty_space_names_the_rule_that_alone_rules_out_everything() -> None:
    space = server_space()
    impossible = Rule(over=("threads",), holds=lambda threads: threads > 8, says="threads must exceed 8")
    with pytest.raises(SpaceError, match=r"nothing satisfies threads must exceed 8\. Widen 'threads'"):
        Candidates.of(Space(parameters=space.parameters, rules=(*space.rules, impossible)))


def test_an_empty_space_names_the_rules_that_leave_nothing_together() -> None:
    space = server_space()
    few = Rule(over=("instances",), holds=lambda instances: instances <= 2, says="instances must be at most 2")
    many = Rule(over=("instances",), holds=lambda instances: instances >= 3, says="instances must be at least 3")
    with pytest.raises(SpaceError, match=r"at most 2 \(rules out 67%\)") as caught:
        Candidates.of(Space(parameters=space.parameters, rules=(few, many)))
    assert "at least 3 (rules out 33%)" in str(caught.value)


def test_a_space_above_the_limit_is_sampled_around_its_default_too() -> None:
    space = server_space()
    candidates = Candidates.of(space, limit=200)
    configs = [candidates.config(position) for position in range(len(candidates))]
    assert not candidates.complete
    assert 200 <= len(candidates) < 230
    assert len(set(configs)) == len(configs)
    assert not any(space.violations(config) for config in configs)
    assert space.default in configs
    near = candidates.neighbours(candidates.rows[[candidates.default_position]])
    assert (candidates.positions(near) >= 0).all()


def test_codes_that_wrap_around_still_find_the_right_row() -> None:
    parameters = [Parameter(name=f"p{n}", values=tuple(range(1000)), default=0, scale=Scale.LINEAR) for n in range(8)]
    space = Space(parameters=(Parameter(name="device", values=("d",), default="d"), *parameters))
    candidates = Candidates.of(space, limit=500)
    for position in (0, 7, len(candidates) - 1):
        assert candidates.position(candidates.config(position)) == position


def test_zero_on_a_log_scale_lies_one_step_below_the_smallest_positive_value() -> None:
    parameter = Parameter(name="delay", values=(0, 1, 10, 100), default=0, scale=Scale.LOG)
    assert coordinates(parameter) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_a_sample_is_uniform_whatever_the_order_of_expansion() -> None:
    parameters = [Parameter(name=f"p{n}", values=tuple(range(20)), default=0, scale=Scale.LINEAR) for n in range(4)]
    space = Space(parameters=(Parameter(name="device", values=("d",), default="d"), *parameters))
    candidates = Candidates.of(space, limit=2000)
    for column in range(1, 5):
        share = np.bincount(candidates.rows[:, column], minlength=20) / len(candidates)
        assert np.abs(share - 0.05).max() < 0.03
