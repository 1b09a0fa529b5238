"""Recorded tasks: the groups of a task file's data, with what was measured of every configuration."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from tuner.bench.expression import Column, Expression, ExpressionError, first_word
from tuner.bench.task_file import DescriptorFile, TaskFile
from tuner.errors import Fault, StudyFileError, did_you_mean
from tuner.metric import Direction
from tuner.parameter import BEYOND_USE, Scale, Value
from tuner.strategies.listed_problem import BoolArray, Bound, EarlierTask, FloatArray, ListedParameter


@dataclass(frozen=True, kw_only=True)
class RecordedTask:
    """One group: a search problem whose answers are known.

    Attributes:
        name: values of the `group_by` columns.
        family: what is left out together with it; the name unless a family column was chosen.
        rows: parameter values of every recorded row; repeats of a configuration are rows of their own.
        numbers: position of each row in the concatenated data files, from 0.
        ran, objective, constraints: as in `EarlierTask`.
        direction, bounds: of the task file.
        features: numbers that describe the task.
    """

    name: tuple[Value, ...]
    family: tuple[Value, ...]
    rows: tuple[tuple[Value, ...], ...]
    numbers: tuple[int, ...]
    ran: BoolArray
    objective: FloatArray
    constraints: FloatArray
    direction: Direction
    bounds: tuple[Bound, ...]
    features: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def configurations(self) -> tuple[tuple[Value, ...], ...]:
        """The distinct configurations, in order of first appearance."""
        return tuple(dict.fromkeys(self.rows))

    @cached_property
    def repeats(self) -> tuple[tuple[int, ...], ...]:
        """Of every configuration, the rows that measured it."""
        by_configuration: dict[tuple[Value, ...], list[int]] = {row: [] for row in self.configurations}
        for position, row in enumerate(self.rows):
            by_configuration[row].append(position)
        return tuple(tuple(positions) for positions in by_configuration.values())

    @cached_property
    def gains(self) -> FloatArray:
        """Median objective of every configuration, more is better; minus infinity unless all repeats hold."""
        whole = self.earlier().gains(self.direction, self.bounds)
        return np.array(
            [np.median(whole[list(rows)]) if np.isfinite(whole[list(rows)]).all() else -np.inf for rows in self.repeats]
        )

    def within(self, share: float) -> BoolArray:
        """Which configurations hold and are within `share` (0.05) of the optimum."""
        best = float(self.gains.max())
        return np.asarray(self.gains >= best - share * abs(best))

    def regret(self) -> FloatArray:
        """How far each configuration is from the optimum, relative to it; infinite where it does not hold."""
        best = float(self.gains.max())
        gaps = best - self.gains
        # Of an optimum of 0 there is no share: whatever is not it is infinitely far.
        shares = np.divide(gaps, abs(best), out=np.full(len(gaps), np.inf), where=bool(best))
        return np.asarray(np.where(gaps == 0.0, 0.0, shares))

    def earlier(self) -> EarlierTask:
        """The whole table, as later tasks may read it."""
        return EarlierTask(
            name=tuple(str(value) for value in self.name),
            rows=self.rows,
            ran=self.ran,
            objective=self.objective,
            constraints=self.constraints,
            features=self.features,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedData:
    """The tasks of a task file.

    Attributes:
        task_file: what it was read from.
        tasks: every group, also those too small to be tuned, in order of name.
        tunable: for each, whether it has enough rows and one that holds.
        descriptors: as in `ListedProblem.descriptors`.
        notes: for people: empty cells that became a value, no column by the name of a family, groups that were skipped.
    """

    task_file: TaskFile
    tasks: tuple[RecordedTask, ...]
    tunable: tuple[bool, ...]
    descriptors: Mapping[str, Mapping[Value, tuple[float, ...]]]
    notes: tuple[str, ...]

    @property
    def targets(self) -> tuple[RecordedTask, ...]:
        """The groups that can be tuned."""
        return tuple(task for task, tunable in zip(self.tasks, self.tunable, strict=True) if tunable)


def load_recorded(task_file: TaskFile, *, families: Sequence[str] = (), data: Sequence[Path] = ()) -> RecordedData:
    """Reads the data of a task file into tasks.

    Args:
        task_file: a checked task file.
        families: column names; the first that the data has names the family of a task. None: the group.
        data: CSV files to read instead of the task file's own.

    Raises:
        StudyFileError: columns that are unknown or there twice, expressions that cannot be computed, numbers that are
            infinite or beyond all use (objectives and constraints where the configuration ran: NaN, too), groups and
            ordinal parameters without a value, or no group that can be tuned.
    """
    faults: list[Fault] = []
    origin = str(task_file.path)
    if data:
        origin += f" on {', '.join(map(str, data))}"
    frame = _read_frames(data or task_file.data, task_file, origin, faults)
    _check_columns(task_file, frame, faults)
    if faults:
        raise StudyFileError(origin, faults)
    table = _Table(task_file, frame)
    family_column = next((name for name in families if name in frame.columns), None)
    task_features = _task_features(task_file, faults)
    tasks, tunable, skipped = [], [], []
    notes = []
    if families and family_column is None:
        notes.append(f"{task_file.name}: no column is called {' or '.join(families)}; only a group itself is left out")
    for task in table.tasks(family_column, task_features):
        reason = _untunable(task, task_file.min_rows)
        tasks.append(task)
        tunable.append(reason is None)
        if reason is not None:
            skipped.append(f"{task_file.name}: {'/'.join(map(str, task.name))} is skipped: {reason}")
    if not any(tunable):
        table.faults.append(
            Fault(
                where="group_by",
                problem="No group can be tuned: " + "; ".join(skipped[:3] or ["there are no rows"]) + ".",
                remedy="Lower min_rows, relax the constraints, or give data in which something holds.",
            )
        )
    faults += table.faults
    if faults:
        raise StudyFileError(origin, faults)
    return RecordedData(
        task_file=task_file,
        tasks=tuple(tasks),
        tunable=tuple(tunable),
        descriptors=_value_descriptors(task_file),
        notes=(*table.notes, *notes, *skipped),
    )


def _untunable(task: RecordedTask, min_rows: int) -> str | None:
    if len(task.rows) < min_rows:
        return f"{len(task.rows)} rows, fewer than {min_rows}"
    if not np.isfinite(task.gains).any():
        return "no configuration holds"
    return None


def _read_frames(paths: Iterable[Path], task_file: TaskFile, origin: str, faults: list[Fault]) -> pd.DataFrame:
    frames = []
    for path in paths:
        try:
            frames.append(_read_csv(path, task_file))
        except _UNREADABLE as error:
            faults.append(_unread("data", path, error))
    if not frames:
        raise StudyFileError(origin, faults)
    return pd.concat(frames, ignore_index=True)


class _TwoOfOneName(ValueError):
    """Columns that the task file reads are there twice."""


def _unread(where: str, path: Path, error: Exception) -> Fault:
    remedy = "Remove all but one." if isinstance(error, _TwoOfOneName) else "Give a CSV file, gzipped or not."
    return Fault(where=where, problem=f"{path} cannot be read: {str(error).strip()}.", remedy=remedy)


def _read_csv(path: Path, task_file: TaskFile) -> pd.DataFrame:
    """A CSV file; where words are expected, `None` and `null` are words rather than missing numbers."""
    packed: Literal["gzip"] | None = "gzip" if path.suffix == ".gz" else None
    # In one piece, so that a column has one type throughout.
    frame = pd.read_csv(path, compression=packed, low_memory=False)
    header = pd.read_csv(path, compression=packed, header=None, nrows=1, dtype=str).iloc[0].tolist()
    twice = sorted({name for _, names in _read_columns(task_file) for name in names if header.count(name) > 1})
    if twice:
        raise _TwoOfOneName(f"more than one column is called {', '.join(twice)}")
    words = [parameter.name for parameter in task_file.parameters if parameter.scale is Scale.CATEGORICAL]
    for name in (*task_file.group_by, *words):
        if name in frame.columns and frame[name].isna().any():
            own = pd.read_csv(
                path, compression=packed, low_memory=False, usecols=[name], keep_default_na=False, na_values=_MISSING
            )
            frame[name] = own[name]
    return frame


def _read_columns(task_file: TaskFile) -> list[tuple[str, tuple[str, ...]]]:
    """Names of the columns that the task file reads, by the entry that does."""
    read: list[tuple[str, tuple[str, ...]]] = [
        ("group_by", task_file.group_by),
        *((f"parameters.{parameter.name}", (parameter.name,)) for parameter in task_file.parameters),
        ("objective.expr", task_file.objective.columns),
        *((f"constraints[{at}].expr", limit.expression.columns) for at, limit in enumerate(task_file.limits)),
    ]
    for where, expression in (("where", task_file.where), ("feasible", task_file.feasible)):
        if expression is not None:
            read.append((where, expression.columns))
    return read


def _check_columns(task_file: TaskFile, frame: pd.DataFrame, faults: list[Fault]) -> None:
    known = [str(name) for name in frame.columns]
    for where, names in _read_columns(task_file):
        for name in names:
            if name not in known:
                faults.append(
                    Fault(where=where, problem=f"The data has no column {name!r}.", remedy=did_you_mean(name, known))
                )


class _Table:
    """The rows of a data set, computed and grouped."""

    def __init__(self, task_file: TaskFile, frame: pd.DataFrame) -> None:
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self._file = task_file
        frame = frame.assign(**{_NUMBER: np.arange(len(frame))})
        if task_file.where is not None:
            frame = frame[self._truths("where", task_file.where, frame)]
        self._frame = frame
        columns, count = _columns(frame), len(frame)
        self._ran = np.ones(count, bool)
        if task_file.feasible is not None:
            self._ran = np.array(self._truths("feasible", task_file.feasible, frame))
        self._objective = self._numbers("objective.expr", task_file.objective, columns, count)
        self._constraints = np.column_stack(
            [
                np.empty((count, 0)),
                *(
                    self._numbers(f"constraints[{at}].expr", limit.expression, columns, count)
                    for at, limit in enumerate(task_file.limits)
                ),
            ]
        )
        self._check_values()

    def tasks(
        self, family_column: str | None, features: Mapping[tuple[Value, ...], Mapping[str, float]]
    ) -> Iterable[RecordedTask]:
        rows = list(zip(*(self._searched(parameter) for parameter in self._file.parameters), strict=True))
        groups: dict[tuple[Value, ...], list[int]] = {}
        for position, name in enumerate(zip(*(_values(self._frame[key]) for key in self._file.group_by), strict=True)):
            groups.setdefault(name, []).append(position)
        numbers = self._frame[_NUMBER].tolist()
        families = None if family_column is None else _values(_empty_named(self._frame[family_column]))
        for name in sorted(groups, key=lambda group: tuple(map(str, group))):
            positions = groups[name]
            yield RecordedTask(
                name=name,
                family=name if families is None else (families[positions[0]],),
                rows=tuple(rows[position] for position in positions),
                numbers=tuple(numbers[position] for position in positions),
                ran=self._ran[positions],
                objective=np.where(self._ran, self._objective, np.nan)[positions],
                constraints=np.where(self._ran[:, None], self._constraints, np.nan)[positions],
                direction=self._file.direction,
                bounds=self._file.bounds,
                features=_group_features(self._file.group_by, name) | dict(features.get(name, {})),
            )

    def _searched(self, parameter: ListedParameter) -> list[Value]:
        """The values of a parameter; to expressions, an empty cell stays empty."""
        column = self._frame[parameter.name]
        return _values(_empty_named(column) if parameter.scale is Scale.CATEGORICAL else column)

    def _truths(self, where: str, expression: Expression, frame: pd.DataFrame) -> BoolArray:
        try:
            return expression.truths(_columns(frame), len(frame))
        except ExpressionError as error:
            self.faults.append(Fault(where=where, problem=str(error), remedy=""))
            return np.ones(len(frame), bool)

    def _numbers(self, where: str, expression: Expression, columns: Mapping[str, Column], count: int) -> FloatArray:
        try:
            return expression.numbers(columns, count)
        except ExpressionError as error:
            self.faults.append(Fault(where=where, problem=str(error), remedy=""))
            return np.zeros(count)

    def _check_values(self) -> None:
        numbers = self._frame[_NUMBER].to_numpy()
        if not len(numbers):
            return
        for where, values in [
            ("objective", self._objective),
            *((f"constraints[{at}]", self._constraints[:, at]) for at in range(self._constraints.shape[1])),
        ]:
            bad = numbers[self._ran & ~(np.abs(values) < BEYOND_USE)]
            if len(bad):
                what = f"NaN, infinite or beyond {BEYOND_USE:g}"
                problem = f"It is {what} in {len(bad)} rows that ran, the first at data row {bad[0]}."
                self.faults.append(
                    Fault(where=where, problem=problem, remedy="Drop them with `where`, or mark them in `feasible`.")
                )
        words = [parameter.name for parameter in self._file.parameters if parameter.scale is Scale.CATEGORICAL]
        for name in (*self._file.group_by, *(parameter.name for parameter in self._file.parameters)):
            missing = numbers[self._frame[name].isna().to_numpy()]
            if len(missing) and name in words and name not in self._file.group_by:
                rows = "row" if len(missing) == 1 else "rows"
                self.notes.append(f"{self._file.name}: {name!r} is {EMPTY} in {len(missing)} {rows}")
            elif len(missing):
                listed = ", ".join(map(str, missing[:_LISTED])) + (", ..." if len(missing) > _LISTED else "")
                problem = f"The column {name!r} is empty in {len(missing)} rows: data rows {listed} (from 0)."
                written = name if name.isidentifier() else f"`{name}`"
                remedy = f"Fill it, or drop the rows with where: {written} == {written}."
                self.faults.append(Fault(where=name, problem=problem, remedy=remedy))
            elif pd.api.types.is_numeric_dtype(self._frame[name]):
                beyond = numbers[~(np.abs(self._frame[name].to_numpy(float)) < BEYOND_USE)]
                if len(beyond):
                    problem = f"The column {name!r} is infinite or beyond {BEYOND_USE:g} in {len(beyond)} rows"
                    self.faults.append(
                        Fault(
                            where=name,
                            problem=f"{problem}, the first at data row {beyond[0]}.",
                            remedy="Write what was set, or drop the rows with `where`.",
                        )
                    )
        for parameter in self._file.parameters:
            column = self._frame[parameter.name]
            if parameter.scale is Scale.CATEGORICAL:
                continue
            if not pd.api.types.is_numeric_dtype(column):
                problem = f"The column holds words ({first_word(column.tolist())!r}), not numbers."
                self.faults.append(
                    Fault(where=f"parameters.{parameter.name}", problem=problem, remedy="Write {type: categorical}.")
                )
            elif parameter.scale is Scale.LOG and (column < 0).any():
                problem = f"The column goes down to {column.min()}, which has no logarithm."
                self.faults.append(
                    Fault(
                        where=f"parameters.{parameter.name}",
                        problem=problem,
                        remedy="Write {type: ordinal, scale: linear}.",
                    )
                )


EMPTY = "(empty)"
"""The value of an empty cell of a categorical parameter."""
_LISTED = 10
_NUMBER = "__number__"
_UNREADABLE = (OSError, ValueError, EOFError, zlib.error)
_MISSING = ("", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "#N/A")


def _columns(frame: pd.DataFrame) -> dict[str, Column]:
    return {
        str(name): frame[name].to_numpy(dtype=None if pd.api.types.is_numeric_dtype(frame[name]) else object)
        for name in frame.columns
    }


def _empty_named(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), EMPTY)


def _values(column: pd.Series) -> list[Value]:
    return list(column.tolist())


def _group_features(names: Sequence[str], values: Sequence[Value]) -> dict[str, float]:
    """The numbers in a task's own name (an input length) describe it."""
    return {
        name: float(value)
        for name, value in zip(names, values, strict=True)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _task_features(task_file: TaskFile, faults: list[Fault]) -> dict[tuple[Value, ...], dict[str, float]]:
    """Numbers of the descriptor files that are joined on the columns which name a task."""
    features: dict[tuple[Value, ...], dict[str, float]] = {}
    for at, descriptor in enumerate(task_file.descriptors):
        frame = _descriptor_frame(descriptor, task_file, at, faults)
        if frame is None or descriptor.on != task_file.group_by:
            continue
        numeric = frame.drop(columns=list(descriptor.on)).select_dtypes(["number", "bool"])
        for position, name in enumerate(zip(*(_values(frame[key]) for key in descriptor.on), strict=True)):
            row = numeric.iloc[position]
            features.setdefault(name, {}).update(
                {str(key): float(row[key]) for key in numeric.columns if np.isfinite(float(row[key]))}
            )
    return features


def _descriptor_frame(
    descriptor: DescriptorFile, task_file: TaskFile, at: int, faults: list[Fault]
) -> pd.DataFrame | None:
    known = {*task_file.group_by, *(parameter.name for parameter in task_file.parameters)}
    try:
        frame = _read_csv(descriptor.path, task_file)
    except _UNREADABLE as error:
        faults.append(_unread(f"descriptors[{at}].file", descriptor.path, error))
        return None
    for name in descriptor.on:
        if name not in frame.columns or name not in known:
            remedy = did_you_mean(name, known)
            problem = f"{name!r} is not both a column of {descriptor.path.name} and one that names tasks or parameters."
            faults.append(Fault(where=f"descriptors[{at}].on", problem=problem, remedy=remedy))
            return None
    return frame


def _value_descriptors(task_file: TaskFile) -> dict[str, dict[Value, tuple[float, ...]]]:
    """Numbers that describe categorical values.

    A file joined on several parameters (GPU type and count) describes the categorical one by its rows with
    the smallest values of the others: one GPU of the type.
    """
    scales = {parameter.name: parameter.scale for parameter in task_file.parameters}
    descriptors: dict[str, dict[Value, tuple[float, ...]]] = {}
    for descriptor in task_file.descriptors:
        if not set(descriptor.on) <= set(scales):
            continue
        words = [name for name in descriptor.on if scales[name] is Scale.CATEGORICAL]
        if len(words) != 1:
            continue
        others = [name for name in descriptor.on if name != words[0]]
        frame = _read_csv(descriptor.path, task_file).sort_values(others or words).drop_duplicates(words)
        numeric = frame.drop(columns=list(descriptor.on)).select_dtypes(["number", "bool"]).astype(float)
        numeric = numeric.replace([np.inf, -np.inf], np.nan)
        numeric = numeric.loc[:, numeric.notna().all() & (numeric.nunique() > 1)]
        table = descriptors.setdefault(words[0], {})
        for position, value in enumerate(_values(_empty_named(frame[words[0]]))):
            table[value] = (*table.get(value, ()), *map(float, numeric.iloc[position]))
    return descriptors
