"""Which of the measured configurations a prediction alone would pick, and what that costs.

`benchmarks/performance_fit.py` prints it. A group is a model, a device and lengths; the best of its configurations has
the most throughput per GPU among those that hold a limit on TPOT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIMITS = (0.050, 0.030, 0.020)
MARGINS = np.linspace(0.95, 1.35, 41)
ALIKE = 11
"""Margins next to one another whose regrets are averaged: a regret is a step function of its margin, and the margin at
which a few picks happen to be right says nothing about other architectures."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Measured configurations to pick from, arrays of one shape.

    Attributes:
        family: architecture of the model.
        sequences: that run at once per GPU.
        measured_s, predicted_s: TPOT.
    """

    family: str
    sequences: Array
    measured_s: Array
    predicted_s: Array

    def regret(self, limit_s: float, margin: float) -> float | None:
        """Throughput lost by the pick over that of the best, `None` where no configuration holds the limit.

        Picked among the configurations whose prediction stays a margin below the limit; where none does, the one with
        the lowest prediction. A pick over the limit has no throughput: 1.
        """
        truth = np.where(self.measured_s <= limit_s, self.sequences / self.measured_s, 0.0)
        if len(truth) < 2 or truth.max() <= 0:
            return None
        safe = self.predicted_s * margin <= limit_s
        guess = np.where(safe, self.sequences / self.predicted_s, 0.0) if safe.any() else 1.0 / self.predicted_s
        return float(1.0 - truth[int(guess.argmax())] / truth.max())


def grouped(raw: Sequence[Mapping[str, str]], families: Sequence[str], columns: Sequence[Array]) -> list[Group]:
    """Groups of rows.

    Args:
        raw: as read.
        families: architecture of each.
        columns: `sequences`, `measured_s` and `predicted_s` of each.
    """
    keys = [(row["model_path"], row["system"], row["isl"], row["osl"]) for row in raw]
    found = []
    for key in sorted(set(keys)):
        places = [place for place, other in enumerate(keys) if other == key]
        found.append(Group(families[places[0]], *(column[places] for column in columns)))
    return found


def learned_margins(groups: Sequence[Group]) -> dict[str, float]:
    """For each architecture the margin with the least mean regret on the others, over all limits.

    Means are averaged over `ALIKE` margins, so that the lowest is 1 and the highest 1.3.
    """
    regrets = np.array(
        [[[group.regret(limit, margin) for limit in LIMITS] for margin in MARGINS.tolist()] for group in groups],
        dtype=np.float64,
    )  # shape (groups, margins, limits), not a number where no configuration holds the limit
    middle = MARGINS[ALIKE // 2 : -(ALIKE // 2)]
    families = np.array([group.family for group in groups])
    found = {}
    for family in sorted(set(families.tolist())):
        elsewhere = np.nanmean(regrets[families != family], axis=(0, 2))
        found[family] = float(middle[np.convolve(elsewhere, np.ones(ALIKE) / ALIKE, mode="valid").argmin()])
    return found


def report(groups: Sequence[Group]) -> None:
    """Prints regrets with and without a margin."""
    margins = learned_margins(groups)
    for limit in LIMITS:
        learned = [group.regret(limit, margins[group.family]) for group in groups]
        plain = [group.regret(limit, 1.0) for group in groups]
        for name, picked in (("margin learned", learned), ("no margin", plain)):
            regret = np.array([each for each in picked if each is not None])
            middle, high, over = np.median(regret), np.quantile(regret, 0.9), (regret >= 1).mean()
            print(
                f"TPOT <= {limit * 1e3:.0f} ms, {name}: {len(regret)} groups, median regret {middle:.1%}, "
                f"p90 {high:.1%}, mean {regret.mean():.1%}, over the limit {over:.1%}"
            )
