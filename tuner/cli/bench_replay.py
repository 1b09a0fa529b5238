"""What `tune bench replay` does, once its arguments are parsed."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tuner.bench.campaign import EVALUATIONS, MOVES, CampaignData, CampaignPlan, run_campaign
from tuner.bench.contenders import NAMES
from tuner.bench.history import Disturbance, History
from tuner.bench.regret_plot import regret_plot
from tuner.bench.replay import ReplayOptions
from tuner.bench.score import STEPS, StrategySummary, last_third, means_over_files, read_moved, score_replays, summarise
from tuner.bench.task_file import read_task_file
from tuner.errors import StudyFileError, UnknownNameError, UsageError
from tuner.whole_file import written_whole


def run(arguments: argparse.Namespace) -> int:
    """Runs the comparison and prints its summary."""
    plan = _plan(arguments)
    data = _load(arguments.tasks, plan)
    for each in data:
        for note in each.targets.notes:
            sys.stderr.write(f"{note}\n")
    # Children inherit it: small matrices gain nothing from more threads, and J processes would fight.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for line in run_campaign(data, plan, arguments.out, arguments.jobs):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    summaries = _summaries(data, plan, arguments.out)
    text = summary_table(summaries)
    described = json.dumps([asdict(summary) for summary in summaries], indent=2) + "\n"
    for name, content in (("summary.json", described), ("summary.txt", text), ("regret.svg", regret_plot(summaries))):
        with written_whole(arguments.out / name) as file:
            file.write(content)
    sys.stdout.write(described if arguments.json else text)
    return 0


def _plan(arguments: argparse.Namespace) -> CampaignPlan:
    for name in ("seeds", "budget", "parallel", "jobs"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} is {getattr(arguments, name)}. Write 1 or more.")
    if arguments.until is not None and not 0.0 <= arguments.until < 1.0:
        raise UsageError(f"--until is {arguments.until}. Write a share of the optimum, for example 0.01.")
    names = NAMES if arguments.strategies == "all" else _words(arguments.strategies)
    for name in names:
        if name not in NAMES:
            raise UnknownNameError("strategy", name, NAMES)
    if not names:
        raise UsageError(f"--strategies names none. Known: {', '.join(NAMES)}.")
    for path in arguments.targets:
        if not path.is_file():
            raise UsageError(f"--targets: there is no file {path}.")
    return CampaignPlan(
        strategies=tuple(names),
        seeds=arguments.seeds,
        history=History.parse(arguments.history),
        families=tuple(_words(arguments.leave_out)),
        targets=tuple(arguments.targets),
        unlike=arguments.unlike,
        options=ReplayOptions(
            budget=arguments.budget,
            parallel=arguments.parallel,
            until=arguments.until,
            disturbance=Disturbance(noise=arguments.noise, failures=arguments.failures),
        ),
    )


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _load(paths: Sequence[Path], plan: CampaignPlan) -> list[CampaignData]:
    """All task files; the faults of all are reported together."""
    data, messages = [], []
    for path in paths:
        try:
            data.append(CampaignData.load(read_task_file(path), plan))
        except StudyFileError as error:
            messages.append(str(error))
    if messages:
        raise UsageError("\n".join(messages))
    names = [each.targets.task_file.name for each in data]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"Two task files are called {name!r}. Give each its own `name`.")
    return data


def _summaries(data: Sequence[CampaignData], plan: CampaignPlan, folder: Path) -> list[StrategySummary]:
    """With logs, of the last third of the arrivals: what a user meets whose library has filled."""
    tasks = [(each.targets.task_file, each.targets.targets) for each in data]
    scores, times = score_replays(folder / EVALUATIONS, tasks, plan.options.budget)
    if plan.history.trials:
        scores = last_third(scores)
    # Processes end in no fixed order.
    names, strategies = [task_file.name for task_file, _ in tasks], list(plan.strategies)
    scores.sort(
        key=lambda score: (
            names.index(score.task),
            strategies.index(score.strategy) if score.strategy in strategies else len(strategies),
            score.strategy,
            score.seed,
            str(score.group),
        )
    )
    return summarise(scores, times, read_moved(folder / MOVES))


def summary_table(summaries: Sequence[StrategySummary]) -> str:
    """The summary for people."""
    lines = [
        f"{'task':26} {'strategy':11} {'runs':>5}  {'to 5 %: median/p90/worst':>26} {'mean':>6}  "
        f"{'to 1 %: median/p90/worst':>26} {'mean':>6}  within 5 % after {'/'.join(map(str, STEPS)):12} moved  suggest"
    ]
    for each in summaries:
        near = f"{each.median:g} / {each.p90:.3g} / {each.worst:g}"
        nearer = f"{each.median_1:g} / {each.p90_1:.3g} / {each.worst_1:g}"
        reached = "/".join(f"{share:.0%}" for share in each.reached)
        lines.append(
            f"{each.task:26} {each.strategy:11} {each.replays:>5}  {near:>26} {each.mean:>6.2f}  {nearer:>26} "
            f"{each.mean_1:>6.2f}  {reached:>29} {each.moved:>5.0%} {1e3 * each.suggest_s:>6.1f} ms"
        )
    for strategy, files, mean, mean_1 in means_over_files(summaries):
        lines.append(f"mean over {files} task files, {strategy}: {mean:.2f} to 5 %, {mean_1:.2f} to 1 %")
    return "\n".join(lines) + "\n"
