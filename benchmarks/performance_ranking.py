"""Which of the measured configurations a prediction alone would pick, and what that costs.

`benchmarks/performance_fit.py` prints it. A group is a model, a device and lengths; the best of its configurations has
the most throughput per GPU among those that hold a limit on TPOT.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LIMITS = (0.050, 0.030, 0.020)
MARGINS = (1.0, 1.05, 1.1, 1.15, 1.2, 1.3)


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
    """For each architecture the margin with the least mean regret on the others, over all limits."""
    tried = {
        (limit, margin): [(group.family, group.regret(limit, margin)) for group in groups]
        for limit, margin in itertools.product(LIMITS, MARGINS)
    }

    def elsewhere(family: str, margin: float) -> float:
        results = [result for limit in LIMITS for result in tried[limit, margin]]
        return float(np.mean([regret for other, regret in results if other != family and regret is not None]))

    return {
        family: min(MARGINS, key=lambda margin: elsewhere(family, margin))
        for family in {group.family for group in groups}
    }


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
