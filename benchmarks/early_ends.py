"""What ending hopeless trials early saves, and whether the same is found, on the public fakes.

Each study is run twice, with and without early ends; the truth is the fake server's formula without noise. The fake
runner ends loads by prediction alone (`tuner.early_end.predicted_end`), never by counting requests.

    python -m benchmarks.early_ends --seeds 5 --budget 20
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.stopping_rules import CHOSEN_ON, REPORTED_ON, Problem, study_of, truth_of
from tuner.metric import Direction
from tuner.parameter import Config
from tuner.study.loop import Tuner
from tuner.testing.fakes import installed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A study: its trials' load, how many ended early, and how far its winner is from the best, as a logarithm."""

    load_s: float
    ended: int
    loss: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=int, default=20, help="trials of each study")
    parser.add_argument("--sampler", default="auto")
    arguments = parser.parse_args()
    totals: dict[bool, list[Run]] = {True: [], False: []}
    with installed(), tempfile.TemporaryDirectory() as folder:
        for number, problem in enumerate((*CHOSEN_ON, *REPORTED_ON)):
            truth = truth_of(problem)
            for early_end, runs in totals.items():
                found = [
                    played(problem, seed, arguments, truth, early_end, Path(folder, f"{number}-{seed}-{early_end}.db"))
                    for seed in range(arguments.seeds)
                ]
                runs += found
                print(f"{number} {problem.objective}, {problem.arrival}: {words(early_end, found)}", flush=True)
    for early_end, runs in totals.items():
        print(f"all: {words(early_end, runs)}")
    print(f"load saved: {1 - sum(r.load_s for r in totals[True]) / sum(r.load_s for r in totals[False]):.0%}")
    return 0


def played(
    problem: Problem,
    seed: int,
    arguments: argparse.Namespace,
    truth: dict[Config, float],
    early_end: bool,
    storage: Path,
) -> Run:
    study = study_of(problem, seed, arguments.budget, f"sqlite:///{storage}")
    search = replace(study.search, early_end=early_end, stop=None, sampler=arguments.sampler, confirmations=1)
    result = Tuner(replace(study, search=search)).run()
    objective = study.objectives[0]
    best = max(truth.values(), key=objective.gain)
    loss = 1.0
    if result.best is not None and result.best.config in truth:
        value = truth[result.best.config]
        loss = value / best - 1 if objective.direction is Direction.MINIMIZE else 1 - value / best
    return Run(
        load_s=sum(record.phases.load_s for record in result.records),
        ended=sum(record.ended_early is not None for record in result.records),
        loss=loss,
    )


def words(early_end: bool, runs: list[Run]) -> str:
    losses = [run.loss for run in runs]
    within = sum(loss <= 0.05 for loss in losses)
    how = "early ends" if early_end else "in full   "
    return (
        f"{how} {len(runs)} studies, load {sum(r.load_s for r in runs):,.0f} s, "
        f"{sum(r.ended for r in runs)} ended early, from the best mean {statistics.mean(losses):.1%}, "
        f"median {statistics.median(losses):.1%}, within 5 %: {within}"
    )


if __name__ == "__main__":
    sys.exit(main())
