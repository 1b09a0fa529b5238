"""Quantiles of Student's t for whole degrees of freedom."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import Final

_EXACT: Final = 60
"""Degrees of freedom above which the expansion is right to five digits."""


@functools.lru_cache(maxsize=256)
def student_t(degrees: int, probability: float = 0.975) -> float:
    """The value below which Student's t lies with a probability of at least a half.

    By inverting the finite sums for its distribution (Abramowitz and Stegun 26.7.3 and 26.7.4); for many degrees by
    expansion around the normal quantile (26.7.5).

    Args:
        degrees: of freedom, 1 or more.
        probability: from 0.5 to below 1.
    """
    if degrees > _EXACT:
        z = NormalDist().inv_cdf(probability)
        return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _between(middle, degrees) < 2 * probability - 1 else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _between(angle: float, degrees: int) -> float:
    """Probability that |t| is below sqrt(degrees) tan(angle)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees % 2:
        term, total = cosine, cosine if degrees > 1 else 0.0
        for k in range(3, degrees - 1, 2):
            term *= cosine**2 * (k - 1) / k
            total += term
        return 2 / math.pi * (angle + sine * total)
    term = total = 1.0
    for k in range(2, degrees - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return sine * total
