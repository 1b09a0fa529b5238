"""Where the rules that end a search would end it, and what was then left to find, on the public fakes.

Every study goes on to the end of its budget; its stored prospects say where the rules would have ended it. The truth is
the fake server's formula without noise. Beside the noise between windows, which a trial knows, the trial as a whole
is off by `--trial-noise`, which it does not.

    python benchmarks/stopping_rules.py --seeds 10 --budget 25
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from tuner.device import DeviceType
from tuner.metric import Direction, MetricRef
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.ports import ModelSource, ServingTask
from tuner.slo import Slo
from tuner.strategies.candidates import Candidates
from tuner.study.definition import NONE, AdapterChoice, Budget, SearchOptions, Stopping, Study
from tuner.study.loop import Tuner
from tuner.study.stopping import little_left, prospects_from_json
from tuner.testing.fakes import FakeRunner, installed
from tuner.trial import Attempt, Measurement, Outcome, TrialPlan
from tuner.workload import Arrival, ClosedLoop, OpenLoop, RateBracket, TemplateShapes, Workload

WATCHED: Final = Stopping(after=3, gain=0.0, probability=1.0)
"""Rules that end nothing, so that prospects are stored after every trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A fake server under a load, by what decides its optimum."""

    arrival: Arrival
    latency_ms: int
    objective: str
    cpus: float


RATE: Final = OpenLoop(rate_rps=RateBracket(low=2.0, high=4000.0))
CHOSEN_ON: Final = tuple(
    Problem(arrival=ClosedLoop(clients=clients), latency_ms=slo, objective="throughput", cpus=4)
    for clients, slo in ((32, 200), (16, 60), (64, 40))
)
REPORTED_ON: Final = (
    Problem(arrival=RATE, latency_ms=70, objective="max_arrival_rate", cpus=4),
    Problem(arrival=RATE, latency_ms=40, objective="cost_per_million_requests", cpus=8),
    Problem(arrival=ClosedLoop(clients=24), latency_ms=50, objective="throughput", cpus=6),
    Problem(arrival=OpenLoop(rate_rps=150.0), latency_ms=50, objective="p99(latency)", cpus=4),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budget", type=int, default=25, help="trials of each study")
    parser.add_argument("--trial-noise", type=float, default=0.05, help="standard deviation of a trial's log error")
    parser.add_argument("--chosen-on", action="store_true", help="the problems on which the defaults were chosen")
    parser.add_argument("--gains", type=float, nargs="*", default=[Stopping().gain], help="thresholds of the gain")
    arguments = parser.parse_args()
    problems = CHOSEN_ON if arguments.chosen_on else REPORTED_ON
    runs = []
    with installed(), tempfile.TemporaryDirectory() as folder:
        for number, problem in enumerate(problems):
            truth = truth_of(problem)
            for seed in range(arguments.seeds):
                storage = f"sqlite:///{Path(folder, f'{number}-{seed}.db')}"
                run = played(study_of(problem, seed, arguments.budget, storage), truth, arguments.trial_noise)
                runs.append(run)
                print(f"{number} {seed} {' '.join(f'{step.loss:.2f}' for step in run.steps)}", flush=True)
    rules = [replace(Stopping(), gain=gain) for gain in arguments.gains]
    for stopping in (*rules, replace(Stopping(), gain=0.0), replace(Stopping(), probability=1.0)):
        print(report(stopping, runs))
    print(calibration(runs))
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """After so many trials: what was believed, as stored, and how far the incumbent really was from the best."""

    trials: int
    stored: str
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A whole study; the loss of the last incumbent is what stopping is held against."""

    steps: tuple[Step, ...]


def study_of(problem: Problem, seed: int, budget: int, storage: str) -> Study:
    workload = Workload(arrival=problem.arrival, requests=TemplateShapes(path="/infer"))
    slos = (Slo.parse(f"p99(latency) <= {problem.latency_ms} ms"),)
    device = DeviceType(name="cpu", cpus=problem.cpus, price_per_hour=0.2)
    return Study(
        name="stopping",
        task=ServingTask(model=ModelSource(name="model"), devices=(device,), workload=workload),
        engine=AdapterChoice(name="fake"),
        runner=AdapterChoice(name="fake"),
        slos=slos,
        objectives=(Objective(MetricRef.parse(problem.objective)),),
        search=SearchOptions(budget=Budget(trials=budget), confirmations=0, seed=seed, priors=NONE, stop=WATCHED),
        plan=TrialPlan(workload=workload, slos=slos, seed=seed),
        storage=storage,
    )


def truth_of(problem: Problem) -> dict[Config, float]:
    """The objective of every configuration that holds the SLO, without noise."""
    study = study_of(problem, 0, 1, "sqlite:///:memory:")
    made, runner = Tuner(study), FakeRunner({"noise": 0.0})
    candidates, found = Candidates.of(made.space), {}
    for number in range(len(candidates)):
        outcome = outcome_of(made, candidates.config(number), Attempt(study_id="", trial=0, token=""), runner)
        if isinstance(outcome, Measurement) and all(
            (value := outcome.value(slo.metric)) is not None and slo.excess(value) <= 0 for slo in study.slos
        ):
            value = outcome.value(study.objectives[0].metric)
            if value is not None:
                found[candidates.config(number)] = value
    return found


def outcome_of(made: Tuner, config: Config, attempt: Attempt, runner: FakeRunner) -> Outcome:
    study = made.study
    spec = made.engine.launch(study.task, config, runner.target)
    return runner.run(spec, study.task.devices[0], study.plan, attempt, lambda progress: None)


def played(study: Study, truth: dict[Config, float], trial_noise: float) -> Run:
    """The study with trials that are off as a whole, and what was believed after each."""
    made, runner = Tuner(study), FakeRunner({})
    objective = study.objectives[0]
    best = max(truth.values(), key=objective.gain)
    random = np.random.default_rng([study.search.seed, 7])
    while (ask := made.ask()) is not None:
        outcome = outcome_of(made, ask.config, ask.attempt, runner)
        if isinstance(outcome, Measurement):
            outcome = off_by(outcome, math.exp(trial_noise * random.standard_normal()))
        made.tell(ask, outcome)
    attributes = made._store.optuna.user_attrs
    steps = []
    for trials in range(1, len(made.result().records) + 1):
        stored = attributes.get(f"prospects:{trials}")
        if stored is not None:
            value = truth.get(prospects_from_json(stored).best)
            loss = 1.0 if value is None else 1 - objective.ratio(value, best)
            steps.append(Step(trials=trials, stored=stored, loss=loss))
    return Run(steps=tuple(steps))


def off_by(measurement: Measurement, factor: float) -> Measurement:
    """Everything that is better when larger `factor` times as large, everything else as many times smaller."""
    metrics = {}
    for name, estimate in measurement.metrics.items():
        share = factor if MetricRef.parse(name).metric.direction is Direction.MAXIMIZE else 1 / factor
        metrics[name] = replace(
            estimate, value=estimate.value * share, low=estimate.low * share, high=estimate.high * share
        )
    return replace(measurement, metrics=metrics)


def report(stopping: Stopping, runs: Iterable[Run]) -> str:
    """Where these rules end the studies, and what that costs."""
    ends, losses, later, expected = [], [], [], []
    count = 0
    for run in runs:
        count += 1
        known: dict[int, Step] = {}
        for step in run.steps:
            known[step.trials] = step
            if little_left(stopping, {trials: prospects_from_json(each.stored) for trials, each in known.items()}):
                ends.append(step.trials)
                losses.append(step.loss)
                later.append(run.steps[-1].loss)
                expected.append(prospects_from_json(step.stored).expected_gain)
                break
    words = f"gain below {stopping.gain:.0%}, probability {stopping.probability:.0%}, after {stopping.after}: "
    if not ends:
        return words + f"none of {count} ended early"
    return words + (
        f"{len(ends)} of {count} ended early, median after {statistics.median(ends):g} trials; incumbent "
        f"{statistics.mean(losses):.1%} from the best on average "
        f"(at the end of the budget {statistics.mean(later):.1%}), "
        f"{sum(loss <= 0.05 for loss in losses)} within 5 %, worst {max(losses):.0%}; "
        f"one more trial was expected to gain {statistics.mean(expected):.1%}"
    )


def calibration(runs: Iterable[Run]) -> str:
    """How often the incumbent was within 5 %, by what was believed."""
    counted: dict[int, list[bool]] = {}
    for run in runs:
        for step in run.steps:
            counted.setdefault(min(9, int(10 * prospects_from_json(step.stored).within)), []).append(step.loss <= 0.05)
    lines = ["believed  times  was within 5 %"]
    lines += [
        f"{low / 10:.1f}-{low / 10 + 0.1:.1f}   {len(hits):5}  {statistics.mean(hits):.2f}"
        for low, hits in sorted(counted.items())
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
