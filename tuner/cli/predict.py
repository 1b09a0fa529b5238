"""`tune predict`: TTFT and TPOT of serving runs without running anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from tuner.cli.performance_inputs import installed, model_source
from tuner.errors import UsageError
from tuner.hardware import Hardware
from tuner.performance.batch_file import predict_rows, read_rows, write_rows
from tuner.performance.corrections import shipped
from tuner.performance.prediction import Predictor
from tuner.performance.table_choice import tables_for


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "predict",
        help="TTFT and TPOT of serving runs, predicted with intervals",
        description="Predicts serving runs from the model's configuration and operator tables; nothing is started.",
        epilog="example: tune predict --batch rows.csv.gz --out predicted.csv --models models/",
    )
    parser.add_argument("--batch", type=Path, required=True, metavar="ROWS.csv", help="runs to predict, one per row")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.csv", help="the rows with predictions added")
    parser.add_argument(
        "--models", type=Path, default=Path(), metavar="DIR", help="holds ORG--NAME/config.json (default: here)"
    )
    parser.add_argument("--calibrate", type=Path, metavar="MEASURED.csv", help="measured runs of the same models")
    parser.add_argument("--devices", type=Path, metavar="FILE.yaml", help="your own device catalogue")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if not arguments.models.is_dir():
        raise UsageError(f"{arguments.models} is no folder. Give the folder that holds ORG--NAME/config.json.")
    names, rows = read_rows(arguments.batch)
    measured = read_rows(arguments.calibrate)[1] if arguments.calibrate else []
    catalogue = cast(Callable[[Path | None], Mapping[str, Hardware]], installed("tuner.device_catalogues", "shipped"))(
        arguments.devices
    )
    folder = cast(Callable[[], Path], installed("tuner.operator_tables", "shipped"))()
    predictor = Predictor(model_source(arguments.models), tables_for(catalogue, folder), shipped())
    found = predict_rows(predictor, rows, measured)
    write_rows(arguments.out, names, rows, found)
    declined = sum(1 for prediction in found if prediction.tpot_s is None)
    print(f"{len(found) - declined} of {len(found)} rows predicted, {declined} declined", file=sys.stderr)
    return 0


if __name__ == "__main__":
    from tuner.cli.performance_inputs import alone

    sys.exit(alone(add))
