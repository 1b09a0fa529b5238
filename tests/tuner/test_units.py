"""Quantities with units."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.errors import UnitError
from tuner.units import Dimension, example, format_bytes, format_seconds, parse_quantity, unit_names


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("50 ms", Dimension.TIME, 0.05),
        ("1.5h", Dimension.TIME, 5400.0),
        ("250us", Dimension.TIME, 0.00025),
        ("4 GiB", Dimension.BYTES, 2.0**32),
        ("1e3 MB", Dimension.BYTES, 1e9),
        ("12 rps", Dimension.RATE, 12.0),
        ("0.1%", Dimension.SHARE, 0.001),
        (0.5, Dimension.SHARE, 0.5),
        ("$3.50/h", Dimension.PRICE, 3.5),
        ("2 USD", Dimension.MONEY, 2.0),
        ("1_000", Dimension.COUNT, 1000.0),
    ],
)
def test_a_quantity_is_read_in_base_units(text: str | float, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension) == pytest.approx(value)


@given(dimension=st.sampled_from(Dimension), data=st.data(), number=st.floats(-1e12, 1e12))
def test_every_unit_scales_the_number(dimension: Dimension, data: st.DataObject, number: float) -> None:
    unit = data.draw(st.sampled_from([unit for unit in unit_names(dimension) if not unit.startswith("$")]))
    one = parse_quantity(f"1 {unit}", dimension)
    assert one > 0
    assert parse_quantity(f"{number!r} {unit}", dimension) == pytest.approx(number * one)
    assert parse_quantity(f"{number!r}{unit}", dimension) == parse_quantity(f"{number!r} {unit}", dimension)


def _parsed(text: str | float, dimension: Dimension) -> float | UnitError:
    try:
        return parse_quantity(text, dimension)
    except UnitError as error:
        return error


@given(dimension=st.sampled_from(Dimension), text=st.text(max_size=30) | st.floats() | st.integers())
def test_anything_is_a_finite_quantity_or_a_unit_error(dimension: Dimension, text: str | float) -> None:
    outcome = _parsed(text, dimension)
    if isinstance(outcome, float):
        assert math.isfinite(outcome)
    else:
        assert any(remedy in str(outcome) for remedy in ("Write", "Did you mean", "Known"))


@pytest.mark.parametrize("dimension", list(Dimension))
def test_the_example_of_a_dimension_is_one(dimension: Dimension) -> None:
    assert parse_quantity(example(dimension), dimension) > 0


@pytest.mark.parametrize(
    ("text", "dimension", "words"),
    [
        ("50", Dimension.TIME, "has no unit"),
        ("50 mss", Dimension.TIME, "Did you mean 'ms'"),
        ("50 GiB", Dimension.TIME, "none of time"),
        ("fast", Dimension.TIME, "is no quantity"),
        ("1e400 s", Dimension.TIME, "is not finite"),
        (True, Dimension.COUNT, "True is no quantity"),
        (float("nan"), Dimension.SHARE, "is no quantity"),
    ],
)
def test_a_bad_quantity_says_what_is_wrong(text: str | float, dimension: Dimension, words: str) -> None:
    with pytest.raises(UnitError, match=words):
        parse_quantity(text, dimension)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00085, "850 us"), (0.0123, "12.3 ms"), (4.2, "4.2 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 05 min")],
)
def test_durations_are_shown_in_the_unit_people_use(value: float, text: str) -> None:
    assert format_seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(100, "100 B"), (2**29, "512 MiB"), (2.6 * 2**30, "2.6 GiB")])
def test_sizes_are_shown_in_powers_of_1024(value: float, text: str) -> None:
    assert format_bytes(value) == text
