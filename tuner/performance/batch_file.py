"""Tables of serving runs in, the same tables with predictions out."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, TextIO, cast

from tuner.errors import StorageError, UsageError, first_ones
from tuner.performance.calibration import MeasuredRun, calibrate
from tuner.performance.prediction import Prediction, Predictor
from tuner.performance.serving_row import Declined, ServingRow, read_row
from tuner.whole_file import written_whole

PREDICTED: Final = (
    "predicted_ttft_ms",
    "predicted_tpot_ms",
    "predicted_ttft_low_ms",
    "predicted_ttft_high_ms",
    "predicted_tpot_low_ms",
    "predicted_tpot_high_ms",
    "origin",
    "reason",
)
"""Columns that are added: means, their 90 % intervals, where they come from, or why there are none."""

_REQUIRED: Final = ("model_path", "system", "backend", "isl", "osl")
MEASURED: Final = ("silicon_ttft_ms", "silicon_tpot_ms")
"""Columns of measured runs, one of them at least."""


def read_rows(path: Path, measured: bool = False) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file, gzipped or not.

    Raises:
        UsageError: it cannot be read, lacks a column, has two of one name, or rows that are longer than its header.
    """
    try:
        with open_table(path) as file:
            reader = csv.DictReader(file)
            names = column_names(path, reader)
            read = [(reader.line_num, row) for row in reader]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}.") from error
    missing = [name for name in _REQUIRED if name not in names]
    if measured and not any(name in names for name in MEASURED):
        missing += MEASURED
    if missing:
        raise UsageError(f"{path} has no column {', '.join(missing)}. See docs/performance-model.md for the columns.")
    longer = [f"line {line} has {len(names) + len(row[None])} cells" for line, row in read if any(row.get(None, ()))]
    if longer:
        raise UsageError(f"{path} has {len(names)} columns, but {first_ones(longer)}. Quote cells that hold a comma.")
    return names, [{key: value or "" for key, value in row.items() if key is not None} for _, row in read]


def column_names(path: Path, reader: csv.DictReader[str]) -> list[str]:
    """Names of the columns of a file.

    Raises:
        UsageError: two have one name, so that it is not clear which is meant.
    """
    names = list(reader.fieldnames or ())
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise UsageError(f"{path} has more than one column {', '.join(twice)}. Remove all but one.")
    return names


def idle_measurements(raw: Sequence[dict[str, str]], measured: Sequence[dict[str, str]]) -> str:
    """Why measured rows, or some of them, tell nothing about the rows to predict; empty where all may."""
    wanted = {values.get("model_path", "").strip() for values in raw}
    models: set[str] = set()
    idle: list[str] = []
    for values, row in zip(measured, parsed(measured), strict=True):
        if isinstance(row, Declined):
            idle.append(str(row))
        elif all(_seconds(values, metric) is None for metric in ("ttft", "tpot")):
            idle.append(f"neither {' nor '.join(MEASURED)} is a number above 0")
        else:
            models.add(row.model)
    if idle:
        return f"{len(idle)} of {len(measured)} measured rows tell nothing; the first: {idle[0]}"
    if not models & wanted:
        return "no measured row is of a model to predict, so that nothing is calibrated"
    return ""


def predict_rows(
    predictor: Predictor, raw: Sequence[dict[str, str]], measured: Sequence[dict[str, str]] = ()
) -> list[Prediction]:
    """One prediction per row; `measured` rows (with silicon_ttft_ms and silicon_tpot_ms) calibrate their models."""
    rows = parsed(raw)
    predictions = predictor.predict(rows)
    if not measured:
        return predictions
    known = parsed(measured)
    at_known = predictor.predict(known)
    runs = [
        MeasuredRun(row=row, prediction=prediction, ttft_s=_seconds(values, "ttft"), tpot_s=_seconds(values, "tpot"))
        for values, row, prediction in zip(measured, known, at_known, strict=True)
        if isinstance(row, ServingRow)
    ]
    answered = [place for place, row in enumerate(rows) if isinstance(row, ServingRow)]
    found = calibrate([_row(rows[place]) for place in answered], [predictions[place] for place in answered], runs)
    for place, prediction in zip(answered, found, strict=True):
        predictions[place] = prediction
    return predictions


def parsed(raw: Iterable[dict[str, str]]) -> list[ServingRow | Declined]:
    """Rows read, or why one cannot be."""
    rows: list[ServingRow | Declined] = []
    for values in raw:
        try:
            rows.append(read_row(values))
        except Declined as reason:
            rows.append(reason)
    return rows


def write_rows(path: Path, names: Sequence[str], raw: Sequence[dict[str, str]], found: Sequence[Prediction]) -> None:
    """The rows with `PREDICTED` columns added, gzipped where the name ends in .gz."""
    columns = [*(name for name in names if name not in PREDICTED), *PREDICTED]
    try:
        with written_whole(path) as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            for values, prediction in zip(raw, found, strict=True):
                writer.writerow({**values, **_columns(prediction)})
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def open_table(path: Path) -> TextIO:
    """A CSV file to read, gzipped or not, with or without the mark that spreadsheets put first."""
    opener = gzip.open if path.suffix == ".gz" else open
    return cast(TextIO, opener(path, "rt", encoding="utf-8-sig", newline=""))


def _columns(prediction: Prediction) -> dict[str, str]:
    if prediction.ttft_s is None or prediction.tpot_s is None:
        return {"origin": "declined", "reason": prediction.reason}
    assert prediction.ttft_interval_s is not None
    assert prediction.tpot_interval_s is not None
    times = (prediction.ttft_s, prediction.tpot_s, *prediction.ttft_interval_s, *prediction.tpot_interval_s)
    texts = [f"{time * 1e3:.6g}" for time in times]
    return dict(zip(PREDICTED, [*texts, prediction.origin, ""], strict=True))


def _seconds(values: dict[str, str], metric: str) -> float | None:
    try:
        value = float(values.get(f"silicon_{metric}_ms", ""))
    except ValueError:
        return None
    return value / 1e3 if math.isfinite(value) and value > 0 else None


def _row(row: ServingRow | Declined) -> ServingRow:
    assert isinstance(row, ServingRow)
    return row
