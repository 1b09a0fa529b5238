"""How well predictions of a study's configurations agree with trials of them on this machine.

    tune profile .quickstart/encoder.onnx --device cpu --tokens 16
    python benchmarks/predicted_versus_measured.py examples/quickstart/study.yaml --out results.jsonl

Random configurations of the study (the default first) are predicted, then each is run once by the study's own
runner. Results are appended to the file as they come, so an interrupted run goes on. Printed are, of throughput and
of every metric that an objective or a bound names: the rank correlation, the mean absolute error of the predictions as
they were before any trial, and that of the others once the first few trials have calibrated them. Nothing else may run
beside.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from tuner.errors import TrialFault
from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.strategies.history import Kind, outcome_from_json, outcome_to_json
from tuner.study import adapters
from tuner.study.definition import Study
from tuner.study.file import load_study
from tuner.study.forecast import Forecast
from tuner.study.record import State, TrialRecord
from tuner.study.space import study_space
from tuner.study.study_calibration import StudyCalibration
from tuner.trial import Attempt, Outcome


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one metric over the configurations measured."""

    metric: MetricRef
    count: int
    spearman: float
    error: float
    inside: float
    calibrated: float


def main() -> int:
    """Predicts, measures what is missing, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--configurations", type=int, default=50)
    parser.add_argument("--calibrate", type=int, default=3, help="trials that the others are calibrated on")
    parser.add_argument("--seed", type=int, default=0, help="of the configurations drawn")
    parser.add_argument("--runner", help="instead of the study's")
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON lines, one per trial; continued where it is there"
    )
    parser.add_argument("--no-trials", action="store_true", help="compare what has been measured; run nothing")
    arguments = parser.parse_args()
    study = adapters.with_runner_resolved(load_study(arguments.study))
    engine = adapters.search_space(study.engine.name, study.engine.options)
    space = study_space(study, engine)
    candidates = Candidates.of(space, seed=study.search.seed)
    forecast = Forecast(study, engine, candidates)
    for device, origin in forecast.origins.items():
        print(f"{device}: {origin}", file=sys.stderr)
    configs = _drawn(candidates, arguments.configurations, arguments.seed)
    outcomes = _read(arguments.out, space)
    if not arguments.no_trials:
        _measure(study, [c for c in configs if c not in outcomes], arguments, outcomes)
    records = [
        TrialRecord(
            number=number, kind=Kind.SEARCH, state=State.DONE, config=config, outcome=outcomes[config],
            predicted=forecast.metrics_of(config),
        )
        for number, config in enumerate(configs)
        if config in outcomes
    ]  # fmt: skip
    failed = [record for record in records if record.failure is not None]
    refused = [record for record in records if forecast.refusal_of(record.config)]
    print(f"{len(records)} configurations, {len(failed)} failed, {len(refused)} predicted to be unable to run")
    named = [objective.metric for objective in study.objectives] + [slo.metric for slo in study.slos]
    for ref in dict.fromkeys([MetricRef.parse("throughput"), *named]):
        found = _agreement(space, ref, records, arguments.calibrate)
        if found is not None:
            print(
                f"{ref}: {found.count} configurations, Spearman {found.spearman:.3f}, error {found.error:.1%}, "
                f"{found.inside:.0%} inside the 90 % interval; error after {arguments.calibrate} trials "
                f"{found.calibrated:.1%}"
            )
    return 0


def _drawn(candidates: Candidates, count: int, seed: int) -> list[Config]:
    """The default, and random others."""
    order = np.random.default_rng(seed).permutation(len(candidates))
    positions = [candidates.default_position, *(int(at) for at in order if at != candidates.default_position)]
    return [candidates.config(position) for position in positions[:count]]


def _measure(study: Study, configs: list[Config], arguments: argparse.Namespace, found: dict[Config, Outcome]) -> None:
    runner = adapters.runner(arguments.runner or study.runner.name, {} if arguments.runner else study.runner.options)
    engine = adapters.search_space(study.engine.name, study.engine.options)
    for number, config in enumerate(configs):
        spec = engine.launch(study.task, config, runner.target)
        device = study.task.device(config.device)
        attempt = Attempt(study_id="predicted-versus-measured", trial=number, token=secrets.token_hex(8))
        try:
            outcome = runner.run(spec, device, study.plan, attempt, lambda progress: None)
        except TrialFault as fault:
            print(f"{config.to_json()}: {fault}", file=sys.stderr)
            continue
        found[config] = outcome
        line = {"parameters": dict(config.values), "outcome": json.loads(outcome_to_json(outcome))}
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{number + 1} of {len(configs)}: {config.to_json()}", file=sys.stderr)


def _read(path: Path, space: Space) -> dict[Config, Outcome]:
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        space.config({parameter.name: parameter.default for parameter in space.parameters} | line["parameters"]):
        outcome_from_json(json.dumps(line["outcome"]))
        for line in lines
    }  # fmt: skip


def _agreement(space: Space, ref: MetricRef, records: list[TrialRecord], calibrate: int) -> Agreement | None:
    pairs = []
    for record in records:
        told = (record.predicted or {}).get(str(ref))
        value = record.measurement.value(ref) if record.measurement is not None else None
        if told is not None and value is not None and value > 0 and told.value > 0:
            pairs.append((record, told, value))
    if len(pairs) < 3:
        return None
    calibration = StudyCalibration(space, ref, [record for record, _, _ in pairs[:calibrate]])
    later = [
        abs(calibration.adjusted(record.config, told).value / value - 1.0) for record, told, value in pairs[calibrate:]
    ]
    return Agreement(
        metric=ref,
        count=len(pairs),
        spearman=float(spearmanr([told.value for _, told, _ in pairs], [value for _, _, value in pairs])[0]),
        error=float(np.mean([abs(told.value / value - 1.0) for _, told, value in pairs])),
        inside=float(np.mean([told.low <= value <= told.high for _, told, value in pairs])),
        calibrated=float(np.mean(later)) if later else float("nan"),
    )


if __name__ == "__main__":
    sys.exit(main())
