"""Quantities with their unit written: `50 ms`, `4 GiB`, `0.1%`, `12 rps`, `$3.50/h`.

Inside the program everything is seconds, bytes, requests, tokens and US dollars; this is the one
place where other units are read.
"""

from __future__ import annotations

import enum
import math
import re
from typing import Final

from tuner.errors import UnitError, did_you_mean


class Dimension(enum.Enum):
    """What a quantity measures; the value names the base unit."""

    TIME = "s"
    BYTES = "bytes"
    RATE = "requests/s"
    TOKEN_RATE = "tokens/s"
    SHARE = "ratio"
    MONEY = "USD"
    PRICE = "USD/h"
    COUNT = "count"


_UNITS: Final[dict[Dimension, dict[str, float]]] = {
    Dimension.TIME: {
        "us": 1e-6,
        "µs": 1e-6,
        "ms": 1e-3,
        "s": 1.0,
        "sec": 1.0,
        "min": 60.0,
        "h": 3600.0,
        "hour": 3600.0,
        "hours": 3600.0,
        "minutes": 60.0,
        "seconds": 1.0,
    },
    Dimension.BYTES: {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 2.0**10,
        "MiB": 2.0**20,
        "GiB": 2.0**30,
        "TiB": 2.0**40,
    },
    Dimension.RATE: {"rps": 1.0, "req/s": 1.0, "requests/s": 1.0, "/s": 1.0},
    Dimension.TOKEN_RATE: {"tokens/s": 1.0, "tok/s": 1.0, "tps": 1.0},
    Dimension.SHARE: {"%": 0.01, "": 1.0},
    Dimension.MONEY: {"USD": 1.0, "$": 1.0, "": 1.0},
    Dimension.PRICE: {"USD/h": 1.0, "$/h": 1.0, "USD/hour": 1.0, "$/hour": 1.0, "": 1.0},
    Dimension.COUNT: {"": 1.0},
}

_QUANTITY = re.compile(r"^\s*(\$?)\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*$")


def parse_quantity(text: str | int | float, dimension: Dimension) -> float:
    """The value of a quantity in its dimension's base unit.

    Args:
        text: `"50 ms"`, `"4GiB"`, `"$2/h"`; a bare number only where the dimension needs no unit.
        dimension: what the quantity must measure.

    Returns:
        A finite number in `dimension.value`.

    Raises:
        UnitError: it does not parse, is not finite, has no unit, or a unit of another dimension.
    """
    units = _UNITS[dimension]
    written = example(dimension)
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UnitError(f"{text!r} is no quantity. Write for example {written}.")
    match = _QUANTITY.match(str(text))
    if match is None:
        raise UnitError(f"{text!r} is no quantity. Write a number and a unit, for example {written}.")
    dollar, number, unit = match.groups()
    if dollar:
        unit = "$" + unit
    if unit not in units:
        if not unit:
            raise UnitError(f"{text!r} has no unit. Write for example {written}.")
        known = [name for name in units if name]
        if not known:
            raise UnitError(f"{text!r} has the unit {unit!r}, where none belongs. Write for example {written}.")
        raise UnitError(
            f"{text!r} has the unit {unit!r}, which is none of {dimension.name.lower()}. {did_you_mean(unit, known)}"
        )
    value = float(number) * units[unit]
    if not math.isfinite(value):
        raise UnitError(f"{text!r} is not finite. Write for example {written}.")
    return value


def unit_names(dimension: Dimension) -> tuple[str, ...]:
    """The units that a quantity may carry; an empty one where a bare number is enough."""
    return tuple(_UNITS[dimension])


def example(dimension: Dimension) -> str:
    """A quantity as it is written."""
    return {
        Dimension.TIME: "50 ms",
        Dimension.BYTES: "4 GiB",
        Dimension.RATE: "20 rps",
        Dimension.TOKEN_RATE: "500 tokens/s",
        Dimension.SHARE: "0.1%",
        Dimension.MONEY: "5 USD",
        Dimension.PRICE: "2.50 USD/h",
        Dimension.COUNT: "8",
    }[dimension]


def format_seconds(value: float) -> str:
    """A duration for a person: `850 us`, `12.3 ms`, `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    magnitude = abs(value)
    if magnitude < 1e-3:
        return f"{value * 1e6:.0f} us"
    if magnitude < 1.0:
        return f"{value * 1e3:.3g} ms"
    if magnitude < 120.0:
        return f"{value:.3g} s"
    if magnitude < 7200.0:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(round(value / 60.0), 60)
    return f"{hours} h {minutes:02d} min"


def format_bytes(value: float) -> str:
    """A size for a person, in powers of 1024: `512 MiB`, `2.6 GiB`."""
    for unit, size in (("TiB", 2.0**40), ("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10)):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
