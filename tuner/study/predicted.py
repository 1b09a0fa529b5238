"""Predicted numbers with their 90 % intervals, and how they are kept beside a trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Final

from tuner.trial import Estimate

Z90: Final = 1.645
"""Half the width of a 90 % interval, in standard deviations."""


def interval(value: float, spread: float) -> Estimate:
    """A predicted number; `spread` is half the width of its 90 % interval as a logarithm."""
    return Estimate(
        value=value, low=value * math.exp(-spread), high=value * math.exp(spread), std_error=value * spread / Z90
    )


def spread_of(predicted: Estimate) -> float:
    """What `interval` was given; 0 for a number without uncertainty."""
    return math.log(predicted.high / predicted.low) / 2.0 if 0 < predicted.low < predicted.high else 0.0


def to_json(predicted: Mapping[str, Estimate]) -> str:
    """Predictions by name as JSON text; `from_json` undoes it."""
    return json.dumps({name: [each.value, spread_of(each)] for name, each in predicted.items()})


def from_json(text: str) -> dict[str, Estimate]:
    """What `to_json` wrote."""
    return {name: interval(float(value), float(spread)) for name, (value, spread) in json.loads(text).items()}
