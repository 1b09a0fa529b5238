"""Task files: how a recorded data set becomes tuning tasks.

A task file is YAML; its keys are `name`, `says`, `data`, `where`, `group_by`, `parameters`, `objective`,
`constraints`, `feasible`, `min_rows` and `descriptors` (see docs/search.md). Paths are relative to the parent
of the folder that the file lies in. All faults of a file are reported together, each at its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.bench.expression import Expression, ExpressionError
from tuner.errors import Fault, StudyFileError, did_you_mean
from tuner.metric import Direction
from tuner.parameter import Scale
from tuner.strategies.listed_problem import Bound, ListedParameter
from tuner.study.yaml_lines import dotted, read

_KEYS = (
    "name",
    "says",
    "data",
    "where",
    "group_by",
    "parameters",
    "objective",
    "constraints",
    "feasible",
    "min_rows",
    "descriptors",
)


_ORDINAL_SCALES = {"linear": Scale.LINEAR, "log2": Scale.LOG}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A constraint of a task file: an expression and its bound."""

    expression: Expression
    bound: Bound


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorFile:
    """A CSV file whose rows describe values, joined on the columns `on`."""

    path: Path
    on: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """A task file, checked as far as it can be without its data.

    Attributes:
        path: where it was read.
        name: of the task file.
        data: CSV files, absolute.
        where: row filter.
        group_by: columns whose values name a task.
        parameters: columns that are searched.
        objective, direction: what is made as good as possible.
        limits: all must hold.
        feasible: false where the configuration did not run.
        min_rows: smaller groups are skipped.
        descriptors: files that describe values.
    """

    path: Path
    name: str
    data: tuple[Path, ...]
    where: Expression | None
    group_by: tuple[str, ...]
    parameters: tuple[ListedParameter, ...]
    objective: Expression
    direction: Direction
    limits: tuple[Limit, ...]
    feasible: Expression | None
    min_rows: int
    descriptors: tuple[DescriptorFile, ...]

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """The limits without their expressions."""
        return tuple(limit.bound for limit in self.limits)


def read_task_file(path: Path) -> TaskFile:
    """Reads and checks a task file.

    Raises:
        StudyFileError: everything that is wrong with it, each fault at its line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        fault = Fault(where="", problem=f"The file cannot be read: {error}.", remedy="Give the path of a task file.")
        raise StudyFileError(str(path), [fault]) from error
    if not data.strip():
        fault = Fault(where="", problem="The file is empty.", remedy="docs/search.md lists the keys of a task file.")
        raise StudyFileError(str(path), [fault])
    document = read(data)
    faults = [fault for _, fault in document.faults]
    if document.value is None:
        raise StudyFileError(str(path), faults)
    reader = _Reader(path, document.value, {dotted(place): line for place, line in document.lines.items()})
    task_file = reader.read()
    # What was left out for a fault of its own need not be missed as well.
    unread = [dotted(place) for place, _ in document.faults if place is not None]
    faults += [fault for fault in reader.faults if not any(place.startswith(fault.where) for place in unread)]
    if task_file is None or faults:
        raise StudyFileError(str(path), faults)
    return task_file


class _Reader:
    """Turns parsed YAML into a `TaskFile`, collecting faults on the way."""

    def __init__(self, path: Path, content: object, lines: Mapping[str, int]) -> None:
        self.faults: list[Fault] = []
        self._path = path
        self._root = path.resolve().parent.parent
        self._content = content
        self._lines = lines

    def read(self) -> TaskFile | None:
        content = self._content
        if not isinstance(content, dict):
            self._fault("", f"It holds {type(content).__name__}, not keys.", "Write `data:`, `parameters:` and so on.")
            return None
        for key in content:
            if key not in _KEYS:
                self._fault(str(key), f"The key {key!r} is unknown.", did_you_mean(str(key), _KEYS))
        objective, direction = self._objective(content.get("objective"))
        task_file = TaskFile(
            path=self._path,
            name=self._name(content.get("name", self._path.stem)),
            data=self._data(content.get("data")),
            where=self._optional_expression("where", content.get("where")),
            group_by=self._words("group_by", content.get("group_by")),
            parameters=self._parameters(content.get("parameters")),
            objective=objective,
            direction=direction,
            limits=self._limits(content.get("constraints", [])),
            feasible=self._optional_expression("feasible", content.get("feasible")),
            min_rows=self._min_rows(content.get("min_rows", 1)),
            descriptors=self._descriptors(content.get("descriptors", [])),
        )
        self._check_names(task_file)
        return task_file

    def _fault(self, where: str, problem: str, remedy: str) -> None:
        line = self._lines.get(where)
        parent = where
        while line is None and parent:
            parent = parent.rpartition(".")[0] if "." in parent else parent.rpartition("[")[0]
            line = self._lines.get(parent)
        self.faults.append(Fault(where=where, problem=problem, remedy=remedy, line=line))

    def _name(self, value: object) -> str:
        if not isinstance(value, str) or not value or "/" in value:
            self._fault("name", f"{value!r} is no name.", "Write a word without slashes.")
            return self._path.stem
        return value

    def _words(self, where: str, value: object) -> tuple[str, ...]:
        if isinstance(value, list) and value and all(isinstance(item, str) and item for item in value):
            if len(set(value)) == len(value):
                return tuple(value)
            self._fault(where, f"{value} names something twice.", "Write each name once.")
        else:
            self._fault(where, f"{value!r} is no list of names.", f"Write for example {where}: [model].")
        return ()

    def _data(self, value: object) -> tuple[Path, ...]:
        paths = []
        for position, name in enumerate(self._words("data", value)):
            path = self._root / name
            if not path.is_file():
                self._fault(f"data[{position}]", f"There is no file {path}.", f"Paths are relative to {self._root}.")
            paths.append(path)
        return tuple(paths)

    def _optional_expression(self, where: str, value: object) -> Expression | None:
        return None if value is None else self._expression(where, value)

    def _expression(self, where: str, value: object) -> Expression:
        if not isinstance(value, str):
            self._fault(where, f"{value!r} is no expression.", "Write one over the columns, in quotes.")
            return Expression("0")
        try:
            return Expression(value)
        except ExpressionError as error:
            self._fault(where, str(error), "" if "Write" in str(error) else "Write for example `latency_ms / batch`.")
            return Expression("0")

    def _parameters(self, value: object) -> tuple[ListedParameter, ...]:
        if not isinstance(value, dict) or not value:
            self._fault("parameters", f"{value!r} names no parameter.", "Write `batch: {type: ordinal, scale: log2}`.")
            return ()
        parameters = []
        for name, spec in value.items():
            where = f"parameters.{name}"
            kind = spec.get("type") if isinstance(spec, dict) else None
            scale = spec.get("scale", "linear") if isinstance(spec, dict) else None
            if kind not in ("categorical", "ordinal"):
                self._fault(
                    where, f"{spec!r} is no parameter.", "Write {type: categorical} or {type: ordinal, scale: log2}."
                )
                continue
            measured = Scale.CATEGORICAL if kind == "categorical" else _ORDINAL_SCALES.get(str(scale))
            if measured is None:
                self._fault(where, f"The scale {scale!r} is unknown.", "Write linear or log2.")
            else:
                parameters.append(ListedParameter(str(name), measured))
        return tuple(parameters)

    def _objective(self, value: object) -> tuple[Expression, Direction]:
        if not isinstance(value, dict):
            self._fault("objective", f"{value!r} is no objective.", "Write {expr: cost, direction: minimize}.")
            return Expression("0"), Direction.MINIMIZE
        try:
            direction = Direction(value.get("direction"))
        except ValueError:
            self._fault(
                "objective.direction", f"{value.get('direction')!r} is no direction.", "Write minimize or maximize."
            )
            direction = Direction.MINIMIZE
        return self._expression("objective.expr", value.get("expr")), direction

    def _limits(self, value: object) -> tuple[Limit, ...]:
        limits = []
        for where, item in self._items("constraints", value):
            bounds = [key for key in ("upper", "lower") if key in item]
            number = item.get(bounds[0]) if len(bounds) == 1 else None
            if not isinstance(number, int | float) or isinstance(number, bool):
                self._fault(where, f"{item!r} states no bound.", "Write {expr: latency_ms, upper: 50}, or lower.")
                continue
            expression = self._expression(f"{where}.expr", item.get("expr"))
            bound = Bound(name=expression.text, limit=float(number), at_most=bounds[0] == "upper")
            limits.append(Limit(expression=expression, bound=bound))
        return tuple(limits)

    def _descriptors(self, value: object) -> tuple[DescriptorFile, ...]:
        files = []
        for where, item in self._items("descriptors", value):
            on = self._words(f"{where}.on", item.get("on"))
            name = item.get("file")
            path = self._root / str(name)
            if not isinstance(name, str):
                self._fault(f"{where}.file", f"{name!r} is no file.", "Write for example {file: gpus.csv, on: [gpu]}.")
            elif not path.is_file():
                self._fault(f"{where}.file", f"There is no file {path}.", f"Paths are relative to {self._root}.")
            else:
                files.append(DescriptorFile(path=path, on=on))
        return tuple(files)

    def _items(self, key: str, value: object) -> Sequence[tuple[str, dict[str, object]]]:
        if not isinstance(value, list):
            self._fault(key, f"{value!r} is no list.", "Write a list, each item with a dash.")
            return []
        items = []
        for position, item in enumerate(value):
            if isinstance(item, dict):
                items.append((f"{key}[{position}]", item))
            else:
                self._fault(f"{key}[{position}]", f"{item!r} has no keys.", "Write {key: value} pairs.")
        return items

    def _min_rows(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
        self._fault("min_rows", f"{value!r} is no count.", "Write a whole number of 1 or more.")
        return 1

    def _check_names(self, task_file: TaskFile) -> None:
        for parameter in task_file.parameters:
            if parameter.name in task_file.group_by:
                self._fault(
                    f"parameters.{parameter.name}",
                    f"{parameter.name!r} names the task and is searched at once.",
                    "Take it out of group_by or parameters.",
                )
