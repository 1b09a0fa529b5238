"""Which measured configuration to recommend, and what to say when none meets the SLO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.objective import Objective
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.evidence import Evidence, gather
from tuner.study.record import State, TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Why nothing met the SLO.

    Attributes:
        nearest: the configuration whose worst bound is exceeded least.
        excess: of its bounds, by their text.
        attainable: per bound, the configuration that did best on it alone, with its value, or `None`
            where no trial had a value.
    """

    nearest: Evidence
    excess: Mapping[str, float]
    attainable: Mapping[str, tuple[Config, float] | None]


def ranking(records: Sequence[TrialRecord], slos: Sequence[Slo], objective: Objective) -> list[Evidence]:
    """Configurations whose trials together hold every bound, best objective first."""
    scored = [
        (objective.gain(estimate.value), evidence)
        for evidence in gather(records).values()
        if evidence.holds(slos) and (estimate := evidence.estimate(objective.metric)) is not None
    ]
    return [evidence for _, evidence in sorted(scored, key=lambda pair: -pair[0])]


def recommended(records: Sequence[TrialRecord], slos: Sequence[Slo], objective: Objective) -> Evidence | None:
    """The best configuration that has been confirmed, or failing that the best one measured."""
    ranked = ranking(records, slos, objective)
    confirmed = [evidence for evidence in ranked if evidence.repeats(Kind.CONFIRM)]
    return next(iter(confirmed or ranked), None)


def pareto_front(
    records: Sequence[TrialRecord], slos: Sequence[Slo], objectives: Sequence[Objective]
) -> list[Evidence]:
    """Configurations that hold every bound and that no other one beats on all objectives.

    Sorted by the first objective, best first.
    """
    points: list[tuple[list[float], Evidence]] = []
    for evidence in gather(records).values():
        if not evidence.holds(slos):
            continue
        estimates = [evidence.estimate(objective.metric) for objective in objectives]
        gains = [o.gain(e.value) for o, e in zip(objectives, estimates, strict=True) if e is not None]
        if len(gains) == len(objectives):
            points.append((gains, evidence))
    front = [
        (gains, evidence)
        for gains, evidence in points
        if not any(
            other is not gains and all(a >= b for a, b in zip(other, gains, strict=True)) and other != gains
            for other, _ in points
        )
    ]
    return [evidence for gains, evidence in sorted(front, key=lambda pair: [-gain for gain in pair[0]])]


def shortfall(records: Sequence[TrialRecord], slos: Sequence[Slo]) -> Shortfall | None:
    """Why no configuration holds every bound; `None` where one does or nothing was measured."""
    evidences = list(gather(records).values())
    if not evidences or any(evidence.holds(slos) for evidence in evidences):
        return None
    nearest = min(evidences, key=lambda evidence: max(evidence.excess(slos).values()))
    attainable: dict[str, tuple[Config, float] | None] = {}
    for slo in slos:
        found = [(e.config, m.value) for e in evidences if (m := e.estimate(slo.metric)) is not None]
        attainable[str(slo)] = min(found, key=lambda pair: slo.excess(pair[1])) if found else None
    return Shortfall(nearest=nearest, excess=nearest.excess(slos), attainable=attainable)


def confirmations_done(records: Sequence[TrialRecord], config: Config) -> int:
    """How often a configuration was run again to confirm it, whatever came of it."""
    return sum(r.kind is Kind.CONFIRM and r.state is State.DONE and r.config == config for r in records)
