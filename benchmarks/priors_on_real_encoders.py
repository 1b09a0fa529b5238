"""Real trials until a study that stands on two other encoders' studies is within 5 % of a sweep's best.

1. Tunes two encoders of other depth and width, the second standing on the first, and keeps both studies as priors, in a
   library of their own.
2. Sweeps the study's own encoder at random, without replacement.
3. Tunes it `--repeats` times with the priors, with another seed each time, and never stopping early; with `--scratch`
   as often without them.
4. Measures whatever came near the best again, interleaved: a single trial is too noisy to be held to 5 %.

Times are wall times of trials; a stage ends with its share of `--minutes`, so that the whole takes about that.
Everything is kept in `--folder`, so the script goes on where it stopped.

    python benchmarks/priors_on_real_encoders.py examples/quickstart/study.yaml --minutes 15 --folder priors-bench
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import yaml

import tuner
from tuner.parameter import Config, format_config
from tuner.priors.library import PriorLibrary
from tuner.strategies.history import Kind
from tuner.study import adapters
from tuner.study.definition import NONE, Budget, Study
from tuner.study.earlier import remembered
from tuner.study.file import parse_study
from tuner.study.record import TrialRecord
from tuner.study.space import study_space
from tuner.trial import Attempt, Measurement

MAKE_ENCODER: Final = Path(__file__).resolve().parents[1] / "examples" / "quickstart" / "make_encoder.py"
ENCODERS: Final[dict[str, dict[str, int]]] = {
    "target": {},  # 6 layers of width 384, as all-MiniLM-L6-v2
    "small": {"layers": 4, "hidden": 256, "heads": 4},  # BERT-mini, Turc et al. 2019
    "medium": {"layers": 8, "hidden": 512, "heads": 8},  # BERT-medium
}
TRIAL: Final = {"warmup": "0.5 s", "windows": 5, "window": "0.7 s"}
NEAR: Final = 1.3
"""What looked this many times worse than the best in a single trial is not measured again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of the time, by stage; the two encoders' and all repeats' together."""

    others: float = 0.35
    sweep: float = 0.3
    repeats: float = 0.2
    again: float = 0.15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="study file; its model is replaced by the encoders")
    parser.add_argument("--folder", type=Path, default=Path("priors-bench"), help="for models, storage and library")
    parser.add_argument("--minutes", type=float, default=15.0, help="of trials, all together")
    parser.add_argument("--repeats", type=int, default=5, help="studies with the priors")
    parser.add_argument("--scratch", action="store_true", help="as many without priors (takes longer)")
    parser.add_argument("--trials", type=int, default=4, help="of each such study, at most")
    parser.add_argument("--others", type=int, default=20, help="trials of each of the two other encoders, at most")
    parser.add_argument("--sweep", type=int, default=60, help="trials of the sweep, at most")
    parser.add_argument("--again", type=int, default=3, help="times that near configurations are measured again")
    arguments = parser.parse_args()
    folder, seconds, shares = arguments.folder.resolve(), 60 * arguments.minutes, Shares()
    library = PriorLibrary(folder / "library")
    library.folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("small", "medium"), start=1):
        budget = Budget(trials=arguments.others, seconds=seconds * shares.others / 2)
        study = study_of(arguments.study, folder, name, name, budget, priors=str(library.folder), seed=seed)
        space = study_space(study, adapters.search_space(study.engine.name, study.engine.options))
        if name not in library.names():
            remembered(tuned(study), space, library)
    budget = Budget(trials=arguments.sweep, seconds=seconds * shares.sweep)
    sweep = tuned(study_of(arguments.study, folder, "target", "sweep", budget, sampler="random"))
    runs: dict[str, list[tuner.Result]] = {}
    for kind, priors in (("priors", str(library.folder)), *([("scratch", NONE)] if arguments.scratch else [])):
        limit = Budget(trials=arguments.trials, seconds=seconds * shares.repeats / arguments.repeats)
        runs[kind] = [
            tuned(study_of(arguments.study, folder, "target", f"{kind}-{seed}", limit, priors=priors, seed=seed))
            for seed in range(arguments.repeats)
        ]
    all_runs = [run for each in runs.values() for run in each]
    medians = measured_again(sweep, all_runs, arguments.again, seconds * shares.again, folder / "again.json")
    report(sweep, runs, medians)
    return 0


def study_of(
    source: Path, folder: Path, encoder: str, name: str, budget: Budget, *, sampler: str = "auto", **search: object
) -> Study:
    """The study file, with another encoder, name and search."""
    model = folder / f"{encoder}.onnx"
    if not model.exists():
        sizes = [word for key, value in ENCODERS[encoder].items() for word in (f"--{key}", str(value))]
        subprocess.run([sys.executable, str(MAKE_ENCODER), *sizes, "--out", str(model)], check=True)
    content = {**yaml.safe_load(source.read_text()), "model": str(model), "name": name, "trial": TRIAL}
    study = parse_study(yaml.safe_dump(content).encode(), source)
    options = {"sampler": sampler, "priors": NONE, "confirmations": 0, "stop": None, "budget": budget, **search}
    return adapters.with_runner_resolved(
        replace(
            study,
            search=replace(study.search, **options),  # type: ignore[arg-type]
            storage=f"sqlite:///{folder / 'studies.db'}",
            exports={},
        )
    )


def tuned(study: Study) -> tuner.Result:
    """The study, carried out or gone on with."""
    began = time.monotonic()

    def tell(record: TrialRecord) -> None:
        value = objective_value(study, record)
        words = "-" if value is None else study.objectives[0].metric.format(value)
        print(f"{study.name} {record.number} {words} {format_config(record.config.values)}", flush=True)

    result = tuner.tune(study, on_trial=tell)
    print(f"{study.name}: {result.stop_reason}, {time.monotonic() - began:.0f} s", flush=True)
    return result


def objective_value(study: Study, record: TrialRecord) -> float | None:
    """What a trial measured of the objective, where it held the SLO."""
    measurement = record.measurement
    return (
        None if measurement is None or not record.holds(study.slos) else measurement.value(study.objectives[0].metric)
    )


def measured_again(
    sweep: tuner.Result, runs: list[tuner.Result], times: int, seconds: float, file: Path
) -> dict[Config, float]:
    """By configuration, the median of the objective over all its trials and those made here, interleaved.

    At least one round is made; further ones while there is time.
    """
    study, objective = sweep.study, sweep.study.objectives[0]
    values: dict[Config, list[float]] = {}
    for result in (sweep, *runs):
        for record in result.records:
            if record.kind is Kind.SEARCH and (value := objective_value(study, record)) is not None:
                values.setdefault(record.config, []).append(value)
    if not values:
        raise SystemExit("no trial met the SLO")
    best = max((found[0] for found in values.values()), key=objective.gain)
    near = [config for config, found in values.items() if objective.ratio(best, min(found, key=objective.gain)) <= NEAR]
    again: dict[str, list[float | None]] = json.loads(file.read_text()) if file.exists() else {}
    engine = adapters.search_space(study.engine.name, study.engine.options)
    runner = adapters.runner(study.runner.name, study.runner.options)
    began = time.monotonic()
    for turn in range(times):
        if turn and time.monotonic() - began > seconds * turn / times:
            break
        for number, config in enumerate(near):
            done = again.setdefault(config.to_json(), [])
            if len(done) > turn:
                continue
            attempt = Attempt(study_id="priors-bench", trial=number, token=f"turn{turn}")
            spec = engine.launch(study.task, config, runner.target)
            outcome = runner.run(spec, study.task.device(config.device), study.plan, attempt, lambda progress: None)
            done.append(outcome.value(objective.metric) if isinstance(outcome, Measurement) else None)
            file.write_text(json.dumps(again))
            print(f"again {turn} {number}/{len(near)} {done[-1]}", flush=True)
    for config in near:
        values[config] += [value for value in again.get(config.to_json(), []) if value is not None]
    return {config: statistics.median(values[config]) for config in near}


def report(sweep: tuner.Result, runs: dict[str, list[tuner.Result]], medians: dict[Config, float]) -> None:
    """Trials to within 5 % of the sweep's best, per run."""
    objective = sweep.study.objectives[0]
    swept = {record.config for record in sweep.records}
    best = max((config for config in medians if config in swept), key=lambda config: objective.gain(medians[config]))
    goal = medians[best]
    print(f"\nsweep of {len(swept)}: best {objective.metric.format(goal)} {format_config(best.values)}")
    for kind, results in runs.items():
        counts = []
        for result in results:
            ratios = [
                objective.ratio(goal, medians[record.config]) if record.config in medians else None
                for record in result.records
            ]
            found = next((step for step, ratio in enumerate(ratios, start=1) if ratio and ratio <= 1.05), None)
            counts.append(found)
            shown = " ".join("far" if ratio is None else f"{ratio:.2f}x" for ratio in ratios)
            print(f"{result.study.name}: {found or f'more than {len(ratios)}'} trials ({shown} the sweep's best)")
        hits = sum(count is not None and count <= 3 for count in counts)
        print(f"{kind}: within 5 % in 3 trials or fewer in {hits} of {len(counts)}")


if __name__ == "__main__":
    sys.exit(main())
