"""`tune predict`: the best configurations of a study, or TTFT and TPOT of serving runs, without running anything."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tuner.cli.performance_inputs import (
    check_place,
    device_catalogue,
    model_source,
    operator_tables,
    refuse_beside_a_study,
)
from tuner.errors import UsageError
from tuner.performance.batch_file import idle_measurements, predict_rows, read_rows, write_rows
from tuner.performance.corrections import shipped
from tuner.performance.prediction import Predictor


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "predict",
        help="a study's best configurations, predicted with intervals",
        description="Predicts a study's configurations (or, with --batch, rows of serving runs) from the model and "
        "operator tables; nothing is started.",
        epilog="examples: tune predict study.yaml --top 5; "
        "tune predict --batch rows.csv.gz --out predicted.csv --models models/",
    )
    parser.add_argument("study", type=Path, nargs="?", help="study file")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="configurations per device type (default: 5)")
    parser.add_argument("--json", action="store_true", help="print a study's predictions as JSON")
    parser.add_argument("--batch", type=Path, metavar="ROWS.csv", help="runs to predict, one per row")
    parser.add_argument("--out", type=Path, metavar="OUT.csv", help="the rows with predictions added")
    parser.add_argument("--models", type=Path, metavar="DIR", help="holds ORG--NAME/config.json (default: here)")
    parser.add_argument("--calibrate", type=Path, metavar="MEASURED.csv", help="measured runs of the same models")
    parser.add_argument("--devices", type=Path, metavar="FILE.yaml", help="your own device catalogue")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.study is not None:
        if arguments.batch is not None:
            raise UsageError("A study and --batch are two questions. Ask one.")
        refuse_beside_a_study(arguments, ("out", "models", "calibrate", "devices"), "--batch")
        from tuner.cli.predict_study import show_study  # imports optuna, which neither help nor a batch needs

        return show_study(arguments.study, arguments.top, arguments.json)
    if arguments.batch is None or arguments.out is None:
        raise UsageError("Nothing to predict. Write a study file, or --batch ROWS.csv --out OUT.csv.")
    models = arguments.models or Path()
    if not models.is_dir():
        raise UsageError(f"{models} is no folder. Give the folder that holds ORG--NAME/config.json.")
    check_place(arguments.out)
    names, rows = read_rows(arguments.batch)
    measured = read_rows(arguments.calibrate, measured=True)[1] if arguments.calibrate else []
    tables = operator_tables(device_catalogue(arguments.devices))
    predictor = Predictor(model_source(models), tables, shipped())
    found = predict_rows(predictor, rows, measured)
    write_rows(arguments.out, names, rows, found)
    if arguments.calibrate and (note := idle_measurements(rows, measured)):
        print(f"{arguments.calibrate}: {note}", file=sys.stderr)
    declined = sum(1 for prediction in found if prediction.tpot_s is None)
    print(f"{len(found) - declined} of {len(found)} rows predicted, {declined} declined", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from tuner.cli.performance_inputs import alone

    sys.exit(alone(add))
