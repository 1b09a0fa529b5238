"""Tables of serving runs in, the same tables with predictions out."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TextIO

import numpy as np

from tuner.errors import UsageError
from tuner.performance.calibration import TPOT, TTFT, adjusted
from tuner.performance.prediction import Prediction, Predictor
from tuner.performance.serving_row import Declined, ServingRow, read_row

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


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file, gzipped or not.

    Raises:
        UsageError: it cannot be read, or lacks a column.
    """
    try:
        with _opened(path) as file:
            reader = csv.DictReader(file)
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
            names = list(reader.fieldnames or ())
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}.") from error
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        raise UsageError(f"{path} has no column {', '.join(missing)}. See docs/performance-model.md for the columns.")
    return names, rows


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
    for metric, sharing in (("ttft", TTFT), ("tpot", TPOT)):
        places, ratios = [], []
        for place, (values, prediction) in enumerate(zip(measured, at_known, strict=True)):
            truth, guess = _milliseconds(values.get(f"silicon_{metric}_ms", "")), getattr(prediction, f"{metric}_s")
            if truth is not None and guess is not None:
                places.append(place)
                ratios.append(math.log(truth / 1e3 / guess))
        asked = [place for place, prediction in enumerate(predictions) if prediction.tpot_s is not None]
        adjustment = adjusted(
            [_row(rows[place]) for place in asked],
            [_row(known[place]) for place in places],
            np.array(ratios),
            sharing,
        )
        for place, factor, narrowing in zip(asked, adjustment.factor, adjustment.narrowing, strict=True):
            predictions[place] = _calibrated(predictions[place], metric, float(factor), float(narrowing))
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
        with _opened(path, write=True) as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            writer.writeheader()
            for values, prediction in zip(raw, found, strict=True):
                writer.writerow({**values, **_columns(prediction)})
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _opened(path: Path, write: bool = False) -> TextIO:
    mode = "wt" if write else "rt"
    if path.suffix == ".gz":
        return gzip.open(path, mode, encoding="utf-8", newline="")  # type: ignore[return-value]
    return path.open(mode[0], encoding="utf-8", newline="")  # type: ignore[return-value]


def _columns(prediction: Prediction) -> dict[str, str]:
    if prediction.ttft_s is None or prediction.tpot_s is None:
        return {"origin": "declined", "reason": prediction.reason}
    assert prediction.ttft_interval_s is not None
    assert prediction.tpot_interval_s is not None
    times = (prediction.ttft_s, prediction.tpot_s, *prediction.ttft_interval_s, *prediction.tpot_interval_s)
    texts = [f"{time * 1e3:.6g}" for time in times]
    return dict(zip(PREDICTED, [*texts, prediction.origin, ""], strict=True))


def _calibrated(prediction: Prediction, metric: str, factor: float, narrowing: float) -> Prediction:
    value, interval = getattr(prediction, f"{metric}_s"), getattr(prediction, f"{metric}_interval_s")
    assert value is not None
    if factor == 1.0 and narrowing == 1.0:
        return prediction
    bounds = tuple(value * factor * (bound / value) ** narrowing for bound in interval)
    origin = prediction.origin if "calibrated" in prediction.origin else f"{prediction.origin}, calibrated"
    return replace(prediction, **{f"{metric}_s": value * factor, f"{metric}_interval_s": bounds, "origin": origin})


def _milliseconds(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _row(row: ServingRow | Declined) -> ServingRow:
    assert isinstance(row, ServingRow)
    return row
