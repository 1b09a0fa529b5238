"""Trace files: the user's own traffic, as CSV or JSON Lines.

A column `arrival_s` holds seconds, or a date and time (or `arrival_ms` milliseconds); `input_tokens` and
`output_tokens` may be there. The names that published traces use are understood too, see the constants
below. Case does not matter, other columns are ignored, and arrivals count from the first row. Rows are numbered
as an editor numbers lines, so that the header of a CSV file is row 1.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TextIO

from tuner.errors import TraceError
from tuner.workload import TraceRequest

ARRIVAL_S: Final = ("arrival_s", "timestamp", "time", "arrival_time", "arrived_at")
ARRIVAL_MS: Final = ("arrival_ms", "timestamp_ms")
INPUT_TOKENS: Final = (
    "input_tokens",
    "prompt_tokens",
    "input_length",
    "context_tokens",
    "contexttokens",
    "request tokens",
)
OUTPUT_TOKENS: Final = (
    "output_tokens",
    "completion_tokens",
    "output_length",
    "generated_tokens",
    "generatedtokens",
    "response tokens",
)
MAX_ROWS: Final = 2_000_000
_LISTED: Final = 10
_LONGEST_LINE: Final = 100_000
_MOST_TOKENS: Final = 10_000_000
_CSV: Final = (".csv",)
_JSON: Final = (".jsonl", ".ndjson")

Row = Mapping[str, object]


@dataclass(slots=True)
class _BadRows:
    """What is wrong, row by row: the first few, and how many."""

    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, row: int, problem: str) -> None:
        self.count += 1
        if len(self.listed) < _LISTED:
            self.listed.append(f"row {row}: {problem}")

    def message(self, path: Path) -> str:
        more = f"; and {self.count - len(self.listed)} more" if self.count > len(self.listed) else ""
        rows = "row" if self.count == 1 else "rows"
        listed = "; ".join(self.listed)
        return f"The trace {path} has {self.count} bad {rows}: {listed}{more}. Correct or remove them."


def read_trace(path: Path) -> tuple[TraceRequest, ...]:
    """The requests of a trace file, by ascending arrival, the first one at 0 s.

    Raises:
        TraceError: the file is missing, of another format, without requests, or has bad rows (all are
            counted, the first ten listed).
    """
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join(suffixes[:-1][-1:] if packed else suffixes[-1:])
    if kind not in _CSV + _JSON:
        raise TraceError(f"{path.name} is no trace by its name. Name a file in .csv, .jsonl, .csv.gz or .jsonl.gz.")
    bad = _BadRows()
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as raw:
            text = io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")
            rows = _csv_rows(text, path) if kind in _CSV else _json_rows(text, bad)
            requests = _requests(rows, bad, path)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"The trace {path} cannot be read: {_reason(error)}. Name a readable file.") from error
    except UnicodeDecodeError as error:
        raise TraceError(f"The trace {path} is no UTF-8 text ({error.reason}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise TraceError(f"The trace {path} is no CSV: {error}. Save it as plain CSV.") from error
    if bad.count:
        raise TraceError(bad.message(path))
    if not requests:
        raise TraceError(f"The trace {path} holds no requests. Write one row per request.")
    if requests[-1].arrival_s == requests[0].arrival_s:
        raise TraceError(f"All requests of the trace {path} arrive at once. Give them different arrivals.")
    return requests


def _reason(error: BaseException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _csv_rows(text: TextIO, path: Path) -> Iterator[tuple[int, Row]]:
    reader = csv.reader(_lines(text, path), strict=True)
    header = [name.strip().lower() for name in next(reader, [])]
    _check_columns(header, path)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, dict(zip(header, cells, strict=False))


def _json_rows(text: TextIO, bad: _BadRows) -> Iterator[tuple[int, Row]]:
    number = 0
    while line := text.readline(_LONGEST_LINE):
        number += 1
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            bad.add(number, "is no JSON object on one line")
            continue
        if not isinstance(row, dict):
            bad.add(number, "is no JSON object")
            continue
        yield number, {str(name).lower(): cell for name, cell in row.items()}


def _lines(text: TextIO, path: Path) -> Iterator[str]:
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise TraceError(f"The trace {path} has a line of {_LONGEST_LINE} characters. Write one row per request.")
        yield line


def _check_columns(header: list[str], path: Path) -> None:
    if not any(name in header for name in ARRIVAL_S + ARRIVAL_MS):
        columns = ", ".join(repr(name) for name in header) or "nothing"
        raise TraceError(
            f"The trace {path} has no column of arrivals; its first row holds {columns[:200]}. "
            "Write a header such as arrival_s,input_tokens,output_tokens."
        )


def _requests(rows: Iterator[tuple[int, Row]], bad: _BadRows, path: Path) -> tuple[TraceRequest, ...]:
    requests: list[TraceRequest] = []
    first: float | None = None
    last = -math.inf
    for count, (number, row) in enumerate(rows):
        if count >= MAX_ROWS:
            raise TraceError(f"The trace {path} has more than {MAX_ROWS} rows. Keep a representative part of it.")
        arrival, problem = _arrival(row)
        if arrival is None:
            bad.add(number, problem)
            continue
        if arrival < last:
            bad.add(number, f"arrives at {arrival:g} s, before the row above at {last:g} s (sort by arrival)")
            continue
        tokens: list[int | None] = []
        for names in (INPUT_TOKENS, OUTPUT_TOKENS):
            value, problem = _tokens(row, names)
            if problem:
                bad.add(number, problem)
                break
            tokens.append(value)
        else:
            first = arrival if first is None else first
            last = arrival
            requests.append(TraceRequest(arrival_s=arrival - first, input_tokens=tokens[0], output_tokens=tokens[1]))
    return tuple(requests)


def _cell(row: Row, names: tuple[str, ...]) -> tuple[str, object]:
    return next(((name, row[name]) for name in names if name in row), (names[0], None))


def _arrival(row: Row) -> tuple[float | None, str]:
    """Seconds since any fixed moment, or what is wrong."""
    for names, unit_s in ((ARRIVAL_S, 1.0), (ARRIVAL_MS, 1e-3)):
        name, cell = _cell(row, names)
        if cell is None:
            continue
        seconds = _number(cell)
        if seconds is None and isinstance(cell, str):
            seconds = _moment(cell)
        if seconds is None or not math.isfinite(seconds):
            return None, f"{name} is {_show(cell)}, no number"
        if seconds < 0:
            return None, f"{name} is {_show(cell)}, below 0"
        return seconds * unit_s, ""
    return None, "has no arrival_s"


def _tokens(row: Row, names: tuple[str, ...]) -> tuple[int | None, str]:
    name, cell = _cell(row, names)
    if cell is None or cell == "":
        return None, ""
    number = _number(cell)
    if number is None or not 1 <= number <= _MOST_TOKENS or number != int(number):
        return None, f"{name} is {_show(cell)}, no whole number of 1 or more"
    return int(number), ""


def _number(cell: object) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _show(cell: object) -> str:
    text = repr(cell)
    return text if len(text) <= 40 else text[:37] + "..."
