"""Drawing token lengths."""

from __future__ import annotations

import math

import numpy as np

from tuner.workload import Lengths, LengthShape


def draw_length(lengths: Lengths, generator: np.random.Generator) -> int:
    """One length, rounded and clipped to its bounds."""
    match lengths.shape:
        case LengthShape.CONSTANT:
            value = lengths.mean
        case LengthShape.UNIFORM:
            value = float(generator.integers(lengths.low, lengths.high, endpoint=True))
        case LengthShape.NORMAL:
            value = generator.normal(lengths.mean, lengths.std)
        case LengthShape.LOGNORMAL:
            # mean and std are of the length itself, not of its logarithm.
            variance = math.log1p((lengths.std / lengths.mean) ** 2)
            value = generator.lognormal(math.log(lengths.mean) - variance / 2, math.sqrt(variance))
    return int(min(max(round(value), lengths.low), lengths.high))
