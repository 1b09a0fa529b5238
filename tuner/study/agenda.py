"""What a study does next, from nothing but what is recorded: so that it can be continued at any point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from tuner.parameter import Config
from tuner.strategies.history import Kind
from tuner.study.definition import Budget, Study
from tuner.study.evidence import Evidence
from tuner.study.recommendation import confirmations_done, pareto_front, ranking
from tuner.study.record import State, TrialRecord
from tuner.study.stopping import Ended, StopRule

MAX_ATTEMPTS: Final = 3
"""A configuration during whose trials the machine went down this often is left alone: it may be why."""
MAX_FAULTS: Final = 2
"""A configuration whose trials failed this often by our own fault is left alone."""
MAX_CHALLENGERS: Final = 3
"""Distinct winners that are confirmed at most, should one after another not hold what it promised."""


@dataclass(frozen=True, slots=True)
class Search:
    """Ask the strategy for a configuration."""


@dataclass(frozen=True, slots=True)
class Run:
    """Run this configuration: again after an interruption, or to confirm it."""

    config: Config
    kind: Kind


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing is left to do, and why."""

    ended: Ended

    @property
    def reason(self) -> str:
        """In words."""
        return self.ended.reason


Step = Search | Run | Stop


def next_step(records: Sequence[TrialRecord], study: Study, default: Config, search_ended: Ended | None) -> Step:
    """What to do next.

    Args:
        records: all trials, those of other processes that still run included.
        study: the study.
        default: the engine's default configuration.
        search_ended: why the search is over while there is budget left, or `None`.
    """
    if (pending := _interrupted(records)) is not None:
        return Run(pending, Kind.SEARCH)
    ended = search_ended or spent(records, study)
    if ended is None:
        return Search()
    if (repeat := _confirmation(records, study, default)) is not None:
        return Run(repeat, Kind.CONFIRM)
    return Stop(ended)


def spent(records: Sequence[TrialRecord], study: Study) -> Ended | None:
    """Which limit of the budget the search has reached; `None` while there is some left."""
    budget: Budget = study.search.budget
    search = [r for r in records if r.kind is Kind.SEARCH and r.state in (State.DONE, State.RUNNING)]
    if budget.trials is not None and len(search) >= budget.trials:
        return _spent(f"{budget.trials} trials")
    seconds = math.fsum(r.phases.total_s for r in search)
    if budget.seconds is not None and seconds >= budget.seconds:
        return _spent(f"{budget.seconds / 60:.3g} minutes of trials")
    usd = math.fsum(study.task.device(r.config.device).price_per_second * r.phases.total_s for r in search)
    if budget.usd is not None and usd >= budget.usd:
        return _spent(f"${budget.usd:.4g}")
    return None


def _spent(limit: str) -> Ended:
    return Ended(StopRule.BUDGET, f"budget of {limit} spent")


def _interrupted(records: Sequence[TrialRecord]) -> Config | None:
    """The first configuration asked by the search that was cut off and has no result yet."""
    settled = {r.config for r in records if r.kind is Kind.SEARCH and r.state in (State.DONE, State.RUNNING)}
    for record in records:
        if record.kind is not Kind.SEARCH or record.config in settled:
            continue
        cut = sum(r.config == record.config and _went_down(r) for r in records)
        faults = sum(r.config == record.config and r.state is State.FAULT for r in records)
        if cut < MAX_ATTEMPTS and faults < MAX_FAULTS:
            return record.config
        settled.add(record.config)
    return None


def _confirmation(records: Sequence[TrialRecord], study: Study, default: Config) -> Config | None:
    """The configuration to measure again next, alternating between the winners and the default."""
    wanted = study.search.confirmations
    targets = [evidence.config for evidence in _winners(records, study)]
    if not targets or wanted == 0:
        return None
    measured_default = any(r.config == default and r.measurement is not None for r in records)
    if measured_default and default not in targets:
        targets.append(default)
    running = {r.config for r in records if r.kind is Kind.CONFIRM and r.state is State.RUNNING}
    counts = {config: confirmations_done(records, config) for config in targets}
    failed = {
        config
        for config in targets
        if sum(
            r.config == config and r.kind is Kind.CONFIRM and (r.state is State.FAULT or _went_down(r)) for r in records
        )
        >= MAX_ATTEMPTS + wanted
    }
    due = [config for config in targets if counts[config] < wanted and config not in running and config not in failed]
    challengers = {r.config for r in records if r.kind is Kind.CONFIRM and r.config != default}
    if len(study.objectives) == 1 and len(challengers) >= MAX_CHALLENGERS:
        due = [config for config in due if config in challengers or config == default]
    return min(due, key=lambda config: counts[config], default=None)


def _went_down(record: TrialRecord) -> bool:
    """Whether the machine went down during the trial; a user who interrupts one says nothing against it."""
    return record.state is State.INTERRUPTED and record.fault != ""


def _winners(records: Sequence[TrialRecord], study: Study) -> list[Evidence]:
    if len(study.objectives) == 1:
        return ranking(records, study.slos, study.objectives[0])[:1]
    front = pareto_front(records, study.slos, study.objectives)
    if len(front) <= MAX_CHALLENGERS:
        return front
    return [front[0], front[len(front) // 2], front[-1]]
