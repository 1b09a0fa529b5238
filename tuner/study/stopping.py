"""When a search ends, and what it leaves to be found.

The strategy's prospects are stored after each trial, and the rules read what is stored: a study that goes on
in another process, or is only shown, ends where it ended.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tuner.parameter import Config
from tuner.strategies.prospects import Prospects
from tuner.study.definition import Stopping

IN_A_ROW: Final = 3
"""Trials after each of which the gain must be small: a single surprise changes a young model's mind."""


class StopRule(enum.Enum):
    """What ends a search."""

    GAIN = "gain"
    PROBABILITY = "probability"
    BUDGET = "budget"
    EXHAUSTED = "exhausted"


@dataclass(frozen=True, slots=True)
class Ended:
    """That a search has ended: by which rule, and in words."""

    rule: StopRule
    reason: str


def little_left(stopping: Stopping | None, prospects: Mapping[int, Prospects]) -> Ended | None:
    """Whether the search ends before its budget does.

    Args:
        stopping: the rules; `None` never ends it.
        prospects: by number of search trials; those of another tolerance say nothing.

    Returns:
        What the first trials said after which a rule held (CherryPick, Alipourfard et al. 2017, for the gain);
        trials that come later, confirming ones included, do not begin the search again.
    """
    if stopping is None:
        return None
    known = {trials: each for trials, each in sorted(prospects.items()) if each.tolerance == stopping.tolerance}
    low = 0
    for trials, found in known.items():
        low = low + 1 if found.expected_gain < stopping.gain else 0
        if trials < stopping.after:
            continue
        if found.within >= stopping.probability and stopping.probability < 1:
            return Ended(
                StopRule.PROBABILITY,
                f"ended after {trials} trials: within {found.tolerance:.0%} of the best with probability "
                f"{found.within:.0%}",
            )
        if low >= IN_A_ROW:
            return Ended(
                StopRule.GAIN,
                f"ended after {trials} trials: one more would gain {found.expected_gain:.1%}, "
                f"less than {stopping.gain:.0%}",
            )
    return None


def prospects_to_json(prospects: Prospects) -> str:
    """As JSON text; `prospects_from_json` undoes it."""
    return json.dumps(
        {
            "best": prospects.best.to_json(),
            "expected_gain": prospects.expected_gain if math.isfinite(prospects.expected_gain) else None,
            "within": prospects.within,
            "tolerance": prospects.tolerance,
            "weights": dict(prospects.weights),
        }
    )


def prospects_from_json(text: str) -> Prospects:
    """What `prospects_to_json` wrote."""
    content = json.loads(text)
    gain = content["expected_gain"]
    return Prospects(
        best=Config.from_json(content["best"]),
        expected_gain=math.inf if gain is None else float(gain),
        within=float(content["within"]),
        tolerance=float(content["tolerance"]),
        weights={str(name): float(weight) for name, weight in content["weights"].items()},
    )
