"""Scores of a campaign: how many evaluations each strategy took, from `evaluations.jsonl` and the recorded data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuner.bench.recorded_task import RecordedTask
from tuner.bench.task_file import TaskFile
from tuner.strategies.listed_problem import FloatArray

SHARES = (0.05, 0.01)
STEPS = (1, 3, 5, 10, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayScore:
    """One replay, scored.

    Attributes:
        task, group, strategy, seed: which.
        steps: evaluations until a configuration within 5 % and 1 % of the optimum was asked; a miss counts one more
            than the budget.
        regret: smallest regret after each evaluation, shape (budget,); 1 where nothing held.
        missed: whether 5 % was never reached.
    """

    task: str
    group: tuple[object, ...]
    strategy: str
    seed: int
    steps: tuple[int, int]
    regret: FloatArray
    missed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StrategySummary:
    """A strategy on one task file.

    Attributes:
        task, strategy: which.
        replays: how many.
        median, p90, worst, mean: evaluations to within 5 %.
        median_1, p90_1, worst_1, mean_1: to within 1 %.
        reached: share of replays within 5 % after each of `STEPS`.
        regret: mean regret after each evaluation.
        moved: share of asks moved to the nearest recorded row.
        suggest_s: median time to suggest.
    """

    task: str
    strategy: str
    replays: int
    median: float
    p90: float
    worst: float
    mean: float
    median_1: float
    p90_1: float
    worst_1: float
    mean_1: float
    reached: tuple[float, ...]
    regret: tuple[float, ...]
    moved: float
    suggest_s: float


def score_replays(
    path: Path, tasks: Iterable[tuple[TaskFile, Sequence[RecordedTask]]], budget: int
) -> tuple[list[ReplayScore], dict[tuple[str, str], list[float]]]:
    """Reads `evaluations.jsonl` and scores every replay by the medians of the recorded data.

    Returns:
        The scores, and by (task, strategy) all suggestion times.
    """
    known: dict[tuple[str, str], tuple[tuple[str, ...], dict[tuple[object, ...], int], RecordedTask]] = {}
    for task_file, recorded in tasks:
        names = tuple(parameter.name for parameter in task_file.parameters)
        for task in recorded:
            position: dict[tuple[object, ...], int] = {row: at for at, row in enumerate(task.configurations)}
            known[task_file.name, json.dumps(list(task.name))] = (names, position, task)
    asked: dict[tuple[str, str, int, str], list[int]] = {}
    times: dict[tuple[str, str], list[float]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            group = json.dumps(entry["group"])
            if (entry["task"], group) not in known:
                continue
            names, position, _ = known[entry["task"], group]
            row = position[tuple(entry["config"][name] for name in names)]
            asked.setdefault((entry["task"], entry["strategy"], entry["seed"], group), []).append(row)
            times.setdefault((entry["task"], entry["strategy"]), []).append(entry["suggest_s"])
    scores = [_score(key, rows, known[key[0], key[3]][2], budget) for key, rows in asked.items()]
    return scores, times


def _score(key: tuple[str, str, int, str], rows: Sequence[int], task: RecordedTask, budget: int) -> ReplayScore:
    reached = []
    for share in SHARES:
        good = task.within(share)
        hits = [step for step, row in enumerate(rows, start=1) if good[row]]
        reached.append(hits[0] if hits else budget + 1)
    regret = np.minimum(task.regret()[list(rows)], 1.0)
    best = np.minimum.accumulate(regret)
    best = np.concatenate([best, np.full(max(0, budget - len(best)), best[-1])])[:budget]
    return ReplayScore(
        task=key[0],
        group=task.name,
        strategy=key[1],
        seed=key[2],
        steps=(reached[0], reached[1]),
        regret=best,
        missed=reached[0] > budget,
    )


def last_third(scores: Sequence[ReplayScore]) -> list[ReplayScore]:
    """Of every arrival order (task file, strategy and seed), the replays of the last third of the arrivals."""
    orders: dict[tuple[str, str, int], list[ReplayScore]] = {}
    for score in scores:
        orders.setdefault((score.task, score.strategy, score.seed), []).append(score)
    return [score for order in orders.values() for score in order[-math.ceil(len(order) / 3) :]]


def summarise(
    scores: Sequence[ReplayScore],
    times: Mapping[tuple[str, str], Sequence[float]],
    moved: Mapping[tuple[str, str], float],
) -> list[StrategySummary]:
    """One summary per task file and strategy, in order of first appearance."""
    groups: dict[tuple[str, str], list[ReplayScore]] = {}
    for score in scores:
        groups.setdefault((score.task, score.strategy), []).append(score)
    summaries = []
    for (task, strategy), found in groups.items():
        near = np.array([score.steps[0] for score in found], dtype=float)
        nearer = np.array([score.steps[1] for score in found], dtype=float)
        summaries.append(
            StrategySummary(
                task=task,
                strategy=strategy,
                replays=len(found),
                median=float(np.median(near)),
                p90=float(np.percentile(near, 90)),
                worst=float(near.max()),
                mean=float(near.mean()),
                median_1=float(np.median(nearer)),
                p90_1=float(np.percentile(nearer, 90)),
                worst_1=float(nearer.max()),
                mean_1=float(nearer.mean()),
                reached=tuple(float((near <= step).mean()) for step in STEPS),
                regret=tuple(np.mean([score.regret for score in found], axis=0).tolist()),
                moved=moved.get((task, strategy), 0.0),
                suggest_s=float(np.median(times.get((task, strategy), [math.nan]))),
            )
        )
    return summaries


def means_over_files(summaries: Sequence[StrategySummary]) -> list[tuple[str, int, float, float]]:
    """By strategy: number of task files, and the mean over them of the mean evaluations to 5 % and to 1 %."""
    by_strategy: dict[str, list[StrategySummary]] = {}
    for summary in summaries:
        by_strategy.setdefault(summary.strategy, []).append(summary)
    return [
        (
            strategy,
            len(found),
            float(np.mean([summary.mean for summary in found])),
            float(np.mean([summary.mean_1 for summary in found])),
        )
        for strategy, found in by_strategy.items()
    ]


def read_moved(path: Path) -> dict[tuple[str, str], float]:
    """Share of moved asks, by task and strategy, from `moves.jsonl`."""
    counts: dict[tuple[str, str], list[int]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        count = counts.setdefault((entry["task"], entry["strategy"]), [0, 0])
        count[0] += entry["moved"]
        count[1] += entry["asks"]
    return {key: moved / max(asks, 1) for key, (moved, asks) in counts.items()}
