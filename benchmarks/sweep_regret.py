"""How far a study's winner is from the best of a sweep, both measured by this tool.

Runs the study as it is; then a sweep of the same space without replacement (exhaustive where the budget
allows); then measures the winner and the sweep's best configurations again, interleaved, and compares
the medians on the objective. Everything is kept in the storage, so the script goes on where it stopped.

    python benchmarks/sweep_regret.py examples/quickstart/study.yaml --sweep 150 --repeats 5
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import tuner
from tuner.parameter import Config, format_config
from tuner.study import adapters
from tuner.study.definition import Budget, Study
from tuner.study.recommendation import ranking
from tuner.study.record import TrialRecord
from tuner.trial import Attempt, Measurement


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--trials", type=int, default=15, help="budget of the study")
    parser.add_argument("--sweep", type=int, default=150, help="trials of the sweep")
    parser.add_argument("--best", type=int, default=3, help="configurations of the sweep to measure again")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--storage", default="sqlite:///sweep_regret.db")
    arguments = parser.parse_args()
    study = adapters.with_runner_resolved(replace(tuner.load_study(arguments.study), storage=arguments.storage))
    search = study.search
    tuned = tuner.tune(
        replace(study, name="study", search=replace(search, budget=Budget(trials=arguments.trials))), on_trial=_report
    )
    swept = tuner.tune(
        replace(
            study,
            name="sweep",
            search=replace(search, budget=Budget(trials=arguments.sweep), sampler="random", confirmations=0),
        ),
        on_trial=_report,
    )
    if tuned.best is None:
        print("the study found nothing that meets the SLO")
        return 1
    rivals = [e.config for e in ranking(swept.records, study.slos, study.objectives[0])[: arguments.best]]
    targets = list(dict.fromkeys([tuned.best.config, *rivals]))
    values = remeasured(study, targets, arguments.repeats)
    objective = study.objectives[0]
    medians = {config: statistics.median(found) for config, found in values.items() if found}
    best = max(medians, key=lambda config: objective.gain(medians[config]))
    print(f"\n{objective}, median of {arguments.repeats} interleaved repeats [lowest, highest]")
    for config in targets:
        mark = "winner" if config == tuned.best.config else "sweep "
        print(
            f"{mark} {objective.metric.format(medians[config])} [{objective.metric.format(min(values[config]))}, "
            f"{objective.metric.format(max(values[config]))}] {format_config(config.values)}"
        )
    regret = objective.ratio(medians[best], medians[tuned.best.config]) - 1
    print(f"the winner is {regret:.1%} from the best; {len(swept.records)} swept configurations")
    spent = tuned.spending
    if spent is not None:
        print(f"neither start, load nor shutdown: {spent.other_share:.2%} of {spent.wall_s:.0f} s")
    return 0


def remeasured(study: Study, configs: list[Config], repeats: int) -> dict[Config, list[float]]:
    """The objective of each configuration, measured in turn, where every bound held or not."""
    engine = adapters.search_space(study.engine.name, study.engine.options)
    runner = adapters.runner(study.runner.name, study.runner.options)
    values: dict[Config, list[float]] = {config: [] for config in configs}
    for repeat in range(repeats):
        for number, config in enumerate(configs):
            spec = engine.launch(study.task, config, runner.target)
            attempt = Attempt(study_id="sweep-regret", trial=number, token=f"r{repeat}")
            outcome = runner.run(spec, study.task.device(config.device), study.plan, attempt, lambda progress: None)
            value = outcome.value(study.objectives[0].metric) if isinstance(outcome, Measurement) else None
            if value is not None:
                values[config].append(value)
            print(f"repeat {repeat} configuration {number}: {value}", flush=True)
    return values


def _report(record: TrialRecord) -> None:
    state = record.failure.reason.value if record.failure else record.state.value
    print(f"{record.number} {record.kind.value} {state} {format_config(record.config.values)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
